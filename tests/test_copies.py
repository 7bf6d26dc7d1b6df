"""Several tasks for one question: one stays, an answered one before all, and no answer is lost."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import at, make_project, make_query, make_schema, make_store

from label_config import Answer, answer_result
from ml_backend.copies import Copies, TaskSeen, Walk, question_of, remove_copies
from ml_backend.push import adopt_uncertain
from ml_backend.reconcile import reconcile
from ml_backend.store import Store
from training.regions import RegionId

SCHEMA = make_schema()
PROJECT = 4
QUERY = make_query(PROJECT)

pytestmark = pytest.mark.guarantee(12)


class Server:
    """Tasks of a Label Studio project: id -> region, hash, annotations."""

    def __init__(self, store: Store) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        for query in store.queries(PROJECT):
            self.add(query.region_index + 1, query.region_index)
        self.asked_with_annotations: list[bool] = []

    def add(self, task: int, region: int, regions_hash: str | None = None) -> None:
        data = {
            "region": str(RegionId(QUERY.image_id, region)),
            "regions_hash": regions_hash or QUERY.regions_hash,
        }
        self.rows[task] = {"id": task, "data": data, "annotations": []}

    def answer(self, task: int, name: str = "Road", **more: Any) -> None:
        result = answer_result(Answer("classes", (name,)), SCHEMA, "region_multiclass")
        self.rows[task]["annotations"].append(
            {"id": 100 + task, "result": result, "updated_at": at(1).isoformat(),
             "was_cancelled": False, **more}
        )  # fmt: skip

    def tasks(self, project_id: int, with_annotations: bool = True) -> Iterator[dict[str, Any]]:
        self.asked_with_annotations.append(with_annotations)
        for row in list(self.rows.values()):
            yield row if with_annotations else {k: row[k] for k in ("id", "data")}

    def delete_tasks(self, project_id: int, ids: Collection[int]) -> None:
        for task in ids:
            assert not self.rows[task]["annotations"], "somebody's answer was thrown away"
            del self.rows[task]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path, make_project(PROJECT, SCHEMA), open_tasks=3) as found:
        yield found


def heal(store: Store, server: Server, when: float = 10) -> int:
    """What the worker does with a walk."""
    report = reconcile(store, server, PROJECT, at(when))  # type: ignore[arg-type]
    return remove_copies(store, server, PROJECT, report.copies)  # type: ignore[arg-type]


def ledger(store: Store) -> dict[int, tuple[int | None, str]]:
    """Region -> task and status."""
    return {q.region_index: (q.task_id, q.status) for q in store.queries(PROJECT)}


def test_an_unanswered_copy_goes(store: Store) -> None:
    server = Server(store)
    server.add(9, 0)
    server.add(8, 0)
    assert heal(store, server) == 2
    assert list(server.rows) == [1, 2, 3]
    assert ledger(store)[0] == (1, "open")
    assert heal(store, server, 11) == 0


@pytest.mark.parametrize("skipped", [False, True])
def test_an_answered_copy_takes_the_place(store: Store, skipped: bool) -> None:
    """Seen failing with the oldest task kept, whichever was answered."""
    server = Server(store)
    server.add(9, 1)
    server.answer(9, was_cancelled=skipped)
    assert heal(store, server) == 1
    assert list(server.rows) == [1, 3, 9]
    assert ledger(store)[1] == (9, "skipped" if skipped else "answered")
    (label,) = store.labels(PROJECT)
    assert (label.task_id, label.query_id) == (9, store.queries(PROJECT)[1].id)


def test_two_answers_both_stay(store: Store) -> None:
    """The ledger's counts; nothing is deleted in Label Studio."""
    server = Server(store)
    server.add(9, 1)
    server.answer(2, "Road")
    server.answer(9, "Sky")
    assert heal(store, server) == 0
    assert list(server.rows) == [1, 2, 3, 9]
    assert ledger(store)[1] == (2, "answered")
    assert len(store.labels(PROJECT)) == 2


def test_the_copy_of_a_deleted_task_asks_its_question(store: Store) -> None:
    """A person removed the wrong one of two: the other one counts from now on."""
    server = Server(store)
    server.add(9, 2)
    del server.rows[3]
    assert heal(store, server) == 0
    assert ledger(store)[2] == (9, "open")
    server.answer(9)
    heal(store, server, 20)
    assert ledger(store)[2] == (9, "answered")


def test_other_tasks_are_left_alone(store: Store) -> None:
    """Another region map, another region, no region, no data."""
    server = Server(store)
    server.add(9, 0, regions_hash="of another map")
    server.add(10, 77)
    server.rows[11] = {"id": 11, "data": {}, "annotations": []}
    server.rows[12] = {"id": 12, "data": None, "annotations": []}
    assert heal(store, server) == 0
    assert len(server.rows) == 7
    assert question_of({"data": ["x"]}) is None


def test_what_changed_since_the_walk_waits_for_the_next(store: Store) -> None:
    """Seen failing with the ledger's task not compared in `remove_copies`."""
    server = Server(store)
    server.add(9, 0)
    report = reconcile(store, server, PROJECT, at(10))  # type: ignore[arg-type]
    assert [c.kept for c in report.copies] == [1]
    assert str(report).endswith("1 asked by several tasks")
    store.set_task_ids({store.queries(PROJECT)[0].id: 9})
    assert remove_copies(store, server, PROJECT, report.copies) == 0  # type: ignore[arg-type]
    assert set(server.rows) == {1, 2, 3, 9}


def test_a_page_of_unknown_fate_adopts_the_answered_task(store: Store) -> None:
    """Seen failing as the test above, and so it was: the answered task was deleted."""
    server = Server(store)
    server.add(9, 0)
    server.answer(9)
    del server.rows[2]
    store.set_query_status([q.id for q in store.queries(PROJECT)], "pushing")
    adopted = adopt_uncertain(store, server, PROJECT)  # type: ignore[arg-type]
    assert adopted == 2
    assert server.asked_with_annotations == [True]
    assert list(server.rows) == [3, 9]
    tasks = ledger(store)
    assert tasks[0][0] == 9
    assert tasks[1][1] == "planned"
    assert tasks[2] == (3, "open")


@pytest.mark.parametrize(
    ("tasks", "ledger_task", "kept", "gone"),
    [
        ([(5, False)], 5, 5, []),
        ([(5, False), (6, False)], None, 5, [6]),
        ([(5, False), (6, False)], 6, 6, [5]),
        ([(5, False), (6, True)], 5, 6, [5]),
        ([(5, True), (6, True), (7, False)], 6, 6, [7]),
        ([(6, False)], 5, 6, []),
    ],
)
def test_which_task_stays(
    tasks: list[tuple[int, bool]], ledger_task: int | None, kept: int, gone: list[int]
) -> None:
    found = Copies(1, ledger_task, tuple(TaskSeen(*task) for task in tasks))
    assert (found.kept, found.superfluous) == (kept, gone)


def test_nothing_to_walk_over() -> None:
    walk = Walk([])
    walk.note({"id": 1, "data": {"region": "a:1"}})
    assert walk.groups() == []
