"""The durable round: one DBOS workflow per round, its id the idempotency key.

Each step is recorded when it ends. A process that is killed in a step does that step again after
its restart; every step may therefore run twice (see `round_steps`), and training goes on from its
last checkpoint. The rounds of a worker that is lost, or only frozen, are taken over by another one
(`recover`); the leases that each step holds keep the two apart.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from ml_backend import round_steps
from ml_backend.errors import LeaseLost
from ml_backend.failures import pause_before_retry, reason_of, transient
from ml_backend.leases import Keeper, device_lease, give_up, project_lease
from ml_backend.runtime import Runtime
from ml_backend.settings import Settings
from ml_backend.store import Round

log = logging.getLogger(__name__)

QUEUE = "rounds"
# A fixed version: an upgraded worker goes on with the rounds of the one before it.
WORKFLOW_VERSION = "1"
# How often a round goes on after the death of its worker (an upgrade, a power cut, a kernel that
# kills what takes too much memory); then it fails with that reason.
MOST_RECOVERIES = 20
SUPERSEDED = -1  # of _reconcile: another try at the round, or another engine, has finished it

_active: tuple[Runtime, Keeper] | None = None
_running: set[str] = set()  # ids of the workflows that a thread of this process is in


def configure(runtime: Runtime, keeper: Keeper) -> None:
    """Give the steps what they work with; DBOS steps are module functions and take only JSON."""
    global _active
    _active = runtime, keeper


@contextmanager
def _turn(project_id: int, *, device: bool = False) -> Iterator[Runtime]:
    """Hold the leases that a step needs; ends the process where one of them was lost.

    Nothing may be raised or returned then: the engine would record it as the outcome of a step
    that now belongs to another worker.
    """
    if _active is None:
        raise RuntimeError("workflow.configure() must be called before a round runs")
    runtime, keeper = _active
    names = [project_lease(project_id)]
    if device and (gpu := device_lease(runtime.settings.device)):
        names.append(gpu)
    try:
        with keeper.turn(*names):
            try:
                yield runtime
            finally:
                keeper.verify()
    except LeaseLost as error:
        give_up(error)


_retry = {
    "retries_allowed": True,
    "interval_seconds": 2.0,
    "backoff_rate": 2.0,
    "max_attempts": 8,  # 2 + 4 + ... + 128 s: four minutes of Label Studio being away
    "should_retry": transient,
}


@DBOS.step(name="reconcile", **_retry)  # type: ignore[arg-type]
def _reconcile(project_id: int, number: int) -> int:
    with _turn(project_id) as runtime:
        row = runtime.store.round(project_id, number)
        if row is None or row.state in ("done", "failed") or row.workflow_id != DBOS.workflow_id:
            return SUPERSEDED
        return round_steps.reconcile_labels(runtime, project_id, number)


@DBOS.step(name="snapshot")
def _snapshot(project_id: int, number: int) -> str:
    with _turn(project_id) as runtime:
        return round_steps.write_round_snapshot(runtime, project_id, number)


@DBOS.step(name="train")
def _train(project_id: int, number: int, snapshot: str) -> str:
    with _turn(project_id, device=True) as runtime:
        return round_steps.train_round(runtime, project_id, number, snapshot)


@DBOS.step(name="publish")
def _publish(project_id: int, number: int, folder: str) -> str:
    with _turn(project_id) as runtime:
        return round_steps.publish_version(runtime, project_id, number, folder)


@DBOS.step(name="score")
def _score(project_id: int, number: int) -> str:
    with _turn(project_id, device=True) as runtime:
        return round_steps.score_round(runtime, project_id, number)


@DBOS.step(name="push", **_retry)  # type: ignore[arg-type]
def _push(project_id: int, number: int) -> int:
    with _turn(project_id) as runtime:
        return round_steps.push_round(runtime, project_id, number)


@DBOS.step(name="finish")
def _finish(project_id: int, number: int, error: Exception | None) -> None:
    with _turn(project_id) as runtime:
        row = runtime.store.round(project_id, number)
        if row is None or row.workflow_id != DBOS.workflow_id:
            return  # another try has begun since
        state: dict[str, object]
        if error is None:
            state = {"state": "done", "error": None, "retry_in_s": None}
        else:
            pause = pause_before_retry(error, row.attempts, runtime.settings.retry_s)
            state = {"state": "failed", "error": reason_of(error), "retry_in_s": pause}
        runtime.store.update_round(project_id, number, finished_at=datetime.now(UTC), **state)


@DBOS.workflow(name="round", max_recovery_attempts=MOST_RECOVERIES)
def round_workflow(project_id: int, number: int) -> str:
    """reconcile -> snapshot -> train -> publish -> score -> push; returns "done" or "failed"."""
    key = str(DBOS.workflow_id)
    _running.add(key)
    try:
        return _play_round(project_id, number)
    finally:
        _running.discard(key)


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
        log.exception("round %s of project %s failed", number, project_id)
        _finish(project_id, number, error)
        return "failed"
    _finish(project_id, number, None)
    return "done"


def launch(settings: Settings) -> None:
    """Start the engine: it recovers what was running, then polls the queue of rounds."""
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


def shut_down() -> None:
    """Stop the engine; a round that runs is taken up again by the next worker."""
    DBOS.destroy(workflow_completion_timeout_sec=0)


def workflow_id(project_id: int, number: int, attempt: int) -> str:
    """Idempotency key of one try at a round."""
    return f"project-{project_id}-round-{number}-try-{attempt}"


def start(row: Round) -> None:
    """Queue a round; an id that was queued before is left alone."""
    with SetWorkflowID(row.workflow_id):
        DBOS.enqueue_workflow(QUEUE, round_workflow, row.project_id, row.number)


@dataclass(frozen=True)
class EngineState:
    """What the engine knows of a round: unknown, queued, pending at a worker, or ended (how)."""

    kind: Literal["unknown", "queued", "pending", "ended"]
    worker: str | None = None
    how: str = ""


def engine_state(row: Round) -> EngineState:
    """Where a round is in the engine; its row may say something else after an accident."""
    status = DBOS.get_workflow_status(row.workflow_id)
    if status is None:
        return EngineState("unknown")
    if status.status == "PENDING":
        return EngineState("pending", status.executor_id)
    if status.status in ("ENQUEUED", "DELAYED"):
        return EngineState("queued")
    return EngineState("ended", how=str(status.status))


def runs_here(row: Round) -> bool:
    """Whether a thread of this process is in the round."""
    return row.workflow_id in _running


def recover(worker_id: str) -> None:
    """Queue again what a worker had begun; it must be lost, and fenced off."""
    DBOS._recover_pending_workflows([worker_id])
