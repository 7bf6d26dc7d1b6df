"""What a person asks the worker for: an event in the store, which survives whatever dies."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ml_backend.store import Event, Store

TRAIN = "TRAIN_REQUESTED"
PUSH = "PUSH_REQUESTED"
# "Start training" in Label Studio asks for the same as `pixbal train` and the admin's page.
TRAIN_ACTIONS = ("START_TRAINING", TRAIN)


def ask(store: Store, project_id: int, action: str) -> None:
    """Leave a request for the worker: TRAIN (on the labels there are) or PUSH (the next questions).

    The time makes it another event than the request before.
    """
    asked = datetime.now(UTC).isoformat()
    store.record_event(project_id, action, {"action": action, "at": asked})


def requests(store: Store, project_id: int, *actions: str) -> list[Event]:
    """Who asked for this in a project and was not served yet."""
    return store.pending_events(actions=actions, project_id=project_id)


def finish(store: Store, asked: Iterable[Event], says: str | None = None) -> None:
    """Requests are served; what did nothing is kept with the reason, for whoever asked."""
    for event in asked:
        store.finish_event(event.id, error=says)
