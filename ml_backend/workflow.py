"""The durable engine: one DBOS workflow per round, its id the idempotency key.

Each step is recorded when it ends. A process that is killed in a step does that step again after
its restart; every step may therefore run twice (see `round_steps`), and training goes on from its
last checkpoint. The rounds of a worker that is lost, or only frozen, are taken over by another one
(`recover`); the leases that each step holds keep the two apart.

DBOS is one per process, and so is the engine that is launched; everything else is handed in.
"""

from __future__ import annotations

import logging
import uuid

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from ml_backend.engine import MOST_RECOVERIES, EngineState, PushState
from ml_backend.failures import reason_of, transient
from ml_backend.player import SUPERSEDED, Player
from ml_backend.settings import Settings
from ml_backend.store import Round

log = logging.getLogger(__name__)

QUEUE = "rounds"
PUSH_QUEUE = "pushes"
PUSHES_AT_ONCE = 4  # a project that Label Studio answers slowly must not keep the others waiting
# A fixed version: an upgraded worker goes on with the rounds of the one before it.
WORKFLOW_VERSION = "1"

_launched: DurableEngine | None = None


def _engine() -> DurableEngine:
    """The engine of this process; DBOS steps are module functions and take only JSON."""
    if _launched is None:
        raise RuntimeError("DurableEngine.launch() must be called before a round runs")
    return _launched


def _player() -> Player:
    return _engine().player


_retry = {
    "retries_allowed": True,
    "interval_seconds": 2.0,
    "backoff_rate": 2.0,
    "max_attempts": 8,  # 2 + 4 + ... + 128 s: four minutes of Label Studio being away
    "should_retry": transient,
}


@DBOS.step(name="reconcile", **_retry)  # type: ignore[arg-type]
def _reconcile(project_id: int, number: int) -> int:
    return _player().reconcile(project_id, number, str(DBOS.workflow_id))


@DBOS.step(name="snapshot")
def _snapshot(project_id: int, number: int) -> str:
    return _player().snapshot(project_id, number)


@DBOS.step(name="train")
def _train(project_id: int, number: int, snapshot: str) -> str:
    return _player().train(project_id, number, snapshot)


@DBOS.step(name="publish")
def _publish(project_id: int, number: int, folder: str) -> str:
    return _player().publish(project_id, number, folder)


@DBOS.step(name="score")
def _score(project_id: int, number: int) -> str:
    return _player().score(project_id, number)


@DBOS.step(name="push", **_retry)  # type: ignore[arg-type]
def _push(project_id: int, number: int) -> int:
    return _player().push(project_id, number)


@DBOS.step(name="finish")
def _finish(project_id: int, number: int, error: Exception | None) -> None:
    _player().finish(project_id, number, str(DBOS.workflow_id), error)


@DBOS.workflow(name="round", max_recovery_attempts=MOST_RECOVERIES)
def round_workflow(project_id: int, number: int) -> str:
    """reconcile -> snapshot -> train -> publish -> score -> push; returns "done" or "failed"."""
    key = str(DBOS.workflow_id)
    _engine().running.add(key)
    try:
        return _play_round(project_id, number)
    finally:
        _engine().running.discard(key)


def _play_round(project_id: int, number: int) -> str:
    try:
        if _reconcile(project_id, number) == SUPERSEDED:
            return "superseded"
        snapshot = _snapshot(project_id, number)
        folder = _train(project_id, number, snapshot)
        _publish(project_id, number, folder)
        _score(project_id, number)
        _push(project_id, number)
    except Exception as error:
        log.exception("round %s of project %s failed: %s", number, project_id, reason_of(error))
        _finish(project_id, number, error)
        return "failed"
    _finish(project_id, number, None)
    return "done"


@DBOS.step(name="score_for_push")
def _score_for_push(project_id: int) -> str:
    return _player().score_for_push(project_id)


@DBOS.step(name="push_next")
def _push_next(project_id: int) -> int:
    return _player().push_next(project_id)


@DBOS.workflow(name="push")
def push_workflow(project_id: int) -> str:
    """score -> push, beside rounds. Cut off for good, it is simply asked for again."""
    try:
        _score_for_push(project_id)
        _push_next(project_id)
    except Exception as error:
        log.warning("project %s: nothing pushed: %s", project_id, error)
        return "failed"
    return "done"


class DurableEngine:
    """Rounds and pushes in DBOS; one of these is launched in a process."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.running: set[str] = set()  # ids of the rounds that a thread of this process is in
        self._pushes: dict[int, str] = {}  # by project: the last push that was queued here

    def launch(self, settings: Settings) -> None:
        """Start the engine: it recovers what was running, then polls its queues."""
        global _launched
        _launched = self
        config: DBOSConfig = {
            "name": "pixbal",
            "system_database_url": settings.workflow_database_url,
            "application_version": WORKFLOW_VERSION,
            "executor_id": settings.worker_id,
            "serializer": DBOSPortableJSONSerializer(),  # JSON, not pickle
            "console_log_level": "WARNING",
        }
        DBOS(config=config)
        DBOS.launch()
        # One round at a time in each worker; leases keep two workers off one GPU or project.
        DBOS.register_queue(QUEUE, worker_concurrency=1)
        DBOS.register_queue(PUSH_QUEUE, worker_concurrency=PUSHES_AT_ONCE)

    def shut_down(self) -> None:
        """Stop the engine; a round that runs is taken up again by the next worker."""
        global _launched
        DBOS.destroy(workflow_completion_timeout_sec=0)
        _launched = None

    def start(self, row: Round) -> None:
        """Queue a round; an id that was queued before is left alone."""
        with SetWorkflowID(row.workflow_id):
            DBOS.enqueue_workflow(QUEUE, round_workflow, row.project_id, row.number)

    def state(self, row: Round) -> EngineState:
        """Where a round is in the engine; its row may say something else after an accident."""
        status = DBOS.get_workflow_status(row.workflow_id)
        if status is None:
            return EngineState("unknown")
        if status.status == "PENDING":
            return EngineState("pending", status.executor_id)
        if status.status in ("ENQUEUED", "DELAYED"):
            return EngineState("queued")
        return EngineState("ended", how=str(status.status))

    def runs_here(self, row: Round) -> bool:
        """Whether a thread of this process is in the round."""
        return row.workflow_id in self.running

    def recover(self, worker_id: str) -> None:
        """Queue again what a worker had begun; it must be lost, and fenced off."""
        DBOS._recover_pending_workflows([worker_id])

    def push(self, project_id: int) -> None:
        """Queue a push of the project's next questions; one that is queued or runs is enough."""
        if self.push_state(project_id) == "running":
            return
        key = f"project-{project_id}-push-{uuid.uuid4().hex}"
        with SetWorkflowID(key):
            DBOS.enqueue_workflow(PUSH_QUEUE, push_workflow, project_id)
        self._pushes[project_id] = key

    def push_state(self, project_id: int) -> PushState:
        """What became of the last push that was queued here."""
        key = self._pushes.get(project_id)
        status = None if key is None else DBOS.get_workflow_status(key)
        if status is None:
            return "none"
        if status.status in ("ENQUEUED", "DELAYED", "PENDING"):
            return "running"
        return "done" if status.status == "SUCCESS" and status.output == "done" else "failed"
