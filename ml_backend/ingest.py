"""What Label Studio says -> labels in the store. Everything may come twice, late, or never."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from label_config import Answer, ClassSchema, LabelConfigError, read_answer
from ml_backend.errors import BadRequest, NotFound
from ml_backend.store import Event, Label, Project, Store

REGION_TEMPLATES = ("region_multiclass", "region_dominant")
MAX_ID = 2**63 - 1


def apply_event(store: Store, event: Event) -> None:
    """Apply a stored event; one that concerns no label changes nothing. Safe to repeat.

    Raises:
        BackendError: why the event cannot be applied; the caller keeps it with that reason.
    """
    handler = HANDLERS.get(event.action)
    if handler is None:
        return
    project = None if event.project_id is None else store.project(event.project_id)
    if project is None:
        raise NotFound(f"Project {event.project_id} is unknown here.", "Run `pixbal init`.")
    if project.template in REGION_TEMPLATES:
        handler(store, project, event)


def apply_annotation(
    store: Store,
    project: Project,
    task_id: int,
    annotation: Mapping[str, Any],
    seen_at: datetime,
    *,
    on_server: bool = True,
) -> bool:
    """Take in one annotation of a task.

    A task that asks no known query is kept too, and joined once its query gets the task's id.

    Args:
        seen_at: when Label Studio was asked, at the latest (the start of a walk over its tasks),
            or when its message came.
        on_server: read from Label Studio's API; False for a message, which may be out of date.

    Returns:
        Whether the label changed.

    Raises:
        BadRequest: it has no id or no update time.
    """
    query = store.query_by_task(project.id, task_id)
    query_id = None if query is None else query.id
    label = label_from_annotation(project, task_id, query_id, annotation, seen_at)
    return store.apply_label(label, on_server=on_server)


def label_from_annotation(
    project: Project,
    task_id: int,
    query_id: int | None,
    annotation: Mapping[str, Any],
    seen_at: datetime,
) -> Label:
    """The label an annotation stands for; one that cannot be read has kind "invalid".

    A skip carries whatever was ticked before it, so its result is not looked at.

    Raises:
        BadRequest: it has no id or no update time.
    """
    skipped = bool(annotation.get("was_cancelled"))
    answer = Answer("empty") if skipped else _read(project, annotation.get("result"))
    return Label(
        annotation_id=positive_int(annotation.get("id"), "annotation.id"),
        project_id=project.id,
        task_id=task_id,
        query_id=query_id,
        kind="skipped" if skipped else "invalid" if answer is None else answer.kind,
        classes=answer.classes if answer else (),
        other=answer is not None and answer.other,
        clicks=answer.clicks if answer else 0,
        lead_time_s=_seconds(annotation.get("lead_time")),
        annotator=_annotator(annotation.get("completed_by")),
        updated_at=parse_time(annotation.get("updated_at") or annotation.get("created_at")),
        deleted=False,
        seen_at=seen_at,
    )


def _read(project: Project, result: Any) -> Answer | None:
    """The answer; None where it cannot be read."""
    try:
        schema = ClassSchema.from_json(project.schema_json)
        return read_answer(result if result is not None else [], schema, project.template)
    except LabelConfigError:
        return None


def positive_int(value: Any, what: str) -> int:
    """An id: a whole number that a database can hold.

    Raises:
        BadRequest: anything else, booleans and texts included.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_ID:
        return value
    raise BadRequest(f"Expected {what} to be a positive whole number, got {value!r:.80}.")


def parse_time(value: Any) -> datetime:
    """A time as Label Studio writes it, in UTC; one without a zone is taken as UTC.

    Raises:
        BadRequest: no such time.
    """
    try:
        if not isinstance(value, str):
            raise ValueError("not a text")
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadRequest(
            f"Expected updated_at as a time like 2026-11-22T15:45:50.285273Z, got {value!r:.80}."
        ) from error


def _seconds(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) and number >= 0 else None
    return None


def _annotator(value: Any) -> str | None:
    """Label Studio's user id; in some answers it sits in an object."""
    if isinstance(value, Mapping):
        value = value.get("id")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_ID:
        return str(value)
    return None


def _annotations_changed(store: Store, project: Project, event: Event) -> None:
    payload = event.payload
    annotations = payload.get("annotations") or [payload.get("annotation")]
    if not isinstance(annotations, list):
        raise BadRequest(f"Expected annotations as a list, got {annotations!r:.80}.")
    named = payload.get("task")
    around = named.get("id") if isinstance(named, Mapping) else None
    unknown = []
    for annotation in annotations:
        if not isinstance(annotation, Mapping):
            raise BadRequest(f"Expected an annotation as an object, got {annotation!r:.80}.")
        task_id = positive_int(annotation.get("task") or around, "annotation.task")
        apply_annotation(store, project, task_id, annotation, event.received_at, on_server=False)
        if store.query_by_task(project.id, task_id) is None:
            unknown.append(task_id)
    if unknown:
        raise NotFound(
            f"Project {project.id} asked no question with the task {unknown[0]}.",
            "The label is kept and counts once the question is known.",
        )


def _annotations_deleted(store: Store, project: Project, event: Event) -> None:
    store.delete_labels(project.id, _ids(event, "annotations"), event.received_at)


def _tasks_deleted(store: Store, project: Project, event: Event) -> None:
    store.delete_task_labels(project.id, _ids(event, "tasks"), event.received_at)


def _ids(event: Event, key: str) -> list[int]:
    items = event.payload.get(key)
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise BadRequest(f"Expected {key} as a list of objects, got {items!r:.80}.")
    return [positive_int(item.get("id"), f"{key}[].id") for item in items]


HANDLERS: Mapping[str, Callable[[Store, Project, Event], None]] = {
    "ANNOTATION_CREATED": _annotations_changed,
    "ANNOTATIONS_CREATED": _annotations_changed,
    "ANNOTATION_UPDATED": _annotations_changed,
    "ANNOTATIONS_DELETED": _annotations_deleted,
    "TASKS_DELETED": _tasks_deleted,
}
