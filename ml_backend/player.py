"""The steps of a round, and of a push beside rounds, each under the leases that it needs.

An engine calls them in order (`play`); every step may run twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from ml_backend import asking, round_steps
from ml_backend.errors import LeaseLost
from ml_backend.failures import pause_before_retry, reason_of, transient
from ml_backend.leases import Keeper, device_lease, give_up, project_lease, push_lease
from ml_backend.runtime import Runtime
from ml_backend.store import Project
from ml_backend.trouble import note_trouble

SUPERSEDED = -1  # of `reconcile`: another try at the round, or another engine, has finished it


def utc_now() -> datetime:
    """Now, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Player:
    """Does the steps in the name of one worker.

    Attributes:
        on_lost: called where a lease was lost meanwhile; must not return.
        now: the wall clock, for what people read.
    """

    runtime: Runtime
    keeper: Keeper
    on_lost: Callable[[LeaseLost], NoReturn] = give_up
    now: Callable[[], datetime] = utc_now

    @contextmanager
    def turn(self, *names: str) -> Iterator[Runtime]:
        """Hold the leases that a step needs; ends the process where one of them was lost.

        Nothing may be raised or returned then: the engine would record it as the outcome of a step
        that now belongs to another worker.
        """
        try:
            with self.keeper.turn(*names):
                try:
                    yield self.runtime
                finally:
                    self.keeper.verify()
        except LeaseLost as error:
            self.on_lost(error)

    def _device(self) -> tuple[str, ...]:
        gpu = device_lease(self.runtime.settings.device)
        return () if gpu is None else (gpu,)

    # A round

    def reconcile(self, project_id: int, number: int, key: str) -> int:
        """Bring the labels to what Label Studio says; how many can be trained on, or SUPERSEDED."""
        with self.turn(project_lease(project_id), push_lease(project_id)) as runtime:
            row = runtime.store.round(project_id, number)
            if row is None or row.state in ("done", "failed") or row.workflow_id != key:
                return SUPERSEDED
            project = runtime.project(project_id)
            if row.state == "queued" and project.state not in ("active", "importing"):
                # It waited behind others when somebody paused the project; resumed, it is due.
                runtime.store.update_round(
                    project_id, number, state="failed", finished_at=self.now(), retry_in_s=0.0,
                    error=f"The project was {project.state} before the round began.",
                )  # fmt: skip
                return SUPERSEDED
            return round_steps.reconcile_labels(runtime, project_id, number)

    def snapshot(self, project_id: int, number: int) -> str:
        """Freeze the labels and the settings; the folder."""
        with self.turn(project_lease(project_id)) as runtime:
            return round_steps.write_round_snapshot(runtime, project_id, number)

    def train(self, project_id: int, number: int, snapshot: str) -> str:
        """Both stages; the version's folder."""
        with self.turn(project_lease(project_id), *self._device()) as runtime:
            return round_steps.train_round(runtime, project_id, number, snapshot)

    def publish(self, project_id: int, number: int, folder: str) -> str:
        """The version is in use from here on; its name."""
        with self.turn(project_lease(project_id)) as runtime:
            return round_steps.publish_version(runtime, project_id, number, folder)

    def score(self, project_id: int, number: int) -> str:
        """Score the pool with the version in use; the file."""
        with self.turn(project_lease(project_id), *self._device()) as runtime:
            runtime.store.update_round(project_id, number, state="scoring")
            return str(round_steps.score_current(runtime, runtime.project(project_id)))

    def push(self, project_id: int, number: int) -> int:
        """Push the questions that follow the round; how many regions."""
        with self.turn(project_lease(project_id), push_lease(project_id)) as runtime:
            return round_steps.push_round(runtime, project_id, number)

    def finish(self, project_id: int, number: int, key: str, error: Exception | None) -> None:
        """Record the end of the round, unless another try has begun since."""
        with self.turn(project_lease(project_id)) as runtime:
            row = runtime.store.round(project_id, number)
            if row is None or row.workflow_id != key:
                return
            state: dict[str, object]
            if error is None:
                state = {"state": "done", "error": None, "retry_in_s": None}
            else:
                pause = pause_before_retry(error, row.attempts, runtime.settings.retry_s)
                state = {"state": "failed", "error": reason_of(error), "retry_in_s": pause}
            runtime.store.update_round(project_id, number, finished_at=self.now(), **state)

    # A push beside rounds

    def score_for_push(self, project_id: int) -> str:
        """Score the pool where the version in use has no scores for all of it; else nothing."""
        runtime = self.runtime
        project = runtime.store.project(project_id)
        if project is None or not self._lacks_scores(project):
            return ""
        # Random scores need no model, so they do not wait for a training that has the device.
        device = self._device() if project.current_version else ()
        # The device first: who waits for it, for hours maybe, keeps nobody else from pushing.
        with self.turn(*device, push_lease(project_id)):
            # Looked at again: it may have been scored, paused or forgotten while this waited.
            project = runtime.store.project(project_id)
            if project is None or not self._lacks_scores(project):
                return ""
            with self._trouble_noted(project_id):
                return str(round_steps.score_current(runtime, project))

    def _lacks_scores(self, project: Project) -> bool:
        """Whether a push of the project's questions would first have to score the pool."""
        if round_steps.why_no_push(project) is not None:
            return False
        return round_steps.scores_in_use(self.runtime, project) is None

    def push_next(self, project_id: int) -> int:
        """Push the next questions and answer those who asked for them; how many regions.

        Label Studio being away leaves requests as they are; the worker tries again.
        """
        with self.turn(push_lease(project_id)) as runtime:
            # Requests first: what is asked for after that, as by a roll-back, waits for the next.
            asked = asking.requests(runtime.store, project_id, asking.PUSH)
            project = runtime.store.project(project_id)
            if project is None or self._lacks_scores(project):
                return 0  # forgotten, or another version came into use: the next push scores first
            with self._trouble_noted(project_id):
                pushed, says = round_steps.push_next(runtime, project)
            note_trouble(runtime.store, project_id, None, self.now())
            asking.finish(runtime.store, asked, says)
            return pushed

    @contextmanager
    def _trouble_noted(self, project_id: int) -> Iterator[None]:
        """What a push fails of is said with the project, and to those who asked if it stays so."""
        store = self.runtime.store
        asked = asking.requests(store, project_id, asking.PUSH)
        try:
            yield
        except Exception as error:
            note_trouble(store, project_id, reason_of(error), self.now())
            if not transient(error):
                asking.finish(store, asked, reason_of(error))
            raise
