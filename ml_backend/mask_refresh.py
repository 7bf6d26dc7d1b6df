"""The worker's part of masks in image projects: they follow the version that is in use."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.exc import DBAPIError

from ml_backend.errors import BackendError, LeaseLost, NotReady
from ml_backend.failures import reason_of
from ml_backend.leases import Keeper, device_lease, push_lease
from ml_backend.mask_predictions import serving_version
from ml_backend.mask_redraw import Redrawn, redraw
from ml_backend.runtime import Runtime
from ml_backend.store import Project
from ml_backend.store.rows import utc_now
from ml_backend.trouble import Pauses, note_trouble
from training.errors import TrainingError

log = logging.getLogger(__name__)

# A picture whose server does not answer takes minutes. Events wait meanwhile, so that a project
# that went over its budget by this much is left alone for several times as long as it took.
MUCH_S = 10.0
REST = 4.0


@dataclass
class MaskRefresh:
    """After a version came into use, the masks that image projects show are drawn by it.

    A little at a time, since events wait meanwhile, and only while nobody has the GPU.
    """

    runtime: Runtime
    keeper: Keeper
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = utc_now
    budget_s: float = 2.0
    pauses: Pauses = field(init=False)
    _walks: dict[int, _Walk] = field(default_factory=dict)
    _again_at: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pauses = Pauses(self.runtime.settings.reconcile_s, self.clock)

    def look(self) -> None:
        """Go on where a project shows masks of another version than the one in use."""
        deadline = self.clock() + self.budget_s
        for project in self.runtime.store.projects():
            if project.template != "image_masks" or project.state != "active":
                continue
            if not self.pauses.over(project.id):
                continue
            started = self.clock()
            try:
                self._follow(project, deadline)
            except NotReady:
                self._walks.pop(project.id, None)
            except LeaseLost:
                raise
            except Exception as error:
                self._failed(project, error)
            took_s = self.clock() - started
            if took_s > self.budget_s + MUCH_S:
                rest = self.clock() + REST * took_s
                self._again_at[project.id] = max(rest, self._again_at.get(project.id, -math.inf))
                log.warning("project %s: drawing masks took %.0f s, left alone for %.0f s",
                            project.id, took_s, REST * took_s)  # fmt: skip

    def _failed(self, project: Project, error: Exception) -> None:
        self._walks.pop(project.id, None)
        known = isinstance(error, BackendError | TrainingError | DBAPIError)
        reason, pause = reason_of(error), self.pauses.failed(project.id)
        log.warning("project %s: masks are not drawn again: %s Left alone for %.0f s.", project.id,
                    reason, pause, exc_info=None if known else error)  # fmt: skip
        with contextlib.suppress(DBAPIError):
            note_trouble(self.runtime.store, project.id, reason, self.now())

    def _follow(self, project: Project, deadline: float) -> None:
        version = serving_version(self.runtime.store, project).name
        if project.model_version == version:
            self._walks.pop(project.id, None)
            return
        if self.clock() < self._again_at.get(project.id, -math.inf):
            return
        gpu = device_lease(self.runtime.settings.device)
        leases = (push_lease(project.id), *(() if gpu is None else (gpu,)))
        with self.keeper.turn(*leases, wait=False) as held:
            if held and self._walk(project, version, deadline):
                self.pauses.went_well(project.id)
                note_trouble(self.runtime.store, project.id, None, self.now())

    def _walk(self, project: Project, version: str, deadline: float) -> bool:
        """Go on with the walk over a project's tasks; whether it is at its end."""
        settings, store, ls = self.runtime.settings, self.runtime.store, self.runtime.ls
        walk = self._walks.get(project.id)
        if walk is None or walk.version != version:
            everything = project.model_version is None
            steps = redraw(settings, store, ls, project, everything=everything)
            walk = self._walks[project.id] = _Walk(version, steps)
        for step in walk.steps:
            walk.changed += step.changed
            if step.problem:
                log.warning("project %s: task %s: %s", project.id, step.task_id, step.problem)
            if self.clock() >= deadline:
                return False
        del self._walks[project.id]
        if walk.changed:
            log.info("project %s: %s masks drawn again by %s", project.id, walk.changed, version)
            # An answer to /predict that was on its way may have brought an older one meanwhile.
            self._again_at[project.id] = self.clock() + settings.reconcile_s
        else:
            store.update_project(project.id, model_version=version)
        return True


@dataclass
class _Walk:
    """A walk over the tasks of a project that has begun."""

    version: str
    steps: Iterator[Redrawn]
    changed: int = 0
