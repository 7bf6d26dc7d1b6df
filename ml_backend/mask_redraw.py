"""Masks that Label Studio keeps, drawn again where another model, picture or label draws them now.

Label Studio asks for a prediction only where a task has none, and shows the oldest there is when a
task is opened from the list. A prediction is never deleted here: an annotator who has the task open
would have her answer refused, since it names the prediction that it began with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BackendError
from ml_backend.ingest import REGION_TEMPLATES
from ml_backend.label_studio import LabelStudio, Refused
from ml_backend.mask_predictions import Drawing, drawing_for
from ml_backend.predictions import LAST
from ml_backend.settings import Settings
from ml_backend.store import Project, Store
from training.errors import TrainingError

# The id of a region that we drew: before release 0.2 without the key.
_REGION_ID = re.compile(r"(?:[0-9a-f]{12}-)?mask-\d+(?:-\d+)?", re.ASCII)


@dataclass(frozen=True)
class Redrawn:
    """What became of the masks of one task; `problem` says why they could not be drawn again."""

    task_id: int
    changed: bool
    problem: str | None = None


def redraw(
    settings: Settings, store: Store, ls: LabelStudio, project: Project, *, everything: bool = True
) -> Iterator[Redrawn]:
    """Draw again, task by task, what is not what `/predict` would answer now.

    Args:
        everything: look at every task that has masks of ours; else only at those that have some of
            another version.

    Raises:
        Conflict, NotReady: as `drawing_for`. LabelStudioError: Label Studio does not answer.
    """
    label_config = str(ls.project(project.id).get("label_config") or "")
    drawing = drawing_for(settings, store, project, label_config)
    regions = [p for p in store.projects() if p.template in REGION_TEMPLATES]
    ours = frozenset(v.name for region in regions for v in store.versions(region.id))
    for task, versions in ls.tasks_with_versions(project.id):
        found = versions & ours
        if found and (everything or found != {drawing.version.name}):
            yield _redraw_task(ls, drawing, task, ours)


def _redraw_task(
    ls: LabelStudio, drawing: Drawing, task: Mapping[str, Any], ours: frozenset[str]
) -> Redrawn:
    task_id, name = int(task["id"]), drawing.version.name
    rows = [
        row
        for row in ls.predictions(task_id)
        if row.get("model_version") in ours and _drawn_here(row.get("result"))
    ]
    try:
        picture = drawing.picture(task)
        key = drawing.key(picture)
        right = [row for row in rows if row["model_version"] == name and _is_by(row, key)]
        stale = [row for row in rows if row not in right]
        if not stale:
            return Redrawn(task_id, changed=False)
        if right:
            result = right[0]["result"]
        else:
            result = drawing.draw(picture, picture.pixels(drawing.settings.max_pixels))
    except (BackendError, TrainingError, OSError) as error:
        return Redrawn(task_id, changed=False, problem=str(error))
    changed = False
    for row in stale:
        # What cannot be drawn stays empty for good, however often it is looked at.
        if row["model_version"] == name and row["result"] == result:
            continue
        try:
            fields = {"result": result, "model_version": name, "score": LAST}
            ls.update_prediction(int(row["id"]), **fields)
            changed = True
        except Refused as error:
            if error.code != 404:  # deleted there meanwhile
                raise
    return Redrawn(task_id, changed)


def _drawn_here(result: Any) -> bool:
    return isinstance(result, list) and all(
        isinstance(item, Mapping) and _REGION_ID.fullmatch(str(item.get("id"))) for item in result
    )


def _is_by(row: Mapping[str, Any], key: str) -> bool:
    """Whether a key names what the prediction shows; what shows nothing is by none."""
    return bool(row["result"]) and all(
        str(item["id"]).startswith(f"{key}-") for item in row["result"]
    )
