"""The worker process: applies events, reconciles, decides, and runs the durable rounds."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.exc import DBAPIError

from ml_backend import asking, round_steps
from ml_backend.copies import remove_copies
from ml_backend.cycle import Cycle, why_no_training
from ml_backend.engine import Engine, workflow_id
from ml_backend.errors import BackendError, LeaseLost
from ml_backend.failures import reason_of
from ml_backend.ingest import REGION_TEMPLATES
from ml_backend.label_studio import LabelStudio
from ml_backend.leases import Keeper, give_up, project_lease, push_lease
from ml_backend.locks import file_lock, worker_lock
from ml_backend.logs import configure_logging
from ml_backend.mask_refresh import MaskRefresh
from ml_backend.player import Player, utc_now
from ml_backend.reconcile import ReconcileReport, reconcile
from ml_backend.rescue import Rescue
from ml_backend.runtime import Runtime
from ml_backend.settings import Settings
from ml_backend.state import CycleState, Step, next_step
from ml_backend.store import Event, Project, Round, Store
from ml_backend.trouble import Pauses, note_trouble
from ml_backend.workflow import DurableEngine
from training.errors import TrainingError

log = logging.getLogger(__name__)

# Between two decisions nothing may have come in; look anyway, since time passes and files change.
DECIDE_EVERY_S = 10.0


@dataclass
class Worker:
    """One per home and worker id. `run` blocks until it is told to stop."""

    runtime: Runtime
    keeper: Keeper
    engine: Engine
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = utc_now
    stop: threading.Event = field(default_factory=threading.Event)
    cycle: Cycle = field(init=False)
    rescue: Rescue = field(init=False)
    masks: MaskRefresh = field(init=False)
    pushes: Pauses = field(init=False)
    walks: Pauses = field(init=False)
    _pushing: set[int] = field(default_factory=set)  # a push was queued, its end not seen yet
    _reconcile_at: dict[int, float] = field(default_factory=dict)
    _asked: set[int] = field(default_factory=set)  # requests seen at the last look
    _decided: float = -math.inf

    def __post_init__(self) -> None:
        settings = self.runtime.settings
        store = self.runtime.store
        self.cycle = Cycle(self.runtime, self.clock)
        self.rescue = Rescue(store, self.keeper, self.engine, settings.retry_s, self.clock)
        self.pushes = Pauses(settings.retry_s, self.clock)
        self.walks = Pauses(settings.reconcile_s, self.clock)
        self.masks = MaskRefresh(self.runtime, self.keeper, self.clock, self.now)

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
        """One look: events, reconciliation, masks, then what each project needs."""
        store = self.runtime.store
        came = round_steps.apply_pending_events(store)
        found = self._reconcile_due()
        self.masks.look()
        asked = store.pending_events(actions=(*asking.TRAIN_ACTIONS, asking.PUSH))
        ids = {event.id for event in asked}
        # One that was seen and waits, as for the end of a round, is no news: to count a hundred
        # thousand labels for it at every look takes time from the training.
        asked_anew = not ids <= self._asked
        for event in asked:
            if event.id not in self._asked and event.project_id is not None:
                self.pushes.end_pause(event.project_id)
        self._asked = ids
        now = self.clock()
        if not (came or found or asked_anew) and now - self._decided < DECIDE_EVERY_S:
            return
        self._decided = now
        projects = store.projects()
        if asked:
            self._decline_unknown(asked, {project.id for project in projects})
        for project in projects:
            if project.template not in REGION_TEMPLATES:
                continue
            if project.state == "archived":
                self._decline(project)
            else:
                self._attend(project)

    def _decline(self, project: Project) -> None:
        """Answer who asks something of an archived project; resumed, it must not begin with it."""
        asked = [*self.cycle.requests(project.id), *self.cycle.pushes(project.id)]
        asking.finish(self.runtime.store, asked, round_steps.why_no_push(project))

    def _decline_unknown(self, asked: list[Event], known: set[int]) -> None:
        """Nobody answers who asked something of a project just before it was forgotten.

        Asked before the projects were listed, so that a new one's request is none of them.
        """
        lost = [event for event in asked if event.project_id not in known]
        asking.finish(self.runtime.store, lost, "The project is unknown here.")

    def _attend(self, project: Project) -> None:
        """Do what one project needs; its trouble is no other's."""
        self._note_push(project)
        if not self.pushes.over(project.id):
            return
        try:
            self.advance(project)
        except LeaseLost:
            raise
        except Exception as error:
            self._refused(self.pushes, project, error)

    def _note_push(self, project: Project) -> None:
        """How the push ended that was queued here."""
        state = self.engine.push_state(project.id)
        if project.id not in self._pushing or state == "running":
            return
        self._pushing.discard(project.id)
        if state == "failed":
            self.pushes.failed(project.id)
        else:
            self.pushes.went_well(project.id)

    def _refused(self, pauses: Pauses, project: Project, error: Exception) -> None:
        known = isinstance(error, BackendError | TrainingError | DBAPIError)
        reason, pause = reason_of(error), pauses.failed(project.id)
        log.warning("project %s: %s Left alone for %.0f s.", project.id, reason, pause,
                    exc_info=None if known else error)  # fmt: skip
        with contextlib.suppress(DBAPIError):  # what the trouble is with
            note_trouble(self.runtime.store, project.id, reason, self.now())

    def _reconcile_due(self) -> bool:
        """Ask Label Studio what the webhooks may have lost; True if labels changed."""
        changed = False
        for project in self.runtime.store.projects():
            if project.template not in REGION_TEMPLATES or project.state == "archived":
                continue
            if self.clock() < self._reconcile_at.get(project.id, -math.inf):
                continue
            if not self.walks.over(project.id):
                continue
            try:
                changed |= self._walk(project)
            except LeaseLost:
                raise
            except Exception as error:
                self._refused(self.walks, project, error)
            else:
                self.walks.went_well(project.id)
                self._note_push(project)  # one that failed since the last look has its reason there
                if not self.pushes.failing(project.id):
                    note_trouble(self.runtime.store, project.id, None, self.now())
        return changed

    def _walk(self, project: Project) -> bool:
        settings, started = self.runtime.settings, self.clock()
        self._reconcile_at[project.id] = started + settings.reconcile_s
        report = reconcile(self.runtime.store, self.runtime.ls, project.id, self.now())
        removed = self._remove_copies(project.id, report)
        # A hundred thousand tasks take most of a minute: walk a tenth of the time at most.
        pause = max(settings.reconcile_s, 10 * (self.clock() - started))
        self._reconcile_at[project.id] = started + pause
        if report.changed or report.deleted:
            log.info("project %s: found by reconciliation: %s", project.id, report)
            return True
        return removed

    def _remove_copies(self, project_id: int, report: ReconcileReport) -> bool:
        """Unless somebody is at work there, whose push would look like copies."""
        if not report.copies:
            return False
        with self.keeper.turn(push_lease(project_id), wait=False) as held:
            if held:
                store, ls = self.runtime.store, self.runtime.ls
                remove_copies(store, ls, project_id, report.copies)
        return held

    def advance(self, project: Project) -> Step:
        """Do the one thing that the project needs, unless another worker is at it."""
        if project.push_held and project.state == "active" and self.cycle.pushes(project.id):
            self.runtime.store.update_project(project.id, push_held=False)
            project = self.runtime.project(project.id)
        state = self.cycle.state(project)
        step = next_step(state)
        if step is Step.PUSH:
            self._pushing.add(project.id)
            self.engine.push(project.id)
        elif step is Step.TRAIN:
            row = None
            with self.keeper.turn(project_lease(project.id), wait=False) as held:
                # Looked at again: meanwhile another worker may have done it.
                state = self.cycle.state(project)
                if held and next_step(state) is Step.TRAIN:
                    row = self._record_round(project, state)
            if row is None:
                return Step.WAIT
            self.engine.start(row)  # killed before this, `Rescue` queues it
        self._answer_requests(project, state, step)
        return step

    def _answer_requests(self, project: Project, state: CycleState, step: Step) -> None:
        """Requests that a round serves, or that lead to nothing, are over; with the reason why.

        While a round runs a request to train waits: it may be for what came after its snapshot.
        So it does while tasks are pushed: they may be there and answered, and not known here yet.
        """
        store = self.runtime.store
        unsettled = state.may_push and state.unpushed_queries > 0 and step is not Step.TRAIN
        if state.requested and not state.running and not unsettled:
            says = None if step is Step.TRAIN else why_no_training(project, state)
            if says is not None:
                log.info("project %s: asked to train: %s", project.id, says)
            asking.finish(store, self.cycle.requests(project.id), says)
        if state.push_requested and not state.may_push:
            asking.finish(store, self.cycle.pushes(project.id), round_steps.why_no_push(project))

    def _record_round(self, project: Project, state: CycleState) -> Round | None:
        """The row of the round to start, or of the one to try again; None where it is there."""
        store = self.runtime.store
        trigger = "request" if state.requested else "retry" if state.failed else "labels"
        rounds = store.rounds(project.id)
        last = rounds[-1] if rounds else None
        if last is not None and last.state == "failed":
            attempt = last.attempts + 1
            number = last.number
            key = workflow_id(project, number, attempt)
            # By itself it goes on with what was frozen; asked for, it takes what is there now.
            anew = {} if trigger == "retry" else {"train_config": None}
            store.update_round(
                project.id, number, state="queued", attempts=attempt, workflow_id=key,
                error=None, finished_at=None, retry_in_s=None, **anew,
            )  # fmt: skip
        else:
            number = last.number + 1 if last else 1
            key = workflow_id(project, number, 1)
            if not store.start_round(project.id, number, trigger, key):
                return None
        log.info("project %s: round %s queued (%s)", project.id, number, trigger)
        return store.round(project.id, number)


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
        keeper = Keeper(store, settings.worker_id, settings.lease_s)
        engine = DurableEngine(Player(runtime, keeper))
        worker = Worker(runtime, keeper, engine)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop.set())
        try:
            worker.start_beating()
            engine.launch(settings)
            worker.run()
        finally:
            engine.shut_down()
            keeper.stop()
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
