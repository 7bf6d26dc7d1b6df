"""Rounds whose work stands still: their worker is lost, or an accident parted row and engine.

A round is a row of the store and a workflow of the engine. They lie in two databases, and either
may have missed a write: a full disk, a restored backup, a kill between the two. No such state may
be a dead end.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ml_backend.engine import MOST_RECOVERIES, Engine
from ml_backend.failures import pause_before_retry
from ml_backend.leases import Keeper, project_lease, worker_lease
from ml_backend.store import Round, Store

log = logging.getLogger(__name__)

IDLE_S = 5.0  # a thread may be between the engine's record and its first line
DIED_TOO_OFTEN = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


def unfinished(store: Store) -> list[Round]:
    """Rounds of every project that are neither done nor failed."""
    found = [row for project in store.projects() for row in store.rounds(project.id)]
    return [row for row in found if row.state not in ("done", "failed")]


@dataclass
class Rescue:
    """Looks at unfinished rounds every few seconds and sets those going that stand still."""

    store: Store
    keeper: Keeper
    engine: Engine
    retry_s: float
    clock: Callable[[], float] = time.monotonic
    _looked_at: float = -math.inf
    # By workflow: since when nobody is at it, rescues, the time before the next one.
    _idle_since: dict[str, float] = field(default_factory=dict)
    _tries: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        """Take up what stands still; does nothing if the last look was just now."""
        now = self.clock()
        if now - self._looked_at < 2 * self.keeper.beat_s:
            return
        self._looked_at = now
        for row in unfinished(self.store):
            state = self.engine.state(row)
            if state.kind == "unknown":
                self.engine.start(row)  # it was recorded and never queued
            elif state.kind == "ended":
                self._settle(row, state.how)
            elif state.kind == "pending" and state.worker == self.keeper.worker_id:
                self._go_on(row, now)
            elif state.kind == "pending" and state.worker is not None:
                self._take_over(row, state.worker)

    def _take_over(self, row: Round, lost: str) -> None:
        """Go on with the round of a worker that was silent for `PIXBAL_LEASE_S`, or stopped.

        Taking its lease fences it off first, should it only have been frozen.
        """
        if not self.keeper.take(worker_lease(lost)):
            return
        log.warning(
            "round %s of project %s: taken over from worker %s", row.number, row.project_id, lost
        )
        note = f"worker {lost} was lost; taken over by {self.keeper.worker_id}"
        self.store.update_round(row.project_id, row.number, note=note)
        self.engine.recover(lost)
        self.keeper.release(worker_lease(lost))

    def _go_on(self, row: Round, now: float) -> None:
        """Queue again what is ours and what no thread is at.

        Its thread could not record how a step ended, as where the disk was full.
        """
        key = row.workflow_id
        if self.engine.runs_here(row):
            self._idle_since.pop(key, None)
            return
        idle_s = now - self._idle_since.setdefault(key, now)
        if idle_s < IDLE_S or now < self._not_before.get(key, 0.0):
            return
        # Written first: while the store takes nothing, there is no use in going on.
        self.store.update_round(row.project_id, row.number, note="taken up again after an accident")
        log.warning("round %s of project %s stood still: taken up again", row.number,
                    row.project_id)  # fmt: skip
        self._tries[key] = self._tries.get(key, 0) + 1
        self._not_before[key] = now + self.retry_s * 2 ** min(self._tries[key], 5)
        self._idle_since.pop(key)
        self.engine.recover(self.keeper.worker_id)

    def _settle(self, row: Round, how: str) -> None:
        """Record the end of a round that the engine knows of and the row does not."""
        with self.keeper.turn(project_lease(row.project_id), wait=False) as held:
            # The row's last word comes before the engine's: one that was read earlier may be old.
            if not held or self.store.round(row.project_id, row.number) != row:
                return
            if how == "SUCCESS" and row.finished_at is not None and row.version is not None:
                # Release 0.1.0 wrote "scoring" over "done" when questions were pushed afterwards.
                self.store.update_round(row.project_id, row.number, state="done", error=None)
            else:
                self._record_failure(row, how)

    def _record_failure(self, row: Round, how: str) -> None:
        error: Exception
        if how == DIED_TOO_OFTEN:
            error = RuntimeError(
                f"The worker died {MOST_RECOVERIES} times in this round. If the system "
                "ended it for want of memory, free some, or lower model.short_side."
            )
            pause = None  # it would kill the worker again
        else:
            error = RuntimeError(f"The round was cut off: the engine recorded {how}.")
            pause = pause_before_retry(error, row.attempts, self.retry_s)
        log.warning("round %s of project %s: %s", row.number, row.project_id, error)
        self.store.update_round(
            row.project_id, row.number, state="failed", error=str(error), retry_in_s=pause,
            finished_at=datetime.now(UTC),
        )  # fmt: skip
