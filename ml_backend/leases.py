"""The leases of this process: taken, kept alive, given back; those of others, watched."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

from sqlalchemy.exc import DBAPIError

from ml_backend.errors import Conflict, LeaseLost
from ml_backend.failures import reason_of
from ml_backend.store import Lease, Store, fenced

log = logging.getLogger(__name__)

EXIT_LOST = 75  # EX_TEMPFAIL: whoever started the worker may start it again


def steady_clock() -> float:
    """Seconds that no change of the wall clock moves, and that go on while the machine sleeps."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


@dataclass
class _Watched:
    token: int
    beat: int
    looked: float
    silent_s: float = 0.0


@dataclass
class Keeper:
    """Takes leases in the name of one worker.

    `beat` must be called every `beat_s` seconds or so, from a thread of its own. A lease of
    somebody else whose beat stood still for `ttl_s` seconds of our own clock may be taken.
    """

    store: Store
    worker_id: str
    ttl_s: float
    clock: Callable[[], float] = steady_clock
    _held: dict[str, Lease] = field(default_factory=dict)
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _turns: dict[str, threading.Lock] = field(default_factory=dict)
    _guard: threading.RLock = field(default_factory=threading.RLock)

    @property
    def holder(self) -> str:
        """Who we are: two machines that were given one id are two holders."""
        return f"{self.worker_id}@{socket.gethostname()}"

    @property
    def name(self) -> str:
        """The lease of the worker itself: it is held as long as the process runs."""
        return worker_lease(self.worker_id)

    @property
    def beat_s(self) -> float:
        """Pause between two beats: several of them fit into `ttl_s`."""
        return beat_pause_s(self.ttl_s)

    def start(self) -> None:
        """Take the worker's own lease, at once where the last holder was on this machine.

        Raises:
            Conflict: a worker of this id lives on another machine.
        """
        deadline = self.clock() + 2 * self.ttl_s
        while not self.take(self.name):
            if self.clock() > deadline:
                raise Conflict(
                    f"A worker with the id {self.worker_id} is running on another machine.",
                    "Give each worker a PIXBAL_WORKER_ID of its own.",
                )
            time.sleep(self.beat_s)

    def beat(self) -> None:
        """Renew what is held and look at what others hold.

        Raises:
            LeaseLost: somebody took over a lease of ours.
        """
        with self._guard:
            held = list(self._held.values())
        for lease in self.store.renew_leases(held):
            if self._held.get(lease.name) == lease:  # not one given back meanwhile
                raise self._lost(lease)
        now = self.clock()
        rows = self.store.leases()
        with self._guard:
            for row in rows:
                self._watch(row, now)

    def verify(self) -> None:
        """Ask the store whether everything held is still ours.

        Raises:
            LeaseLost: it is not.
        """
        with self._guard:
            held = list(self._held.values())
        for lease in held:
            row = self.store.lease(lease.name)
            if (row is None or row.token != lease.token) and self._held.get(lease.name) == lease:
                raise self._lost(lease)

    def _lost(self, lease: Lease) -> LeaseLost:
        row = self.store.lease(lease.name)
        return LeaseLost(lease.name, self.holder, None if row is None else row.holder)

    def _watch(self, row: Lease, now: float) -> float:
        """Seconds for which a lease has stood still while we looked."""
        last = self._watched.get(row.name)
        if last is None or (last.token, last.beat) != (row.token, row.beat):
            last = self._watched[row.name] = _Watched(row.token, row.beat, now)
        # While we did not look (stopped, or the database was away) others could not beat either.
        last.silent_s += min(now - last.looked, self.ttl_s / 5)
        last.looked = now
        return last.silent_s

    def take(self, name: str) -> Lease | None:
        """Take a lease that is free, ours from before, or silent; None where its holder lives."""
        row = self.store.lease(name)
        if row is not None:
            with self._guard:
                silent_s = self._watch(row, self.clock())
            if row.holder not in (None, self.holder) and silent_s < self.ttl_s:
                return None
        lease = self.store.take_lease(name, self.holder, row)
        if lease is None:
            return None
        if row is not None and row.holder not in (None, self.holder):
            log.warning("lease %s taken over from %s, which was silent", name, row.holder)
        with self._guard:
            self._held[name] = lease
        return lease

    def release(self, name: str) -> None:
        """Give a lease back, if it is held."""
        with self._guard:
            lease = self._held.pop(name, None)
        if lease is not None:
            self.store.release_lease(lease)

    def stop(self) -> None:
        """Give everything back, so that nobody has to wait for it."""
        for name in list(self._held):
            self.release(name)

    @contextmanager
    def turn(self, *names: str, wait: bool = True) -> Iterator[bool]:
        """Hold leases for a while; every write inside needs them and the worker's own.

        Yields:
            Whether they are held: always, but for `wait` false and somebody else at work.
        """
        taken: list[str] = []
        try:
            for name in names:
                if not self._enter(name, wait):
                    yield False
                    return
                taken.append(name)
            with self._guard:
                leases = [self._held[name] for name in (self.name, *names) if name in self._held]
            with fenced(*leases):
                yield True
        finally:
            for name in reversed(taken):
                self._leave(name)

    def _leave(self, name: str) -> None:
        """Give a lease back, to the others and to the threads of this process.

        Where the store cannot be written (a full disk), the lease stays ours and falls silent: the
        next turn here takes it at once, another worker after `ttl_s`.
        """
        try:
            self.release(name)
        except DBAPIError as error:
            log.warning("lease %s could not be given back: %s", name, reason_of(error))
        finally:
            self._turn_of(name).release()

    def _turn_of(self, name: str) -> threading.Lock:
        with self._guard:
            return self._turns.setdefault(name, threading.Lock())

    def _enter(self, name: str, wait: bool) -> bool:
        """First among the threads of this process, then among the processes."""
        turn = self._turn_of(name)
        if not turn.acquire(blocking=wait):
            return False
        told = False
        try:
            while self.take(name) is None:
                if not wait:
                    turn.release()
                    return False
                if not told:
                    row = self.store.lease(name)
                    log.info("waiting for %s, held by %s", name, row.holder if row else "nobody")
                    told = True
                time.sleep(min(0.5, self.beat_s))
                self.verify()
        except BaseException:
            turn.release()
            raise
        return True


@contextmanager
def holding(store: Store, lease_s: float, lease: str, *, wait: bool = True) -> Iterator[Keeper]:
    """Hold a lease for a command, which is no worker.

    Raises:
        Conflict: somebody else holds it and `wait` is false.
        LeaseLost: from writes inside, where this process stood still and lost it.
    """
    keeper = Keeper(store, f"command-{os.getpid()}", lease_s)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(keeper.beat_s):
            try:
                keeper.beat()
            except LeaseLost:
                return  # the next write inside says so
            except Exception as error:
                log.warning("no heartbeat: %s", reason_of(error))

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        with keeper.turn(lease, wait=wait) as held:
            if not held:
                row = store.lease(lease)
                who = row.holder if row else "nobody"
                raise Conflict(
                    f"{who} is at work there: {lease}.",
                    "Wait until it is done, then try again; `pixbal status` shows it.",
                )
            yield keeper
    finally:
        stop.set()
        thread.join()


def beat_pause_s(ttl_s: float) -> float:
    """Pause between two beats of whoever is lost after `ttl_s` seconds of silence."""
    return min(2.0, ttl_s / 6)


def worker_lease(worker_id: str) -> str:
    """Name of a worker's own lease."""
    return f"worker:{worker_id}"


def project_lease(project_id: int) -> str:
    """Name of the lease that a round of this project needs: its record, its work folder."""
    return f"project:{project_id}"


def push_lease(project_id: int) -> str:
    """Name of the lease for the questions of this project in Label Studio.

    Not that of its rounds: questions are pushed and scored anew while a model trains.
    """
    return f"push:{project_id}"


def device_lease(device: str) -> str | None:
    """Name of the lease of a GPU, by what its driver calls it everywhere; None for a CPU."""
    import torch

    from training.device import pick_device

    found = pick_device(device)
    if found.type == "cpu":
        return None
    if found.type == "cuda":
        return f"gpu:{torch.cuda.get_device_properties(found).uuid}"
    return f"gpu:{socket.gethostname()}:{found}"


def give_up(error: LeaseLost) -> NoReturn:
    """End this process at once: what it would still write belongs to another worker."""
    log.critical("%s This worker stops.", error)
    logging.shutdown()
    os._exit(EXIT_LOST)
