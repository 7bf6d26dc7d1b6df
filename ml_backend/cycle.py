"""The counts that decide what a project needs next, taken from the store and the snapshots."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from ml_backend import round_steps
from ml_backend.labels import RegionLabel, count_changes, trainable_labels, trained_labels
from ml_backend.runtime import Runtime
from ml_backend.state import CycleState
from ml_backend.store import Event, Project, Round
from training.errors import SnapshotError
from training.regions import RegionId
from training.snapshot import Snapshot

log = logging.getLogger(__name__)


@dataclass
class Cycle:
    """Counts for `next_step`; remembers what each snapshot holds, and when failures were seen."""

    runtime: Runtime
    _trained: dict[tuple[int, int], dict[RegionId, RegionLabel]] = field(default_factory=dict)
    # When to try a failed round again, by its tries: seconds of the steady clock.
    _retry_at: dict[tuple[int, int, int], float] = field(default_factory=dict)

    def requests(self) -> list[Event]:
        """Who asked for a training and was not served yet."""
        return self.runtime.store.pending_events(actions=round_steps.TRAIN_ACTIONS)

    def state(self, project: Project) -> CycleState:
        """Count what `next_step` decides on."""
        store = self.runtime.store
        rounds = store.rounds(project.id)
        last = rounds[-1] if rounds else None
        labels = trainable_labels(store, project.id)
        asked = store.count_queries(project.id)
        pool = store.images(project.id, split="pool", status="ready")
        done = [r for r in rounds if r.state == "done"]
        before = self._labels_of(done[-1]) if done else {}
        return CycleState(
            running=last is not None and last.state not in ("done", "failed"),
            requested=any(e.project_id == project.id for e in self.requests()),
            open_queries=asked.get("open", 0),
            unpushed_queries=asked.get("planned", 0) + asked.get("pushing", 0),
            pool_left=sum(i.region_count for i in pool) - sum(asked.values()),
            trainable=len(labels),
            new_labels=count_changes(labels, before),
            train_every=project.train_every,
            failed=last is not None and last.state == "failed",
            retry_due=last is not None and self._retry_due(last),
        )

    def _retry_due(self, row: Round) -> bool:
        """Whether the pause after a failure is over, counted from when this worker saw it."""
        if row.state != "failed" or row.retry_in_s is None:
            return False
        key = (row.project_id, row.number, row.attempts)
        now = time.monotonic()
        return now >= self._retry_at.setdefault(key, now + row.retry_in_s)

    def _labels_of(self, row: Round) -> dict[RegionId, RegionLabel]:
        key = (row.project_id, row.number)
        if key not in self._trained:
            path = self.runtime.snapshot_dir(*key)
            try:
                self._trained[key] = trained_labels(Snapshot.load(path))
            except SnapshotError as error:
                log.warning(
                    "snapshot of round %s cannot be read, so all labels are new: %s",
                    row.number,
                    error,
                )
                self._trained[key] = {}
        return self._trained[key]
