"""Labels here against annotations there: webhooks may be lost, Label Studio's API is the truth."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ml_backend.copies import Copies, Walk
from ml_backend.errors import BadRequest, NotFound
from ml_backend.images import withdraw_removed
from ml_backend.ingest import REGION_TEMPLATES, apply_annotation, parse_time
from ml_backend.label_studio import LabelStudio
from ml_backend.store import Label, Project, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReconcileReport:
    """What a walk over a project's tasks found.

    Attributes:
        seen: annotations on the server.
        changed: labels here that were missing or older.
        deleted: labels here whose annotation or task is gone there.
        unknown: annotations that ask no question of ours, or cannot be read.
        withdrawn: questions whose task is gone there.
        copies: questions with other tasks there than the one that the ledger names.
    """

    seen: int = 0
    changed: int = 0
    deleted: int = 0
    unknown: int = 0
    withdrawn: int = 0
    copies: tuple[Copies, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.seen} annotations seen, {self.changed} labels changed, {self.deleted} deleted, "
            f"{self.unknown} unknown, {self.withdrawn} questions withdrawn, "
            f"{len(self.copies)} asked by several tasks"
        )


def reconcile(store: Store, ls: LabelStudio, project_id: int, now: datetime) -> ReconcileReport:
    """Walk the project's tasks on the server once and bring the labels here to what they say.

    An interrupted walk deletes nothing. Labels and tasks that appear while it runs are left alone.

    Args:
        now: the time, aware, before the walk begins; younger words about a label win over it.

    Raises:
        NotFound: the project is unknown here.
        LabelStudioError: the server cannot be walked.
    """
    project = store.project(project_id)
    if project is None:
        raise NotFound(f"Project {project_id} is unknown here.", "Run `pixbal init`.")
    if project.template not in REGION_TEMPLATES:
        return ReconcileReport()
    # Both before the walk: what is stored while it runs may be younger than its pages.
    queries = [q for q in store.queries(project_id) if q.task_id or q.status == "withdrawn"]
    asked = {q.task_id for q in queries if q.task_id and q.status != "withdrawn"}
    walk = Walk(queries)
    known = {label.annotation_id: label for label in store.labels(project_id, deleted=True)}
    tasks: set[int] = set()
    annotations: set[int] = set()
    changed = unknown = 0
    for task in ls.tasks(project_id, with_annotations=True):
        task_id = int(task["id"])
        tasks.add(task_id)
        walk.note(task)
        for annotation in task["annotations"]:
            annotations.add(int(annotation["id"]))
            if task_id not in asked:
                unknown += 1
            if _is_news(annotation, known.get(int(annotation["id"])), task_id in asked):
                took = _take(store, project, task_id, annotation, now)
                changed += took is True
                unknown += took is None and task_id in asked
    vanished = asked - tasks
    deleted = store.delete_task_labels(project_id, vanished, now)
    gone = [
        label.annotation_id
        for label in known.values()
        if not label.deleted
        and label.annotation_id not in annotations
        and label.task_id not in vanished
        and label.seen_at < now
    ]
    deleted += store.delete_labels(project_id, gone, now)
    withdraw_removed(store, ls, project_id)
    groups = [replace(c, ledger=None) if c.ledger in vanished else c for c in walk.groups()]
    copies = tuple(c for c in groups if [t.id for t in c.tasks] != [c.ledger])
    return ReconcileReport(len(annotations), changed, deleted, unknown, len(vanished), copies)


def _is_news(annotation: Mapping[str, Any], label: Label | None, asked: bool) -> bool:
    """False where the label is known as it is: most of a walk; each would cost a transaction."""
    if label is None or label.deleted or (asked and label.query_id is None):
        return True
    try:
        return parse_time(annotation.get("updated_at")) != label.updated_at
    except BadRequest:
        return True


def _take(
    store: Store, project: Project, task_id: int, annotation: Mapping[str, Any], now: datetime
) -> bool | None:
    """Whether the label changed; None where the annotation cannot be read."""
    try:
        return apply_annotation(store, project, task_id, annotation, now)
    except BadRequest as error:
        log.warning("annotation %s of task %s: %s", annotation.get("id"), task_id, error)
        return None
