"""What a person asks the worker for: an event in the store, which survives whatever dies."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ml_backend.predictions import NO_MODEL
from ml_backend.security import SECRET_HEADER
from ml_backend.store import Event, Project, Query, Store

TRAIN = "TRAIN_REQUESTED"
PUSH = "PUSH_REQUESTED"
# "Start training" in Label Studio asks for the same as `pixbal train` and the admin's page.
TRAIN_ACTIONS = ("START_TRAINING", TRAIN)


def webhook_command(url: str, project_id: int) -> str:
    """The command that asks for a training from anywhere; a shell puts the secret in, nobody else.

    `url`: the backend's address as seen from there.
    """
    body = f'{{"action": "START_TRAINING", "project": {{"id": {project_id}}}}}'
    secret = f'-H "{SECRET_HEADER}: $PIXBAL_WEBHOOK_SECRET"'
    kind = "-H 'Content-Type: application/json'"
    return f"curl --fail {secret} {kind} -d '{body}' \"{url}/webhook\""


def ask(store: Store, project_id: int, action: str) -> None:
    """Leave a request for the worker: TRAIN (on the labels there are) or PUSH (the next questions).

    The time makes it another event than the request before.
    """
    asked = datetime.now(UTC).isoformat()
    store.record_event(project_id, action, {"action": action, "at": asked})


def requests(store: Store, project_id: int, *actions: str) -> list[Event]:
    """Who asked for this in a project and was not served yet."""
    return store.pending_events(actions=actions, project_id=project_id)


def open_questions(store: Store, project: Project) -> int:
    """Questions that wait for an answer and carry the scores of the version in use.

    Others are scored anew by a push, so that one is not for nothing.
    """
    found = store.queries(project.id, status="open")
    stale = stale_questions(store, project)
    return 0 if stale or store.queries(project.id, status="planned") else len(found)


def stale_questions(store: Store, project: Project) -> list[Query]:
    """Open questions that Label Studio does not order by the version in use.

    It orders by the scores of one version, so those with another one's come after all others. Such
    is one whose answer was deleted after a round, and all where a push was cut off before it told
    Label Studio of the version. About an image that was removed there are no scores.
    """
    version = project.current_version or NO_MODEL
    told = project.model_version == version
    waiting = store.queries(project.id, status="open")
    found = [q for q in waiting if not told or q.model_version != version]
    if not found:
        return []
    ready = {i.image_id for i in store.images(project.id, split="pool", status="ready")}
    return [q for q in found if q.image_id in ready and q.task_id is not None]


def nothing_to_push(waiting: int) -> str:
    """Why a push pushes nothing, for whoever asked for it."""
    if waiting:
        return f"{waiting} questions are open: more are pushed when they are answered."
    return "Every region that can be asked was asked."


def finish(store: Store, asked: Iterable[Event], says: str | None = None) -> None:
    """Requests are served; what did nothing is kept with the reason, for whoever asked."""
    for event in asked:
        store.finish_event(event.id, error=says)
