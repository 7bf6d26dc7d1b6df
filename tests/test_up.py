"""`pixbal up`: backend and worker together; each is started again if it dies, both stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ml_backend.liveness import look_at_workers
from ml_backend.managed import answers
from ml_backend.processes import ManagedProcess, free_port
from ml_backend.settings import Settings
from ml_backend.store import Store

pytestmark = pytest.mark.slow


def wait_for(what: str, true: Callable[[], object], process: ManagedProcess) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert process.running, process.log_tail()
        assert time.monotonic() < deadline, f"{what}: {process.log_tail()}"
        time.sleep(0.1)


def children(pid: int) -> dict[str, int]:
    """Process ids of the direct children by what they are."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        found["backend" if "gunicorn" in words else "worker"] = int(child)
    return found


def test_up_keeps_both_running_and_stops_both(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "PIXBAL_HOME": str(tmp_path / "home"),
        "PIXBAL_PORT": str(port),
        # No project is known yet, so nobody is asked there.
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "0" * 40,
    }
    up = ManagedProcess(
        [sys.executable, "-m", "ml_backend.cli", "up"], env=environment, log=tmp_path / "up.log"
    )
    with up, ExitStack() as stack:
        wait_for("the backend", lambda: answers(f"http://127.0.0.1:{port}/health"), up)
        settings = Settings.from_env(environment)
        store = stack.enter_context(Store.open(settings.database_url))

        def alive() -> bool:
            return any(worker.alive for worker in look_at_workers(settings, store))

        wait_for("the worker", alive, up)
        assert up.pid is not None
        before = children(up.pid)
        assert set(before) == {"backend", "worker"}
        os.kill(before["worker"], signal.SIGKILL)
        wait_for("a new worker", lambda: children(up.pid or 0).get("worker", 0) not in
                 (0, before["worker"]), up)  # fmt: skip
        wait_for("its heartbeat", alive, up)
        after = children(up.pid)
        assert after["backend"] == before["backend"]
        assert up.stop() == 0
    for pid in after.values():
        assert not Path(f"/proc/{pid}").exists()
