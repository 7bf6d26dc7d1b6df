"""One task per question: tasks of Label Studio that ask what another one asks.

Label Studio deduplicates nothing. A worker that froze between its last look at its lease and the
import sends the page when it wakes, although another one has pushed those questions since; an
import whose answer was lost may have been made. Nobody's answer is thrown away for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ml_backend.label_studio import LabelStudio, Refused
from ml_backend.store import Query, Store
from training.regions import RegionId

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskSeen:
    """A task on the server that asks about a region of ours."""

    id: int
    answered: bool


@dataclass(frozen=True)
class Copies:
    """Tasks that ask one question, by ascending id, and the task that the ledger named then."""

    query_id: int
    ledger: int | None
    tasks: tuple[TaskSeen, ...]

    @property
    def kept(self) -> int:
        """The task that stays: one with an answer first, then the ledger's, then the oldest."""
        order = sorted(self.tasks, key=lambda t: (not t.answered, t.id != self.ledger, t.id))
        return order[0].id

    @property
    def superfluous(self) -> list[int]:
        """Tasks that may go: nobody answered them."""
        return [t.id for t in self.tasks if t.id != self.kept and not t.answered]


class Question(NamedTuple):
    """What a task asks, by identity: its region, the hash of the region map, which asking it is."""

    region: str
    regions_hash: str
    asking: int


def question_of(task: Mapping[str, Any]) -> Question | None:
    """What a task asks; None for tasks that are not ours. A task of release 0.1.0 is asking 1."""
    data = task.get("data")
    if not isinstance(data, Mapping) or "region" not in data:
        return None
    asking = data.get("asking", 1)
    if not isinstance(asking, int) or isinstance(asking, bool):
        return None
    return Question(str(data["region"]), str(data.get("regions_hash", "")), asking)


def question(query: Query) -> Question:
    """The identity of a stored question."""
    region = RegionId(query.image_id, query.region_index)
    return Question(str(region), query.regions_hash, query.asking)


def seen(task: Mapping[str, Any]) -> TaskSeen:
    """A task as a walk with annotations shows it; a skip counts as an answer."""
    return TaskSeen(int(task["id"]), bool(task.get("annotations")))


class Walk:
    """Collects, while all tasks of a project are walked over, what asks the same question."""

    def __init__(self, queries: Iterable[Query]) -> None:
        self._queries = {question(query): query for query in queries}
        self._tasks: dict[Question, list[TaskSeen]] = {}

    def note(self, task: Mapping[str, Any]) -> None:
        """Look at the next task."""
        key = question_of(task)
        if key is not None and key in self._queries:
            self._tasks.setdefault(key, []).append(seen(task))

    def groups(self) -> list[Copies]:
        """What each question of ours has on the server, one task or more."""
        return [
            Copies(query.id, query.task_id, tuple(sorted(self._tasks[key], key=lambda t: t.id)))
            for key, query in self._queries.items()
            if key in self._tasks
        ]


def remove_copies(store: Store, ls: LabelStudio, project_id: int, copies: Sequence[Copies]) -> int:
    """Leave one task per question; the ledger names it, whatever task it named before.

    Only for whoever holds the project's lease: a push must not be under way. What changed since
    the walk is left to the next one.

    Returns:
        How many tasks were deleted.
    """
    if not copies:
        return 0
    now = {query.id: query.task_id for query in store.queries(project_id)}
    current = [c for c in copies if now.get(c.query_id) == c.ledger]
    moved = {c.query_id: c.kept for c in current if c.kept != c.ledger}
    if moved:
        store.set_task_ids(moved)
    # Somebody may have answered one since the walk: looked at again just before it goes.
    gone = [t for copy in current for t in copy.superfluous if _still_unanswered(ls, t)]
    if gone:
        ls.delete_tasks(project_id, gone)
        log.warning("project %s: deleted %s tasks that were pushed twice", project_id, len(gone))
    return len(gone)


def _still_unanswered(ls: LabelStudio, task_id: int) -> bool:
    """Whether nobody answered a task; False for one that is gone meanwhile."""
    try:
        return not ls.annotations(task_id)
    except Refused as error:
        if error.code == 404:
            return False
        raise
