"""Answers that nobody may have looked at."""

from __future__ import annotations

from typing import Any

import pytest
from backend_helpers import make_label, make_query
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.flagged import FEWEST_TIMES, flagged
from ml_backend.store import Label, Query

USUAL = 9.0


def usual(count: int, annotator: str = "1") -> list[tuple[Query, Label]]:
    """Answers in the usual time, each to ticks that were changed."""
    return [
        (
            make_query(4, i, id=i, preticks=("Sky",)),
            make_label(i, query_id=i, lead_time_s=USUAL, annotator=annotator),
        )
        for i in range(count)
    ]


def one(query: dict[str, Any], **label: Any) -> tuple[Query, Label]:
    fields = {"lead_time_s": 2.4, **label}
    return make_query(4, 500, id=500, **query), make_label(500, query_id=500, **fields)


@pytest.mark.parametrize(
    ("query", "label", "found"),
    [
        # As shown, at once.
        ({"preticks": ("Road",)}, {}, True),
        ({"preticks": ("Road", "Sky")}, {"classes": ("Sky", "Road")}, True),
        ({}, {"kind": "empty", "classes": ()}, True),
        ({"preticks": ("Sky",), "control": True}, {"kind": "empty", "classes": ()}, True),
        # A tick was changed.
        ({"preticks": ("Road", "Sky")}, {}, False),
        ({}, {}, False),
        ({"preticks": ("Road",), "control": True}, {}, False),  # they were not shown
        ({"preticks": ("Road",)}, {"kind": "empty", "classes": ()}, False),
        ({"preticks": ("Road",)}, {"other": True}, False),
        ({}, {"kind": "nothing", "classes": ()}, False),
        ({}, {"kind": "unsure", "classes": ()}, False),
        # Time was taken, or is not known.
        ({"preticks": ("Road",)}, {"lead_time_s": USUAL / 3}, False),
        ({"preticks": ("Road",)}, {"lead_time_s": USUAL / 3 - 0.01}, True),
        ({"preticks": ("Road",)}, {"lead_time_s": None}, False),
        # Whose median is not known.
        ({"preticks": ("Road",)}, {"annotator": None}, False),
        ({"preticks": ("Road",)}, {"annotator": "2"}, False),
        # No answer.
        ({}, {"kind": "skipped", "classes": ()}, False),
        ({}, {"kind": "invalid", "classes": ()}, False),
    ],
)
def test_saved_at_once_as_it_was_shown(
    query: dict[str, Any], label: dict[str, Any], found: bool
) -> None:
    item = one(query, **label)
    assert [f.query.id for f in flagged([*usual(20), item], "region_multiclass")] == (
        [500] if found else []
    )


def test_few_answers_have_no_median() -> None:
    hasty = one({"preticks": ("Road",)})
    assert flagged([*usual(FEWEST_TIMES - 2), hasty], "region_multiclass") == []
    [found] = flagged([*usual(FEWEST_TIMES - 1), hasty], "region_multiclass")
    assert found.reason == "saved as shown after 2.4 s; usually 9.0 s"
    # Another annotator's answers do not help.
    mixed = [*usual(FEWEST_TIMES - 2), *usual(9, annotator="2"), hasty]
    assert flagged(mixed, "region_multiclass") == []


def test_a_quick_annotator_is_measured_by_her_own_median() -> None:
    quick = [
        (make_query(4, i, id=i, preticks=("Road",)),
         make_label(i, query_id=i, lead_time_s=2.4, annotator="2"))
        for i in range(30)
    ]  # fmt: skip
    assert flagged([*usual(30), *quick], "region_multiclass") == []


def test_one_choice_shows_no_tick_where_several_are_predicted() -> None:
    item = one({"preticks": ("Road", "Sky")}, kind="empty", classes=())
    assert flagged([*usual(20), item], "region_dominant")
    assert not flagged([*usual(20), item], "region_multiclass")


@given(st.lists(st.floats(0, 1e6), max_size=40))
def test_never_more_than_half(times: list[float]) -> None:
    """The median bounds it, whatever the times: no annotator is asked everything again."""
    answers = [
        (make_query(4, i, id=i, preticks=("Road",)), make_label(i, query_id=i, lead_time_s=s))
        for i, s in enumerate(times)
    ]
    assert 2 * len(flagged(answers, "region_multiclass")) <= len(times)
