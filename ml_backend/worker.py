"""The worker process: applies events, reconciles, decides, and runs the durable rounds."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.exc import DBAPIError

from ml_backend import asking, round_steps, workflow
from ml_backend.copies import remove_copies
from ml_backend.cycle import Cycle
from ml_backend.errors import BackendError, LeaseLost
from ml_backend.failures import reason_of
from ml_backend.label_studio import LabelStudio
from ml_backend.leases import Keeper, give_up, project_lease
from ml_backend.locks import file_lock, worker_lock
from ml_backend.logs import configure_logging
from ml_backend.reconcile import ReconcileReport, reconcile
from ml_backend.rescue import Rescue
from ml_backend.runtime import Runtime
from ml_backend.settings import Settings
from ml_backend.state import CycleState, Step, next_step
from ml_backend.store import Project, Store
from training.errors import TrainingError

log = logging.getLogger(__name__)

# Between two decisions nothing may have come in; look anyway, since time passes and files change.
DECIDE_EVERY_S = 10.0


@dataclass
class Worker:
    """One per home and worker id. `run` blocks until it is told to stop."""

    runtime: Runtime
    stop: threading.Event = field(default_factory=threading.Event)
    keeper: Keeper = field(init=False)
    cycle: Cycle = field(init=False)
    rescue: Rescue = field(init=False)
    _reconcile_at: dict[int, float] = field(default_factory=dict)
    _decided: float = 0.0

    def __post_init__(self) -> None:
        settings = self.runtime.settings
        store = self.runtime.store
        self.keeper = Keeper(store, settings.worker_id, settings.lease_s)
        self.cycle = Cycle(self.runtime)
        self.rescue = Rescue(store, self.keeper, settings.retry_s)

    def run(self) -> None:
        """Take up what was running, then poll until stopped."""
        log.info("worker %s ready: home %s", self.keeper.worker_id, self.runtime.settings.home)
        while not self.stop.is_set():
            try:
                self.rescue.look()
                self.tick()
            except LeaseLost as error:
                give_up(error)
            except (BackendError, DBAPIError) as error:
                log.warning("%s", reason_of(error))
            except Exception:
                log.exception("the worker goes on after an unexpected error")
            self.stop.wait(self.runtime.settings.poll_s)

    def start_beating(self) -> None:
        """Take the worker's lease and keep it, and all others, alive from now on.

        Raises:
            Conflict: a worker with this id lives on another machine.
        """
        self.keeper.start()
        # In a thread of its own: a push or a walk over many tasks may take minutes.
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        while not self.stop.wait(self.keeper.beat_s):
            try:
                self.keeper.beat()
            except LeaseLost as error:
                give_up(error)
            except Exception as error:  # the database is away, the disk is full
                log.warning("no heartbeat: %s", reason_of(error))

    def tick(self) -> None:
        """One look: events, reconciliation, then what each project needs."""
        store = self.runtime.store
        came = round_steps.apply_pending_events(store)
        self._push_requested()
        found = self._reconcile_due()
        requests = self.cycle.requests()
        now = time.monotonic()
        if not (came or found or requests) and now - self._decided < DECIDE_EVERY_S:
            return
        self._decided = now
        for project in store.projects():
            if project.template != "image_masks":
                self.advance(project)

    def _push_requested(self) -> None:
        """Push for those who asked; what fails is kept aside with its reason, not tried again."""
        store = self.runtime.store
        for event in store.pending_events(actions=(asking.PUSH,)):
            project = None if event.project_id is None else store.project(event.project_id)
            error: str | None = None
            try:
                if project is not None:
                    with self.keeper.turn(project_lease(project.id), wait=False) as held:
                        if not held:
                            continue  # a round runs; it pushes at its end, and then we do
                        round_steps.push_next(self.runtime, project)
            except LeaseLost:
                raise
            except Exception as failure:
                error = reason_of(failure)
                log.warning("project %s: asked to push: %s", event.project_id, error)
            store.finish_event(event.id, error=error)

    def _reconcile_due(self) -> bool:
        """Ask Label Studio what the webhooks may have lost; True if labels changed."""
        changed = False
        now = time.monotonic()
        for project in self.runtime.store.projects():
            if project.template == "image_masks" or now < self._reconcile_at.get(project.id, 0.0):
                continue
            started = time.monotonic()
            self._reconcile_at[project.id] = started + self.runtime.settings.reconcile_s
            report = reconcile(self.runtime.store, self.runtime.ls, project.id, datetime.now(UTC))
            changed |= self._remove_copies(project.id, report)
            # A hundred thousand tasks take most of a minute: walk a tenth of the time at most.
            pause = max(self.runtime.settings.reconcile_s, 10 * (time.monotonic() - started))
            self._reconcile_at[project.id] = started + pause
            if report.changed or report.deleted:
                log.info("project %s: found by reconciliation: %s", project.id, report)
                changed = True
        return changed

    def _remove_copies(self, project_id: int, report: ReconcileReport) -> bool:
        """Unless somebody is at work there, whose push would look like copies."""
        if not report.copies:
            return False
        with self.keeper.turn(project_lease(project_id), wait=False) as held:
            if held:
                store, ls = self.runtime.store, self.runtime.ls
                remove_copies(store, ls, project_id, report.copies)
        return held

    def advance(self, project: Project) -> Step:
        """Do the one thing that the project needs, unless another worker is at it."""
        state = self.cycle.state(project)
        step = next_step(state)
        if step in (Step.WAIT, Step.DONE) and not state.requested:
            return step
        with self.keeper.turn(project_lease(project.id), wait=False) as held:
            # Looked at again: meanwhile another worker may have done it.
            return self._advance(project, self.cycle.state(project)) if held else Step.WAIT

    def _advance(self, project: Project, state: CycleState) -> Step:
        step = next_step(state)
        if step is Step.TRAIN:
            trigger = "request" if state.requested else "retry" if state.failed else "labels"
            self.start_round(project, trigger)
        elif step is Step.PUSH:
            round_steps.push_next(self.runtime, project)
        if state.requested and not state.running:
            if step is not Step.TRAIN:
                log.info("project %s: asked to train, but no label is new", project.id)
            for event in self.cycle.requests():
                if event.project_id == project.id:
                    self.runtime.store.finish_event(event.id)
        return step

    def start_round(self, project: Project, trigger: str) -> None:
        """Record the round, then queue it; killed in between, `Rescue` queues it."""
        store = self.runtime.store
        rounds = store.rounds(project.id)
        last = rounds[-1] if rounds else None
        if last is not None and last.state == "failed":
            attempt = last.attempts + 1
            number = last.number
            if trigger != "retry":  # else it goes on where it stopped
                self._clear_unfinished(project.id, number)
            key = workflow.workflow_id(project.id, number, attempt)
            store.update_round(
                project.id, number, state="queued", attempts=attempt, workflow_id=key,
                error=None, finished_at=None, retry_in_s=None,
            )  # fmt: skip
        else:
            number = last.number + 1 if last else 1
            key = workflow.workflow_id(project.id, number, 1)
            if not store.start_round(project.id, number, trigger, key):
                return
        row = store.round(project.id, number)
        if row is not None:
            log.info("project %s: round %s queued (%s)", project.id, number, trigger)
            workflow.start(row)

    def _clear_unfinished(self, project_id: int, number: int) -> None:
        """Before another try at a failed round: what trained is kept, what did not is made anew."""
        version = self.runtime.version_dir(project_id, number)
        if not version.exists():
            shutil.rmtree(self.runtime.snapshot_dir(project_id, number), ignore_errors=True)
            for folder in round_steps.work_folders(version):
                shutil.rmtree(folder, ignore_errors=True)


def main(settings: Settings) -> None:
    """Run the worker until SIGTERM or SIGINT.

    Raises:
        Conflict: another worker of this id holds this home.
    """
    configure_logging(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = worker_lock(settings.home, settings.worker_id)
    with file_lock(lock, what=f"the worker {settings.worker_id} of this home", wait=False):
        store = Store.open(settings.database_url)
        ls = LabelStudio.of(settings)
        runtime = Runtime(settings, store, ls)
        worker = Worker(runtime)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop.set())
        workflow.configure(runtime, worker.keeper)
        try:
            worker.start_beating()
            workflow.launch(settings)
            worker.run()
        finally:
            workflow.shut_down()
            worker.keeper.stop()
            ls.close()
            store.close()


def run_and_exit(settings: Settings) -> None:
    """Run the worker and end the process at once when it is told to stop.

    A training thread may still be in a step: it is not waited for, since it goes on from its
    checkpoint at the next start.
    """
    main(settings)
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    try:
        run_and_exit(Settings.from_env(os.environ))
    except (BackendError, TrainingError) as problem:
        raise SystemExit(str(problem)) from None
