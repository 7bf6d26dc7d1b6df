"""Why Label Studio refuses one project: noted with it, and no concern of the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from ml_backend.errors import NotFound
from ml_backend.store import Project, Store

LONGEST_PAUSE_S = 600.0


def note_trouble(store: Store, project_id: int, reason: str | None, at: datetime) -> None:
    """Record why a project cannot go on, for people, or that it goes on again (None)."""
    row = store.project(project_id)
    if row is None or row.trouble == reason:
        return
    with contextlib.suppress(NotFound):  # forgotten since that look
        store.update_project(project_id, trouble=reason, trouble_at=None if reason is None else at)


# Of a project whose files are being removed; cut off, only forgetting it again helps.
FORGETTING = "It is being forgotten, which was cut off."


def trouble_advice(project: Project) -> str:
    """What to do about a project's trouble; "" where it has none."""
    if project.trouble is None:
        return ""
    forget = f"`pixbal project forget --project {project.id}`"
    if project.trouble == FORGETTING:
        return f"{forget} again ends it."
    if "answered 404" in project.trouble:
        return (
            f"If it is gone for good, {forget} removes what is left of it here. If not, check "
            "that LABEL_STUDIO_API_KEY is of its organisation."
        )
    return (
        f"It is tried again by itself. `pixbal doctor --project {project.id}` looks at every "
        "connection."
    )


@dataclass
class Pauses:
    """How long to leave each project alone: the pause doubles with every failure in a row."""

    first_s: float
    clock: Callable[[], float]
    _failures: dict[int, int] = field(default_factory=dict)
    _until: dict[int, float] = field(default_factory=dict)

    def over(self, project_id: int) -> bool:
        """Whether it may be tried (again)."""
        return self.clock() >= self._until.get(project_id, float("-inf"))

    def failing(self, project_id: int) -> bool:
        """Whether the last try failed."""
        return project_id in self._failures

    def failed(self, project_id: int) -> float:
        """Leave it alone for a while; how long, in seconds."""
        failures = self._failures[project_id] = self._failures.get(project_id, 0) + 1
        pause = min(self.first_s * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_S)
        self._until[project_id] = self.clock() + pause
        return pause

    def end_pause(self, project_id: int) -> None:
        """Somebody asks: try now; where that fails, the next pause is longer all the same."""
        self._until.pop(project_id, None)

    def went_well(self, project_id: int) -> None:
        """The next failure is the first one again."""
        self._failures.pop(project_id, None)
        self._until.pop(project_id, None)
