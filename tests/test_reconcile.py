from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import at, make_project, make_schema, make_store
from fake_label_studio import FakeLabelStudio

from label_config import Answer, answer_result
from ml_backend import label_studio_tasks
from ml_backend.errors import LabelStudioError, NotFound
from ml_backend.ingest import apply_annotation
from ml_backend.label_studio import LabelStudio
from ml_backend.processes import LabelStudioServer
from ml_backend.reconcile import ReconcileReport, reconcile
from ml_backend.store import Store

SCHEMA = make_schema()
PROJECT = 4


def open_office(tasks: int) -> FakeLabelStudio:
    """Label Studio with a project of tasks 1 ..."""
    ls = FakeLabelStudio()
    ls.server.add_project(PROJECT)
    for task_id in range(1, tasks + 1):
        ls.server.add_task(PROJECT, task_id, {})
    return ls


def ticks(*names: str) -> list[dict[str, Any]]:
    """What an annotator ticks."""
    found: list[dict[str, Any]] = answer_result(
        Answer("classes", names), SCHEMA, "region_multiclass"
    )
    return found


def annotate(ls: FakeLabelStudio, task: int, annotation: int, *names: str, **more: Any) -> None:
    """Somebody answers; annotations have the ids that a test gives them."""
    fields = {"updated_at": at(0).isoformat(), "lead_time": 1.5, "user": 7, **more}
    ls.server.annotate(task, ticks(*names), annotation_id=annotation, **fields)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk in several requests, between which things happen."""
    monkeypatch.setattr(label_studio_tasks, "PAGE", 2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path, make_project(PROJECT, SCHEMA), open_tasks=5) as found:
        yield found


def run(store: Store, ls: FakeLabelStudio, seconds: float) -> ReconcileReport:
    return reconcile(store, ls, PROJECT, at(seconds))


def answers(store: Store) -> dict[int | None, tuple[str, tuple[str, ...]]]:
    """Live labels: task -> kind and classes."""
    return {label.task_id: (label.kind, label.classes) for label in store.labels(PROJECT)}


def test_lost_events_are_found(store: Store) -> None:
    ls = open_office(5)
    annotate(ls, 1, 11, "Road")
    annotate(ls, 2, 12, "Road", "Sky")
    annotate(ls, 3, 13, "Car", skip=True)
    assert run(store, ls, 10) == ReconcileReport(seen=3, changed=3)
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
    ls = open_office(5)
    annotate(ls, 1, 11, "Road")
    run(store, ls, 10)
    monkeypatch.setattr(Store, "apply_label", lambda *_, **__: pytest.fail("written again"))
    assert run(store, ls, 20) == ReconcileReport(seen=1)


def test_a_changed_answer_replaces_the_older_one(store: Store) -> None:
    ls = open_office(5)
    annotate(ls, 1, 11, "Road")
    run(store, ls, 10)
    ls.server.change(11, result=ticks("Sky"), updated_at=at(15).isoformat())
    assert run(store, ls, 20) == ReconcileReport(seen=1, changed=1)
    assert answers(store) == {1: ("classes", ("Sky",))}


def test_a_vanished_annotation_is_deleted_and_its_question_opens_again(store: Store) -> None:
    ls = open_office(5)
    annotate(ls, 1, 11, "Road")
    annotate(ls, 2, 12, "Sky")
    run(store, ls, 10)
    ls.server.delete_annotation(11)
    assert run(store, ls, 20) == ReconcileReport(seen=1, deleted=1)
    assert answers(store) == {2: ("classes", ("Sky",))}
    assert store.query_by_task(PROJECT, 1).status == "open"  # type: ignore[union-attr]
    assert run(store, ls, 30) == ReconcileReport(seen=1)


def test_a_vanished_task_takes_its_label_and_question_along(store: Store) -> None:
    ls = open_office(5)
    annotate(ls, 1, 11, "Road")
    run(store, ls, 10)
    ls.delete_tasks(PROJECT, [1, 5])
    assert run(store, ls, 20) == ReconcileReport(deleted=1, withdrawn=2)
    assert answers(store) == {}
    withdrawn = store.queries(PROJECT, status="withdrawn")
    assert {(q.region_index, q.task_id) for q in withdrawn} == {(0, None), (4, None)}
    assert run(store, ls, 30) == ReconcileReport()


@pytest.mark.usefixtures("small_pages")
def test_a_label_that_came_by_webhook_during_the_walk_is_kept(store: Store) -> None:
    """Its task was listed before it was annotated, so the walk does not see it."""
    ls = open_office(5)

    def annotate_behind() -> None:
        annotate(ls, 1, 11, "Road")
        _, said = ls.server.said[-1]
        project = store.project(PROJECT)
        assert project is not None
        apply_annotation(store, project, 1, said["annotation"], at(21), on_server=False)

    ls.server.before("tasks", annotate_behind, skip=1)
    assert run(store, ls, 20).deleted == 0
    assert answers(store) == {1: ("classes", ("Road",))}


def test_a_label_seen_after_the_walk_began_is_kept(store: Store) -> None:
    """`now` was taken before the labels were read, and the web process is another one."""
    ls = open_office(5)
    annotate(ls, 1, 11, "Road")
    run(store, ls, 21)
    ls.server.delete_annotation(11)
    assert run(store, ls, 20).deleted == 0
    assert run(store, ls, 22).deleted == 1


def test_a_deletion_that_came_during_the_walk_stays(store: Store) -> None:
    ls = open_office(5)
    annotate(ls, 1, 11, "Road")

    ls.server.before("tasks", lambda: store.delete_labels(PROJECT, [11], at(25)))
    assert run(store, ls, 20).changed == 0
    assert answers(store) == {}


def test_a_false_tombstone_is_revived_by_the_server(store: Store) -> None:
    ls = open_office(5)
    annotate(ls, 1, 11, "Road")
    store.delete_labels(PROJECT, [11], at(5))
    assert run(store, ls, 10) == ReconcileReport(seen=1, changed=1)
    assert answers(store) == {1: ("classes", ("Road",))}


def test_annotations_of_other_tasks_are_counted_as_unknown(store: Store) -> None:
    ls = open_office(6)
    annotate(ls, 6, 16, "Road")
    assert run(store, ls, 10).unknown == 1
    assert all(q.status == "open" for q in store.queries(PROJECT))


def test_an_unreadable_annotation_does_not_stop_the_walk(store: Store) -> None:
    ls = open_office(5)
    annotate(ls, 1, 11, "Road", updated_at="yesterday")
    annotate(ls, 2, 12, "Sky")
    assert run(store, ls, 10) == ReconcileReport(seen=2, changed=1, unknown=1)
    assert answers(store) == {2: ("classes", ("Sky",))}


@pytest.mark.usefixtures("small_pages")
def test_an_interrupted_walk_deletes_nothing(store: Store) -> None:
    ls = open_office(5)
    annotate(ls, 5, 15, "Road")
    run(store, ls, 10)
    ls.server.go_away("tasks", skip=1)
    with pytest.raises(LabelStudioError):
        run(store, ls, 20)
    assert len(ls.server.asked("tasks")) == 3 + 2, "a whole walk and a page of the second"
    assert answers(store) == {5: ("classes", ("Road",))}
    assert store.queries(PROJECT, status="withdrawn") == []


def test_an_empty_project_has_nothing_to_say(tmp_path: Path) -> None:
    with make_store(tmp_path, make_project(PROJECT, SCHEMA)) as store:
        assert run(store, open_office(0), 10) == ReconcileReport()


def test_an_unknown_project_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match="99"):
        reconcile(store, open_office(0), 99, at(0))


def test_mask_projects_hold_no_labels_of_regions(tmp_path: Path) -> None:
    project = make_project(PROJECT, SCHEMA, template="image_masks")
    with make_store(tmp_path, project) as store:
        ls = FakeLabelStudio()
        assert reconcile(store, ls, PROJECT, at(0)) == ReconcileReport()
        assert ls.server.requests == []


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
