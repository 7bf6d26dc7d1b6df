"""What the web processes share about log-ins: attempts so far, and which sessions are good."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ml_backend.errors import BackendError
from ml_backend.locks import file_lock
from training.files import read_json, write_json

log = logging.getLogger(__name__)

WINDOW_S = 900.0
PER_ADDRESS = 5
# A guesser with many addresses gets no further than this; it is also the most that is remembered.
IN_ALL = 30


class TooManyAttempts(BackendError):
    """So many log-ins were tried that even the right password is refused for a while."""

    status = 429

    def __init__(self, wait_s: float) -> None:
        self.retry_after = max(1, int(wait_s) + 1)
        super().__init__(
            "Too many log-ins were tried.", f"Wait {self.retry_after} seconds, then try again."
        )


@dataclass
class _State:
    """`generation` is part of every session: another one, and none of them is good any more."""

    generation: str = field(default_factory=lambda: secrets.token_hex(16))
    attempts: list[tuple[float, str]] = field(default_factory=list)


class Ledger:
    """One file below HOME, so that two web processes count together and a restart forgets nothing.

    Every method raises BackendError, status 503, where the file cannot be written: no log-in then.
    """

    def __init__(self, home: Path, now: Callable[[], float] = time.time) -> None:
        self._path = home / "dashboard.json"
        self._lock = home / "locks" / "dashboard.lock"
        self._now = now

    def generation(self) -> str:
        """The generation of the sessions that are good."""
        found = self._read()
        if found is not None:
            return found.generation
        with self._changed() as state:
            return state.generation

    def end_sessions(self) -> None:
        """Make every session bad; there is one admin, who logged out."""
        with self._changed() as state:
            state.generation = secrets.token_hex(16)

    def attempt(self, address: str | None) -> None:
        """Count a log-in before its password is looked at.

        Raises:
            TooManyAttempts: from this address, or in all; it is then not counted, so that the wait
                ends however often somebody asks.
        """
        who = _who(address)
        with self._changed() as state:
            now = self._now()
            state.attempts = [(t, w) for t, w in state.attempts if now - WINDOW_S < t <= now]
            own = [t for t, w in state.attempts if w == who]
            everybody = [t for t, _ in state.attempts]
            for times, limit in ((own, PER_ADDRESS), (everybody, IN_ALL)):
                if len(times) >= limit:
                    raise TooManyAttempts(min(times) + WINDOW_S - now)
            state.attempts.append((now, who))

    def forgive(self, address: str | None) -> None:
        """Forget the attempts of an address that has just logged in."""
        who = _who(address)
        with self._changed() as state:
            state.attempts = [(t, w) for t, w in state.attempts if w != who]

    @contextmanager
    def _changed(self) -> Iterator[_State]:
        try:
            with file_lock(self._lock, what="the log-ins"):
                state = self._read() or _State()
                yield state
                record = {"generation": state.generation, "attempts": state.attempts}
                write_json(self._path, record)
        except OSError as error:
            raise BackendError(
                f"Log-ins cannot be recorded: {error.strerror}.",
                "Make room on the disk of PIXBAL_HOME, and let the backend write there.",
                status=503,
            ) from error

    def _read(self) -> _State | None:
        try:
            raw = read_json(self._path)
            attempts = [(float(t), str(w)) for t, w in raw["attempts"]]
            return _State(str(raw["generation"]), attempts)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            # A new generation ends every session: damaged means nobody is logged in.
            log.warning("dashboard.json is damaged and made anew: %s", error)
            return None


def _who(address: str | None) -> str:
    """One name for what one guesser can easily vary: of IPv6 the network, not the address."""
    try:
        ip = ipaddress.ip_address((address or "").split("%", 1)[0])
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
