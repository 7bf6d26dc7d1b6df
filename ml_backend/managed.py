"""One child process: log in a file, readiness by polling, stop by process id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ml_backend.errors import BackendError

LOOPBACK = "127.0.0.1"


class ProcessError(BackendError):
    """A child did not start or did not become ready; the hint quotes the end of its log."""


def free_port(host: str = LOOPBACK) -> int:
    """A TCP port nobody listens on now; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_until(
    ready: Callable[[], bool], *, timeout_s: float, alive: Callable[[], bool], every_s: float = 0.1
) -> bool:
    """Poll `ready` until it is true; False as soon as `alive` is false or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not alive():
            return False
        if ready():
            return True
        time.sleep(every_s)
    return False


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """True when a GET of `url` comes back with any HTTP status below 500."""
    # No proxies: these are our own children on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as response:
            return bool(response.status < 500)
    except urllib.error.HTTPError as error:
        with error:
            return error.code < 500
    except (OSError, ValueError):
        return False


class ManagedProcess:
    """One child process with its log in a file; a context manager that starts and stops it.

    `env` is the whole environment of the child. The child leads a process group of its own, so that
    Ctrl-C in the terminal reaches only the parent, which then stops its children in order.
    """

    name = "process"
    stop_timeout_s = 20.0

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path | None = None
    ) -> None:
        self.command = tuple(command)
        self.env = dict(env)
        self.log = log
        self.cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id; None before `start` and after `stop`."""
        return None if self._child is None else self._child.pid

    @property
    def running(self) -> bool:
        """True while the child lives."""
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit status of a child that ended by itself; -N = signal N, None while it runs."""
        return None if self._child is None else self._child.poll()

    def launch(self) -> None:
        """Start the child and do not wait; ProcessError if it runs already."""
        if self.running:
            raise ProcessError(f"{self.name} runs already (pid {self.pid}).", hint="Stop it first.")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            try:
                self._child = subprocess.Popen(
                    self.command,
                    env=self.env,
                    cwd=self.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessError(
                    f"{self.name} could not be started: {self.command[0]}: {error.strerror}.",
                    hint="Check that the program is installed and may be executed.",
                ) from error

    def ready(self) -> bool:
        """True when the child does its work; subclasses with a port ask it."""
        return self.running

    def start(self, timeout_s: float = 60.0) -> Self:
        """Launch and wait until ready; on failure the child is stopped and ProcessError raised."""
        self.launch()
        try:
            if not wait_until(self.ready, timeout_s=timeout_s, alive=lambda: self.running):
                code = self.exit_code
                late = f"not ready after {timeout_s:g} s"
                reason = late if code is None else f"ended with {code}"
                raise ProcessError(
                    f"{self.name} did not start: {reason}.",
                    hint=f"Its log is {self.log}; it ends with:\n{self.log_tail()}",
                )
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> int | None:
        """SIGTERM, then SIGKILL for the group of a child that is late; returns its exit status."""
        child, self._child = self._child, None
        if child is None:
            return None
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(self.stop_timeout_s)
        # Also after an orderly end: a killed server may leave helpers of its own in the group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        return child.wait()

    def kill(self) -> None:
        """SIGKILL the child and its group at once, as a crash would."""
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the log; empty when there is none."""
        if not self.log.is_file():
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
