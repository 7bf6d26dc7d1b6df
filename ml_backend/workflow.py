"""The durable round: one DBOS workflow per round, its id the idempotency key.

Each step is recorded when it ends. A process that is killed in a step does that step again after
its restart; every step may therefore run twice (see `round_steps`), and training goes on from its
last checkpoint.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from ml_backend import round_steps
from ml_backend.errors import LabelStudioError
from ml_backend.round_steps import reason_of
from ml_backend.runtime import Runtime
from ml_backend.settings import Settings
from ml_backend.store import Round

log = logging.getLogger(__name__)

QUEUE = "rounds"
# A fixed version: an upgraded worker goes on with the rounds of the one before it.
WORKFLOW_VERSION = "1"

_runtime: Runtime | None = None


def configure(runtime: Runtime) -> None:
    """Give the steps what they work with; DBOS steps are module functions and take only JSON."""
    global _runtime
    _runtime = runtime


def _active() -> Runtime:
    if _runtime is None:
        raise RuntimeError("workflow.configure() must be called before a round runs")
    return _runtime


def _transient(error: BaseException) -> bool:
    """Label Studio away, overloaded, or an import without an answer: worth another try.

    A refusal with a reason (a deleted project, a bad token) is not: it would be refused again.
    """
    return isinstance(error, LabelStudioError) and bool(getattr(error, "transient", True))


_retry = {
    "retries_allowed": True,
    "interval_seconds": 2.0,
    "backoff_rate": 2.0,
    "max_attempts": 8,  # 2 + 4 + ... + 128 s: four minutes of Label Studio being away
    "should_retry": _transient,
}


@DBOS.step(name="reconcile", **_retry)  # type: ignore[arg-type]
def _reconcile(project_id: int, number: int) -> int:
    return round_steps.reconcile_labels(_active(), project_id, number)


@DBOS.step(name="snapshot")
def _snapshot(project_id: int, number: int) -> str:
    return round_steps.write_round_snapshot(_active(), project_id, number)


@DBOS.step(name="train")
def _train(project_id: int, number: int, snapshot: str) -> str:
    return round_steps.train_round(_active(), project_id, number, snapshot)


@DBOS.step(name="publish")
def _publish(project_id: int, number: int, folder: str) -> str:
    return round_steps.publish_version(_active(), project_id, number, folder)


@DBOS.step(name="score")
def _score(project_id: int, number: int) -> str:
    return round_steps.score_round(_active(), project_id, number)


@DBOS.step(name="push", **_retry)  # type: ignore[arg-type]
def _push(project_id: int, number: int) -> int:
    return round_steps.push_round(_active(), project_id, number)


@DBOS.step(name="finish")
def _finish(project_id: int, number: int, error: str | None) -> None:
    _active().store.update_round(
        project_id,
        number,
        state="failed" if error else "done",
        error=error,
        finished_at=datetime.now(UTC),
    )


@DBOS.workflow(name="round")
def round_workflow(project_id: int, number: int) -> str:
    """reconcile -> snapshot -> train -> publish -> score -> push; returns "done" or "failed"."""
    try:
        _reconcile(project_id, number)
        snapshot = _snapshot(project_id, number)
        folder = _train(project_id, number, snapshot)
        _publish(project_id, number, folder)
        _score(project_id, number)
        _push(project_id, number)
    except Exception as error:
        log.exception("round %s of project %s failed", number, project_id)
        _finish(project_id, number, reason_of(error))
        return "failed"
    _finish(project_id, number, None)
    return "done"


def launch(settings: Settings) -> None:
    """Start the engine: it recovers what was running, then polls the queue of rounds."""
    config: DBOSConfig = {
        "name": "pixbal",
        "system_database_url": settings.workflow_database_url,
        "application_version": WORKFLOW_VERSION,
        "executor_id": os.environ.get("PIXBAL_WORKER_ID", "worker"),
        "serializer": DBOSPortableJSONSerializer(),  # JSON, not pickle
        "console_log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue(QUEUE, global_concurrency=1)


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
