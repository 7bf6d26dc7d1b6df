"""The counts that decide what a project needs next, taken from the store and the snapshots."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ml_backend import asking, round_steps
from ml_backend.labels import RegionLabel, count_changes, trainable_labels, trained_labels
from ml_backend.runtime import Runtime
from ml_backend.state import CycleState, Step, next_step
from ml_backend.store import Event, Project, Round
from training.errors import SnapshotError
from training.regions import RegionId
from training.snapshot import Snapshot

log = logging.getLogger(__name__)


@dataclass
class Cycle:
    """Counts for `next_step`; remembers what each snapshot holds, and when failures were seen."""

    runtime: Runtime
    clock: Callable[[], float] = time.monotonic
    _trained: dict[str, dict[RegionId, RegionLabel]] = field(default_factory=dict)
    # By project: what the scores were read from, and the regions that have one.
    _askable: dict[int, tuple[Any, dict[str, list[int]] | None]] = field(default_factory=dict)
    # When to try a failed round again, by its tries: seconds of the steady clock.
    _retry_at: dict[tuple[int, int, int], float] = field(default_factory=dict)

    def requests(self, project_id: int) -> list[Event]:
        """Who asked for a training and was not served yet."""
        return asking.requests(self.runtime.store, project_id, *asking.TRAIN_ACTIONS)

    def pushes(self, project_id: int) -> list[Event]:
        """Who asked for questions and was not served yet."""
        return asking.requests(self.runtime.store, project_id, asking.PUSH)

    def state(self, project: Project) -> CycleState:
        """Count what `next_step` decides on."""
        store = self.runtime.store
        rounds = store.rounds(project.id)
        last = rounds[-1] if rounds else None
        labels = trainable_labels(store, project.id)
        asked = store.count_queries(project.id)
        requests = self.requests(project.id)
        done = [r for r in rounds if r.state == "done"]
        before = self._labels_of(done[-1]) if done else {}
        return CycleState(
            running=last is not None and last.state not in ("done", "failed"),
            requested=bool(requests),
            push_requested=bool(self.pushes(project.id)),
            may_push=round_steps.why_no_push(project) is None,
            may_train=project.state in ("active", "importing"),
            open_queries=asked.get("open", 0),
            unpushed_queries=asked.get("planned", 0) + asked.get("pushing", 0),
            stale_queries=len(asking.stale_questions(store, project)),
            pool_left=0 if asked.get("open", 0) else self._pool_left(project),
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
        now = self.clock()
        return now >= self._retry_at.setdefault(key, now + row.retry_in_s)

    def _pool_left(self, project: Project) -> int:
        """Regions that can still be asked: never asked, and given a score by the version in use.

        One that vanishes at the network's size has no score, ever; to wait for it would leave the
        project without an end. Before the pool is scored every region may be one.
        """
        store = self.runtime.store
        asked: dict[str, set[int]] = {}
        for query in store.queries(project.id):
            asked.setdefault(query.image_id, set()).add(query.region_index)
        scored = self._askable_regions(project)
        left = 0
        for image in store.images(project.id, split="pool", status="ready"):
            regions = (
                range(image.region_count) if scored is None else scored.get(image.image_id, [])
            )
            left += len(set(regions) - asked.get(image.image_id, set()))
        return left

    def _askable_regions(self, project: Project) -> dict[str, list[int]] | None:
        """By image, the regions with a score; None where the pool is not scored. Read once."""
        path = self.runtime.scores_path(project.id, round_steps.name_in_use(project))
        pool = self.runtime.store.images(project.id, split="pool", status="ready")
        images = frozenset(i.image_id for i in pool)  # some may have come and others gone
        key = (str(path), path.stat().st_mtime_ns if path.exists() else 0, images)
        if self._askable.get(project.id, (None, None))[0] != key:
            scores = round_steps.scores_in_use(self.runtime, project)
            found = None if scores is None else {
                i.image_id: np.flatnonzero(np.isfinite(scores.images[i.image_id].score)).tolist()
                for i in pool
            }  # fmt: skip
            self._askable[project.id] = (key, found)
        return self._askable[project.id][1]

    def _labels_of(self, row: Round) -> dict[RegionId, RegionLabel]:
        key = row.workflow_id  # a forgotten project's number may come back
        if key not in self._trained:
            path = self.runtime.snapshot_dir(row.project_id, row.number)
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


def why_no_training(project: Project, state: CycleState) -> str:
    """Why a request to train leads to no round, for whoever asked."""
    if not state.may_train:
        return f"The project is {project.state}: `pixbal project resume --project {project.id}`."
    if state.trainable == 0:
        waiting = f"{state.open_queries} questions are open" if state.open_queries else "none open"
        return f"There is no answer to train on yet ({waiting})."
    return "No label is new since the last round."


def why_not_now(runtime: Runtime, project_id: int) -> str | None:
    """Why a request to train would lead to nothing if it were made now; None where it would.

    Answers that only Label Studio knows are not looked for: while questions are pushed, or a round
    runs, a request may be for what comes next.
    """
    project = runtime.project(project_id)
    state = replace(Cycle(runtime).state(project), requested=True)
    if state.running or state.unpushed_queries or next_step(state) is Step.TRAIN:
        return None
    return why_no_training(project, state)
