"""ml_backend.ingest: messages in any order, any number of times, end in what Label Studio holds."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import at, make_project, make_schema, make_store, open_queries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from label_config import Answer, answer_result
from ml_backend.errors import BackendError, BadRequest, NotFound
from ml_backend.events import event_digest, redact
from ml_backend.ingest import (
    apply_annotation,
    apply_event,
    label_from_annotation,
    parse_time,
    positive_int,
)
from ml_backend.store import Event, Store

PROJECT = make_project()
SCHEMA = make_schema()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Project 4 with three open questions, tasks 1 to 3."""
    with make_store(tmp_path, PROJECT, make_project(5), open_tasks=3) as opened:
        yield opened


def annotation(
    annotation_id: int = 1, seconds: float = 0, *classes: str, **fields: Any
) -> dict[str, Any]:
    """An annotation as Label Studio sends it, updated so many seconds after the start."""
    answer = Answer("classes", classes) if classes else Answer("empty")
    base = {
        "id": annotation_id,
        "task": 1,
        "result": answer_result(answer, SCHEMA, "region_multiclass"),
        "was_cancelled": False,
        "updated_at": at(seconds).isoformat().replace("+00:00", "Z"),
        "lead_time": 2.5,
        "completed_by": 7,
    }
    return {**base, **fields}


def send(store: Store, action: str, project_id: int | None = 4, **payload: Any) -> Event:
    """Record an event and apply it, as the worker does."""
    event, _ = store.record_event(project_id, action, {"action": action, **payload})
    error = None
    try:
        apply_event(store, event)
    except BackendError as failure:
        error = str(failure)
    store.finish_event(event.id, error)
    return event


def state(store: Store) -> tuple[dict[int, tuple[str, ...]], list[str]]:
    labels = {label.annotation_id: label.classes for label in store.labels(4)}
    return labels, [query.status for query in store.queries(4)]


# One annotation -> one label


@pytest.mark.parametrize(
    ("choices", "kind", "classes", "clicks"),
    [
        (["0", "2"], "classes", ("Road", "Car"), 2),
        (["none"], "nothing", (), 1),
        (["0", "unsure"], "unsure", (), 1),
        ([], "empty", (), 0),
        (["9"], "invalid", (), 0),
        ("0", "invalid", (), 0),
    ],
)
def test_label_of_choices(choices: Any, kind: str, classes: tuple[str, ...], clicks: int) -> None:
    item = {
        "from_name": "classes",
        "to_name": "region",
        "type": "choices",
        "value": {"choices": choices},
    }
    label = label_from_annotation(PROJECT, 1, 3, annotation(result=[item]), at(9))
    assert (label.kind, label.classes, label.clicks) == (kind, classes, clicks)
    assert (label.task_id, label.query_id, label.project_id) == (1, 3, 4)
    assert (label.lead_time_s, label.annotator, label.deleted) == (2.5, "7", False)
    assert (label.updated_at, label.seen_at) == (at(0), at(9))


def test_skip_ignores_the_ticks_it_carries() -> None:
    skipped = annotation(1, 0, "Road", was_cancelled=True)
    label = label_from_annotation(PROJECT, 1, 1, skipped, at(0))
    assert (label.kind, label.classes, label.clicks) == ("skipped", (), 0)


@pytest.mark.parametrize("result", [None, []])
def test_no_result_is_an_empty_answer(result: Any) -> None:
    assert label_from_annotation(PROJECT, 1, 1, annotation(result=result), at(0)).kind == "empty"


@pytest.mark.parametrize("result", ["x", {}, [1], [[]], 3, True])
def test_odd_results_are_invalid_not_fatal(result: Any) -> None:
    label = label_from_annotation(PROJECT, 1, 1, annotation(result=result), at(0))
    assert label.kind == "invalid"


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"lead_time": None}, "lead_time_s", None),
        ({"lead_time": float("nan")}, "lead_time_s", None),
        ({"lead_time": -1}, "lead_time_s", None),
        ({"lead_time": 10**400}, "lead_time_s", None),
        ({"lead_time": True}, "lead_time_s", None),
        ({"lead_time": 3}, "lead_time_s", 3.0),
        ({"completed_by": {"id": 8, "email": "a@b"}}, "annotator", "8"),
        ({"completed_by": None}, "annotator", None),
        ({"completed_by": "x"}, "annotator", None),
    ],
)
def test_details_that_are_missing_or_odd(fields: dict[str, Any], name: str, expected: Any) -> None:
    label = label_from_annotation(PROJECT, 1, 1, annotation(**fields), at(0))
    assert getattr(label, name) == expected


@pytest.mark.parametrize("value", [None, 0, -1, 2**63, True, "1", 1.0, [1]])
def test_ids_are_checked(value: Any) -> None:
    with pytest.raises(BadRequest, match=r"annotation\.id to be a positive whole number"):
        label_from_annotation(PROJECT, 1, 1, annotation(id=value), at(0))
    assert positive_int(2**63 - 1, "x") == 2**63 - 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-22T15:00:01Z", 1),
        ("2026-11-22T15:00:01.000000+00:00", 1),
        ("2026-11-22T20:00:02+05:00", 2),
        ("2026-11-22T15:00:03", 3),
    ],
)
def test_times_become_utc(text: str, seconds: int) -> None:
    assert parse_time(text) == at(seconds)


@pytest.mark.parametrize("value", [None, "", "yesterday", 5, "0001-01-01T00:00:00+23:59", [1]])
def test_times_are_checked(value: Any) -> None:
    with pytest.raises(BadRequest, match="Expected updated_at"):
        parse_time(value)


# Events


def test_created_updated_deleted(store: Store) -> None:
    send(store, "ANNOTATION_CREATED", annotation=annotation(1, 1, "Road"))
    assert state(store) == ({1: ("Road",)}, ["answered", "open", "open"])
    send(store, "ANNOTATION_UPDATED", annotation=annotation(1, 2, "Sky"))
    assert state(store)[0] == {1: ("Sky",)}
    send(store, "ANNOTATIONS_DELETED", annotations=[{"id": 1}])
    assert state(store) == ({}, ["open", "open", "open"])


MESSAGES: list[tuple[str, dict[str, Any]]] = [
    ("ANNOTATION_CREATED", {"annotation": annotation(1, 1, "Road")}),
    ("ANNOTATION_UPDATED", {"annotation": annotation(1, 2, "Sky")}),
    ("ANNOTATION_CREATED", {"annotation": annotation(2, 3, "Car", task=2)}),
    ("ANNOTATIONS_DELETED", {"annotations": [{"id": 2}]}),
]


@pytest.mark.guarantee(4)
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_ends_in_the_same_state(store: Store, order: tuple[int, ...]) -> None:
    for i in (*order, *order):
        action, payload = MESSAGES[i]
        send(store, action, **payload)
    assert state(store) == ({1: ("Sky",)}, ["answered", "open", "open"])


def test_bulk_creation(store: Store) -> None:
    items = [annotation(1, 1, "Road"), annotation(2, 1, "Sky", task=2)]
    send(store, "ANNOTATIONS_CREATED", annotations=items)
    assert state(store)[1] == ["answered", "answered", "open"]


def test_deleted_task_withdraws_its_question(store: Store) -> None:
    send(store, "ANNOTATION_CREATED", annotation=annotation(1, 1, "Road"))
    send(store, "TASKS_DELETED", tasks=[{"id": 1}, {"id": 99}])
    assert state(store) == ({}, ["withdrawn", "open", "open"])


def test_task_is_read_from_the_payload_where_the_annotation_has_none(store: Store) -> None:
    send(
        store, "ANNOTATION_CREATED", annotation=annotation(1, 1, "Road", task=None), task={"id": 2}
    )
    assert state(store)[1] == ["open", "answered", "open"]


def test_unknown_task_is_kept_with_a_reason_and_counts_later(store: Store) -> None:
    send(store, "ANNOTATION_CREATED", annotation=annotation(1, 1, "Road", task=50))
    (kept,) = store.failed_events(4)
    assert "no question with the task 50" in str(kept.error)
    assert store.effective_labels(4) == {}
    store.set_task_ids({store.queries(4)[1].id: 50})
    assert state(store)[1] == ["open", "answered", "open"]


def test_unknown_project_is_an_error(store: Store) -> None:
    event, _ = store.record_event(77, "ANNOTATION_CREATED", {"annotation": annotation()})
    with pytest.raises(NotFound, match="Project 77"):
        apply_event(store, event)


@pytest.mark.parametrize("action", ["START_TRAINING", "TASKS_CREATED", "PROJECT_UPDATED", "NEW"])
def test_other_actions_change_nothing(store: Store, action: str) -> None:
    before = state(store)
    event, _ = store.record_event(4, action, {"tasks": [{"id": 1}]})
    apply_event(store, event)
    assert state(store) == before


def test_mask_projects_take_no_region_labels(store: Store) -> None:
    store.update_project(4, template="image_masks")
    send(store, "ANNOTATION_CREATED", annotation=annotation(1, 1, "Road"))
    assert store.labels(4) == []


def test_annotations_of_another_project_do_not_touch_this_one(store: Store) -> None:
    send(store, "ANNOTATION_CREATED", 5, annotation=annotation(1, 1, "Road"))
    assert state(store) == ({}, ["open", "open", "open"])


def test_walk_over_the_server_brings_a_label_back(store: Store) -> None:
    """A tombstone set by mistake is healed by a later look, not by a late message."""
    apply_annotation(store, PROJECT, 1, annotation(1, 1, "Road"), at(5))
    store.delete_labels(4, [1], at(6))
    late = annotation(1, 1, "Road")
    assert apply_annotation(store, PROJECT, 1, late, at(9), on_server=False) is False
    assert apply_annotation(store, PROJECT, 1, late, at(5)) is False
    assert apply_annotation(store, PROJECT, 1, late, at(9)) is True
    assert state(store)[0] == {1: ("Road",)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    action=st.sampled_from(["ANNOTATION_CREATED", "ANNOTATIONS_DELETED", "TASKS_DELETED"]),
    key=st.sampled_from(["annotation", "annotations", "tasks", "task"]),
    value=json_values,
)
def test_any_payload_is_applied_or_named(store: Store, action: str, key: str, value: Any) -> None:
    event = Event(1, 4, action, {key: value}, "d", at(0))
    with contextlib.suppress(BackendError):  # any other error fails the test
        apply_event(store, event)
    assert all(query.status != "planned" for query in store.queries(4))


@pytest.mark.parametrize(
    "payload",
    [{"annotations": True}, {"annotations": {"id": 1}}, {"annotation": {"id": 1}, "task": [1]}],
)
def test_odd_payloads_are_named(store: Store, payload: dict[str, Any]) -> None:
    """An error of another kind would stop the queue of events."""
    with pytest.raises(BadRequest, match="Expected ann"):
        apply_event(store, Event(1, 4, "ANNOTATION_CREATED", payload, "d", at(0)))


# Events as values


def test_redaction_masks_secrets_and_keeps_results() -> None:
    payload = {
        "access_token": "s1",
        "project": {"token": "s2", "task_data_password": "s3", "task_data_login": None},
        "annotation": {"result": [{"value": {"token": "a class of this name"}}]},
        "list": [{"API_KEY": "s4"}],
    }
    clean = redact(payload)
    assert not [s for s in ("s1", "s2", "s3", "s4") if s in str(clean)]
    assert clean["project"]["task_data_login"] is None
    assert clean["annotation"] == payload["annotation"]
    assert redact(clean) == clean
    assert payload["access_token"] == "s1"


@pytest.mark.guarantee(3)
def test_digest_ignores_order_of_fields_and_project_counts() -> None:
    one = {"annotation": annotation(1, 1, "Road"), "project": {"id": 4, "n": 1}, "task": {"id": 1}}
    two = {
        "task": {"id": 1, "total_annotations": 3},
        "project": {"id": 4, "n": 2},
        "annotation": dict(reversed(annotation(1, 1, "Road").items())),
    }
    assert event_digest(4, "A", one) == event_digest(4, "A", two)


@pytest.mark.parametrize(
    "other",
    [
        annotation(1, 2, "Road"),
        annotation(2, 1, "Road"),
        annotation(1, 1, "Sky"),
        annotation(1, 1, "Road", was_cancelled=True),
    ],
)
def test_digest_tells_events_apart(other: dict[str, Any]) -> None:
    one = {"annotation": annotation(1, 1, "Road")}
    assert event_digest(4, "A", one) != event_digest(4, "A", {"annotation": other})
    assert event_digest(4, "A", one) != event_digest(5, "A", one)
    assert event_digest(4, "A", one) != event_digest(4, "B", one)


def test_question_answered_before_its_task_id_came(tmp_path: Path) -> None:
    with make_store(tmp_path, PROJECT) as store:
        send(store, "ANNOTATION_CREATED", annotation=annotation(1, 1, "Road", task=2))
        open_queries(store, 4, 3)
        assert state(store)[1] == ["open", "answered", "open"]
