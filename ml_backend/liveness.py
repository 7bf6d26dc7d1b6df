"""Which workers live: asked of their leases, for everybody who shows or checks it.

A holder counts `beat` up while it lives. Its clock says nothing here, nor does a file: several
workers share a home, and one that lives would hide one that is dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ml_backend.leases import beat_pause_s, steady_clock, worker_lease
from ml_backend.settings import Settings
from ml_backend.store import Lease, Store

# Beats that must stay away before a worker counts as silent, and the least time to look for them:
# a beat is late where the database is busy. Two of the container's 8 s are for starting Python.
MISSED_BEATS = 2.5
LEAST_S = 1.0


@dataclass(frozen=True)
class WorkerSign:
    """A worker that has not stopped in order; `held` are the leases of its work.

    `silent_s` is how long its lease stood still while somebody looked, not since its last beat.
    """

    id: str
    holder: str
    alive: bool
    silent_s: float
    held: tuple[str, ...] = ()


@dataclass
class _Seen:
    token: int
    beat: int
    since: float
    looked: float
    rose: bool = False
    dead: bool = False


class Watch:
    """Looks at the leases of workers, as often as somebody asks; safe to share between threads.

    The first look waits until each lease has beaten or has missed its beats, some seconds at most.
    Later ones answer at once, as long as they come within PIXBAL_LEASE_S of each other.
    """

    def __init__(
        self,
        store: Store,
        lease_s: float,
        *,
        clock: Callable[[], float] = steady_clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._lease_s = lease_s
        self._clock = clock
        self._sleep = sleep
        self._patience_s = max(LEAST_S, MISSED_BEATS * beat_pause_s(lease_s))
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    def look(self, worker_id: str | None = None) -> list[WorkerSign]:
        """The workers that hold their lease, or only this one; those that stopped are left out."""
        deadline = self._clock() + self._patience_s
        while True:
            leases = self._store.leases()
            now = self._clock()
            found = self._judged(leases, worker_id, now)
            if now >= deadline or all(alive is not None for _, alive in found):
                return [self._sign(row, bool(alive), leases, now) for row, alive in found]
            self._sleep(min(0.25, self._patience_s / 5))

    def _judged(
        self, leases: Sequence[Lease], worker_id: str | None, now: float
    ) -> list[tuple[Lease, bool | None]]:
        prefix = worker_lease("")
        with self._lock:
            return [
                (row, self._judge(row, now))
                for row in leases
                if row.name.startswith(prefix)
                and row.holder
                and worker_id in (None, row.name.removeprefix(prefix))
            ]

    def _judge(self, row: Lease, now: float) -> bool | None:
        """Whether its holder lives; None: not looked for long enough."""
        last = self._seen.get(row.name)
        same = last is not None and (last.token, last.beat) == (row.token, row.beat)
        if last is None or (now - last.looked > self._lease_s and not (same and last.dead)):
            # Nobody looked for so long that an old beat says nothing about now.
            self._seen[row.name] = _Seen(row.token, row.beat, now, now)
            return None
        if not same:
            self._seen[row.name] = _Seen(row.token, row.beat, now, now, rose=True)
            return True
        last.looked = now
        last.dead |= now - last.since >= (self._lease_s if last.rose else self._patience_s)
        return False if last.dead else True if last.rose else None

    def _sign(self, row: Lease, alive: bool, leases: Sequence[Lease], now: float) -> WorkerSign:
        assert row.holder is not None  # the judged ones have one
        held = tuple(w.name for w in leases if w.holder == row.holder and w.name != row.name)
        with self._lock:
            silent_s = now - self._seen[row.name].since
        name = row.name.removeprefix(worker_lease(""))
        return WorkerSign(name, row.holder, alive, silent_s, held)


def look_at_workers(
    settings: Settings, store: Store, worker_id: str | None = None
) -> list[WorkerSign]:
    """One look, for a command: it waits for one beat of each worker, some seconds at most."""
    return Watch(store, settings.lease_s).look(worker_id)
