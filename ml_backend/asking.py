"""What a person asks the worker for: an event in the store, which survives whatever dies."""

from __future__ import annotations

from datetime import UTC, datetime

from ml_backend.store import Store

TRAIN = "TRAIN_REQUESTED"
PUSH = "PUSH_REQUESTED"


def ask(store: Store, project_id: int, action: str) -> None:
    """Leave a request for the worker: TRAIN (on the labels there are) or PUSH (the next questions).

    The time makes it another event than the request before.
    """
    asked = datetime.now(UTC).isoformat()
    store.record_event(project_id, action, {"action": action, "at": asked})
