from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import at, make_project, make_schema, make_store

from label_config import Answer, answer_result
from ml_backend.errors import LabelStudioError, NotFound
from ml_backend.ingest import apply_annotation
from ml_backend.label_studio import LabelStudio
from ml_backend.processes import LabelStudioServer
from ml_backend.reconcile import ReconcileReport, reconcile
from ml_backend.store import Store

SCHEMA = make_schema()
PROJECT = 4


class Server:
    """Stands for the listing of a Label Studio project."""

    def __init__(self, tasks: int) -> None:
        self.annotations: dict[int, list[dict[str, Any]]] = {k: [] for k in range(1, tasks + 1)}
        self.during: Callable[[int], None] = lambda task_id: None

    def tasks(self, project_id: int, with_annotations: bool = True) -> Iterator[dict[str, Any]]:
        assert project_id == PROJECT
        assert with_annotations
        for task_id, found in list(self.annotations.items()):
            self.during(task_id)
            yield {"id": task_id, "data": {}, "annotations": list(found)}

    def annotate(
        self, task: int, annotation: int, *names: str, when: float = 0.0, **more: Any
    ) -> None:
        """Add or replace an annotation."""
        self.remove(task, annotation)
        self.annotations[task].append(
            {
                "id": annotation,
                "result": answer_result(Answer("classes", names), SCHEMA, "region_multiclass"),
                "updated_at": at(when).isoformat(),
                "was_cancelled": False,
                "lead_time": 1.5,
                "completed_by": 7,
                **more,
            }
        )

    def remove(self, task: int, annotation: int) -> None:
        self.annotations[task] = [a for a in self.annotations[task] if a["id"] != annotation]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path, make_project(PROJECT, SCHEMA), open_tasks=5) as found:
        yield found


def run(store: Store, server: Server, seconds: float) -> ReconcileReport:
    return reconcile(store, server, PROJECT, at(seconds))  # type: ignore[arg-type]


def answers(store: Store) -> dict[int | None, tuple[str, tuple[str, ...]]]:
    """Live labels: task -> kind and classes."""
    return {label.task_id: (label.kind, label.classes) for label in store.labels(PROJECT)}


def test_lost_events_are_found(store: Store) -> None:
    server = Server(5)
    server.annotate(1, 11, "Road")
    server.annotate(2, 12, "Road", "Sky")
    server.annotate(3, 13, "Car", was_cancelled=True)
    assert run(store, server, 10) == ReconcileReport(seen=3, changed=3)
    assert answers(store) == {
        1: ("classes", ("Road",)),
        2: ("classes", ("Road", "Sky")),
        3: ("skipped", ()),
    }
    statuses = {q.task_id: q.status for q in store.queries(PROJECT)}
    assert statuses == {1: "answered", 2: "answered", 3: "skipped", 4: "open", 5: "open"}
    [first, *_] = store.labels(PROJECT)
    assert (first.lead_time_s, first.annotator, first.clicks) == (1.5, "7", 1)


def test_a_second_walk_changes_nothing_and_writes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(5)
    server.annotate(1, 11, "Road")
    run(store, server, 10)
    monkeypatch.setattr(Store, "apply_label", lambda *_, **__: pytest.fail("written again"))
    assert run(store, server, 20) == ReconcileReport(seen=1)


def test_a_changed_answer_replaces_the_older_one(store: Store) -> None:
    server = Server(5)
    server.annotate(1, 11, "Road")
    run(store, server, 10)
    server.annotate(1, 11, "Sky", when=15)
    assert run(store, server, 20) == ReconcileReport(seen=1, changed=1)
    assert answers(store) == {1: ("classes", ("Sky",))}


def test_a_vanished_annotation_is_deleted_and_its_question_opens_again(store: Store) -> None:
    server = Server(5)
    server.annotate(1, 11, "Road")
    server.annotate(2, 12, "Sky")
    run(store, server, 10)
    server.remove(1, 11)
    assert run(store, server, 20) == ReconcileReport(seen=1, deleted=1)
    assert answers(store) == {2: ("classes", ("Sky",))}
    assert store.query_by_task(PROJECT, 1).status == "open"  # type: ignore[union-attr]
    assert run(store, server, 30) == ReconcileReport(seen=1)


def test_a_vanished_task_takes_its_label_and_question_along(store: Store) -> None:
    server = Server(5)
    server.annotate(1, 11, "Road")
    run(store, server, 10)
    del server.annotations[1], server.annotations[5]
    assert run(store, server, 20) == ReconcileReport(deleted=1, withdrawn=2)
    assert answers(store) == {}
    assert {q.task_id for q in store.queries(PROJECT, status="withdrawn")} == {1, 5}
    assert run(store, server, 30) == ReconcileReport()


def test_a_label_that_came_by_webhook_during_the_walk_is_kept(store: Store) -> None:
    """Its task was listed before it was annotated, so the walk does not see it."""
    server, hidden = Server(5), Server(1)
    hidden.annotate(1, 11, "Road")

    def annotate_behind(task_id: int) -> None:
        if task_id == 3:
            project = store.project(PROJECT)
            assert project is not None
            apply_annotation(store, project, 1, hidden.annotations[1][0], at(21), on_server=False)

    server.during = annotate_behind
    assert run(store, server, 20).deleted == 0
    assert answers(store) == {1: ("classes", ("Road",))}


def test_a_label_seen_after_the_walk_began_is_kept(store: Store) -> None:
    """`now` was taken before the labels were read, and the web process is another one."""
    server = Server(5)
    server.annotate(1, 11, "Road")
    run(store, server, 21)
    server.remove(1, 11)
    assert run(store, server, 20).deleted == 0
    assert run(store, server, 22).deleted == 1


def test_a_deletion_that_came_during_the_walk_stays(store: Store) -> None:
    server = Server(5)
    server.annotate(1, 11, "Road")

    def delete_ahead(task_id: int) -> None:
        if task_id == 1:
            store.delete_labels(PROJECT, [11], at(25))

    server.during = delete_ahead
    assert run(store, server, 20).changed == 0
    assert answers(store) == {}


def test_a_false_tombstone_is_revived_by_the_server(store: Store) -> None:
    server = Server(5)
    server.annotate(1, 11, "Road")
    store.delete_labels(PROJECT, [11], at(5))
    assert run(store, server, 10) == ReconcileReport(seen=1, changed=1)
    assert answers(store) == {1: ("classes", ("Road",))}


def test_annotations_of_other_tasks_are_counted_as_unknown(store: Store) -> None:
    server = Server(6)
    server.annotate(6, 16, "Road")
    assert run(store, server, 10).unknown == 1
    assert all(q.status == "open" for q in store.queries(PROJECT))


def test_an_unreadable_annotation_does_not_stop_the_walk(store: Store) -> None:
    server = Server(5)
    server.annotate(1, 11, "Road", updated_at="yesterday")
    server.annotate(2, 12, "Sky")
    assert run(store, server, 10) == ReconcileReport(seen=2, changed=1, unknown=1)
    assert answers(store) == {2: ("classes", ("Sky",))}


def test_an_interrupted_walk_deletes_nothing(store: Store) -> None:
    server = Server(5)
    server.annotate(5, 15, "Road")
    run(store, server, 10)

    def break_down(task_id: int) -> None:
        if task_id == 3:
            raise LabelStudioError("gone")

    server.during = break_down
    with pytest.raises(LabelStudioError):
        run(store, server, 20)
    assert answers(store) == {5: ("classes", ("Road",))}
    assert store.queries(PROJECT, status="withdrawn") == []


def test_an_empty_project_has_nothing_to_say(tmp_path: Path) -> None:
    with make_store(tmp_path, make_project(PROJECT, SCHEMA)) as store:
        assert run(store, Server(0), 10) == ReconcileReport()


def test_an_unknown_project_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match="99"):
        reconcile(store, Server(0), 99, at(0))  # type: ignore[arg-type]


def test_mask_projects_hold_no_labels_of_regions(tmp_path: Path) -> None:
    project = make_project(PROJECT, SCHEMA, template="image_masks")
    with make_store(tmp_path, project) as store:
        # A listing would fail: the stand-in knows no project 0.
        assert reconcile(store, None, PROJECT, at(0)) == ReconcileReport()  # type: ignore[arg-type]


@pytest.mark.guarantee(5)
@pytest.mark.server
@pytest.mark.slow
def test_live_labels_follow_label_studio(label_studio: LabelStudioServer, tmp_path: Path) -> None:
    import httpx

    ls = LabelStudio(label_studio.url, label_studio.token)
    row = make_project(1, SCHEMA)
    project_id = ls.create_project("reconcile", row.label_config)
    task = {"data": {"crop": "http://x/c.jpg", "locator": "http://x/l.jpg", "region": "i:0"}}
    ids = ls.import_tasks(project_id, [task] * 4)
    api = httpx.Client(
        base_url=label_studio.url, headers={"Authorization": f"Token {label_studio.token}"}
    )

    def annotate(task_id: int, *names: str, skip: bool = False) -> int:
        result = answer_result(Answer("classes", names), SCHEMA, "region_multiclass")
        body = {"result": result, "lead_time": 1.0, "was_cancelled": skip}
        made = api.post(f"/api/tasks/{task_id}/annotations/", json=body)
        return int(made.raise_for_status().json()["id"])

    with api, make_store(tmp_path, make_project(project_id, SCHEMA), open_tasks=4) as store:
        queries = store.queries(project_id)
        store.set_task_ids({q.id: t for q, t in zip(queries, ids, strict=True)})
        first = annotate(ids[0], "Road")
        second = annotate(ids[1], "Sky", "Car")
        annotate(ids[2], "Sky", skip=True)

        def walk() -> ReconcileReport:
            time.sleep(0.01)
            return reconcile(store, ls, project_id, datetime.now(UTC))

        assert walk() == ReconcileReport(seen=3, changed=3)
        assert walk() == ReconcileReport(seen=3)
        result = answer_result(Answer("nothing", ()), SCHEMA, "region_multiclass")
        api.patch(f"/api/annotations/{first}/", json={"result": result}).raise_for_status()
        api.delete(f"/api/annotations/{second}/").raise_for_status()
        ls.delete_tasks(project_id, [ids[2]])
        assert walk() == ReconcileReport(seen=1, changed=1, deleted=2, withdrawn=1)
        [left] = store.labels(project_id)
        assert (left.kind, left.annotator) == ("nothing", str(ls.whoami()["id"]))
        statuses = [q.status for q in store.queries(project_id)]
        assert statuses == ["answered", "open", "withdrawn", "open"]
    ls.delete_project(project_id)
    ls.close()
