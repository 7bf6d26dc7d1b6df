"""Masks that Label Studio keeps, drawn again where another model, picture or label draws them now.

Label Studio asks for a prediction only where a task has none, and shows the oldest there is when a
task is opened from the list. A prediction is never deleted here: an annotator who has the task open
would have her answer refused, since it names the prediction that it began with.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.errors import BackendError, NotReady
from ml_backend.ingest import REGION_TEMPLATES
from ml_backend.label_studio import LabelStudio, Refused
from ml_backend.mask_predictions import Drawing, drawing_for, serving_version
from ml_backend.predictions import LAST
from ml_backend.runtime import Runtime
from ml_backend.settings import Settings
from ml_backend.store import Project, Store
from training.errors import TrainingError

log = logging.getLogger(__name__)

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


class MaskRefresh:
    """The worker's part: after a version came into use, the masks in image projects follow.

    A little at a time, since events wait meanwhile, and not while a round runs, which has the
    device.
    """

    def __init__(self, runtime: Runtime, budget_s: float = 2.0) -> None:
        self.runtime = runtime
        self.budget_s = budget_s
        self._walks: dict[int, tuple[str, Iterator[Redrawn], list[Redrawn]]] = {}
        self._not_before: dict[int, float] = {}

    def look(self) -> None:
        """Go on where a project's masks are older than the version in use."""
        projects = self.runtime.store.projects()
        masks = [p for p in projects if p.template == "image_masks" and p.state == "active"]
        if not masks or any(self._is_running(p) for p in projects):
            return
        deadline = time.monotonic() + self.budget_s
        for project in masks:
            if time.monotonic() < self._not_before.get(project.id, 0.0):
                continue
            try:
                self._go_on(project, deadline)
            except NotReady:
                self._walks.pop(project.id, None)
            except (BackendError, TrainingError) as error:
                self._walks.pop(project.id, None)
                self._pause(project)
                log.warning("project %s: masks are not drawn again: %s", project.id, error)

    def _is_running(self, project: Project) -> bool:
        rounds = self.runtime.store.rounds(project.id)
        return bool(rounds) and rounds[-1].state not in ("done", "failed")

    def _pause(self, project: Project) -> None:
        self._not_before[project.id] = time.monotonic() + self.runtime.settings.reconcile_s

    def _go_on(self, project: Project, deadline: float) -> None:
        settings, store, ls = self.runtime.settings, self.runtime.store, self.runtime.ls
        version = serving_version(store, project).name
        if project.model_version == version:
            self._walks.pop(project.id, None)
            return
        walk = self._walks.get(project.id)
        if walk is None or walk[0] != version:
            everything = project.model_version is None
            steps = redraw(settings, store, ls, project, everything=everything)
            walk = self._walks[project.id] = (version, steps, [])
        _, steps, done = walk
        for step in steps:
            done.append(step)
            if step.problem:
                log.warning("project %s: task %s: %s", project.id, step.task_id, step.problem)
            if time.monotonic() >= deadline:
                return
        del self._walks[project.id]
        changed = sum(step.changed for step in done)
        if changed:
            log.info("project %s: %s masks drawn again by %s", project.id, changed, version)
            # An answer to /predict that was on its way may have brought an older one meanwhile.
            self._pause(project)
        else:
            store.update_project(project.id, model_version=version)
