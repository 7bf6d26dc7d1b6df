"""ml_backend.predictions: what Label Studio shows in advance, and in which order it asks."""

from __future__ import annotations

import pytest
from backend_helpers import make_query, make_schema
from hypothesis import given
from hypothesis import strategies as st

from label_config import Answer, read_answer
from ml_backend.errors import BackendError
from ml_backend.predictions import no_prediction, region_prediction

SCHEMA = make_schema()
ticks = st.lists(st.sampled_from(SCHEMA.names), unique=True).map(tuple)


@given(ticks)
def test_ticks_are_read_back(chosen: tuple[str, ...]) -> None:
    query = make_query(preticks=chosen)
    prediction = region_prediction(query, SCHEMA, "region_multiclass", "r3")
    answer = read_answer(prediction["result"], SCHEMA)
    assert answer == (Answer("classes", chosen) if chosen else Answer("empty"))
    assert prediction["model_version"] == "r3"


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_higher_priority_is_asked_sooner_and_anything_before_the_unknown(
    a: float, b: float
) -> None:
    """Label Studio asks the lowest score first."""
    first, second = (
        region_prediction(make_query(score=s), SCHEMA, "region_multiclass", "r1")["score"]
        for s in (a, b)
    )
    assert (first <= second) is (a >= b) or a == pytest.approx(b)
    assert 0 < max(first, second) < no_prediction("r1")["score"] <= 1


def test_one_choice_is_ticked_where_there_is_one() -> None:
    one = region_prediction(make_query(preticks=("Sky",)), SCHEMA, "region_dominant", "r1")
    two = region_prediction(make_query(preticks=("Sky", "Car")), SCHEMA, "region_dominant", "r1")
    assert read_answer(one["result"], SCHEMA, "region_dominant") == Answer("classes", ("Sky",))
    assert two["result"] == []


@pytest.mark.parametrize(
    ("template", "preticks", "score"),
    [
        ("region_multiclass", ("Boat",), 1.0),
        ("image_masks", ("Sky",), 1.0),
        ("region_multiclass", (), float("nan")),
    ],
)
def test_what_cannot_be_predicted_is_named(
    template: str, preticks: tuple[str, ...], score: float
) -> None:
    with pytest.raises(BackendError):
        region_prediction(make_query(preticks=preticks, score=score), SCHEMA, template, "r1")
