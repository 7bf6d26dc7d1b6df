"""Label Studio's bodies: the members the backend needs, checked at the door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ml_backend.bodies import member
from ml_backend.errors import BadRequest
from ml_backend.ingest import MAX_ID, parse_time, positive_int

PROJECT = re.compile(r"(\d{1,18})(\.\d{1,20})?", re.ASCII)
MAX_TASKS = 20_000
ANNOTATION_KEYS = (
    "id",
    "result",
    "was_cancelled",
    "created_at",
    "updated_at",
    "lead_time",
    "completed_by",
    "unique_id",
    "parent_prediction",
)


def project_id(value: Any) -> int:
    """Label Studio's project: "<id>.<time of creation>", or the plain id.

    Raises:
        BadRequest: neither of them.
    """
    if isinstance(value, str) and (match := PROJECT.fullmatch(value)):
        value = int(match[1])
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_ID:
        return value
    raise BadRequest(f'Expected "project" as "<id>.<timestamp>", got {value!r:.80}.')


def predicted_tasks(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tasks of a /predict body, each with a proper id.

    Raises:
        BadRequest: no list of objects, too many, or an id that is none.
    """
    tasks = _objects(body, "tasks")
    if len(tasks) > MAX_TASKS:
        raise BadRequest(f"Expected at most {MAX_TASKS} tasks, got {len(tasks)}.")
    for task in tasks:
        positive_int(task.get("id"), "tasks[].id")
    return tasks


def stored_payload(action: str, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an event worth keeping, checked: what is wrong is said now, not found later.

    The project is cut down to its id: the rest is Label Studio's own state and holds secrets.
    Task data are left out: a picture inside them would be stored with every event.

    Raises:
        BadRequest: a needed member is missing or of another kind.
    """
    payload: dict[str, Any] = {"action": action, "project": {"id": number}}
    if action == "ANNOTATIONS_CREATED":
        payload["annotations"] = [_annotation(item) for item in _objects(body, "annotations")]
    elif action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
        task = body.get("task")
        fallback = task.get("id") if isinstance(task, Mapping) else None
        payload["annotation"] = _annotation(member(body, "annotation", dict), fallback)
    elif action != "START_TRAINING":
        key = "tasks" if action == "TASKS_DELETED" else "annotations"
        items = _objects(body, key)
        payload[key] = [{"id": positive_int(item.get("id"), f"{key}[].id")} for item in items]
    return payload


def _annotation(annotation: Mapping[str, Any], task: Any = None) -> dict[str, Any]:
    kept = {"task": annotation.get("task") or task}
    kept |= {key: annotation.get(key) for key in ANNOTATION_KEYS}
    positive_int(kept["id"], "annotation.id")
    positive_int(kept["task"], "annotation.task")
    parse_time(kept["updated_at"] or kept["created_at"])
    member(kept, "result", (list, type(None)))
    return kept


def _objects(body: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items: list[Mapping[str, Any]] = member(body, key, list)
    if not all(isinstance(item, dict) for item in items):
        raise BadRequest(f"Expected {key!r} to be a list of objects.")
    return items
