"""Seconds from questions and clicks, and their fit to recorded lead times."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.annotation_cost import AnnotationCost, LeadTime, fit_cost, read_lead_times
from training.errors import ConfigError, DataError

seconds = st.floats(0.01, 60)


def test_formula() -> None:
    cost = AnnotationCost(page_turn_s=1.0, look_s=2.0, key_s=0.5)
    assert cost.seconds(questions=10, clicks=16) == 10 * (1.0 + 2.0) + 16 * 0.5
    assert cost.seconds(0, 0) == 0


@pytest.mark.parametrize("values", [(-0.1, 1.0, 1.0), (0.0, 0.0, 0.0)])
def test_costs_are_not_negative_and_not_all_zero(values: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="cost must be"):
        AnnotationCost(*values)


@given(seconds, seconds, st.lists(st.integers(0, 8), min_size=2).filter(lambda c: len(set(c)) > 1))
def test_fit_finds_the_line_that_made_the_times(look: float, key: float, clicks: list[int]) -> None:
    found = fit_cost([LeadTime(n, look + n * key) for n in clicks], page_turn_s=0.7)
    assert found.page_turn_s == 0.7
    assert found.look_s == pytest.approx(look, abs=1e-6)
    assert found.key_s == pytest.approx(key, abs=1e-6)
    assert str(len(clicks)) in found.source


def test_a_coffee_break_changes_nothing() -> None:
    times = [LeadTime(n, 1 + n) for n in (1, 2, 3) for _ in range(3)]
    assert fit_cost([*times[:-1], LeadTime(3, 900.0)]) == fit_cost(times)


@pytest.mark.parametrize(
    ("times", "look", "key"),
    [
        ([LeadTime(1, 4.0), LeadTime(3, 2.0)], 3.0, 0.0),  # faster with more clicks: no key time
        ([LeadTime(1, 1.0), LeadTime(2, 4.0)], 0.0, 1.8),  # sum(xy) / sum(xx) = 9 / 5
    ],
)
def test_neither_part_is_negative(times: list[LeadTime], look: float, key: float) -> None:
    cost = fit_cost(times)
    assert (cost.look_s, cost.key_s) == (pytest.approx(look), pytest.approx(key))


def test_one_number_of_clicks_is_not_enough() -> None:
    with pytest.raises(DataError, match="cannot tell a look from a key"):
        fit_cost([LeadTime(1, 2.0), LeadTime(1, 3.0)])
    with pytest.raises(DataError, match="0 lead times"):
        fit_cost([])


def test_csv_and_json_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("task,clicks,lead_time_s\n7,2,3.5\n8,1,1.25\n")
    (tmp_path / "a.json").write_text(
        '[{"clicks": 2, "lead_time_s": 3.5}, {"clicks": 1, "lead_time_s": 1.25, "task": 8}]'
    )
    expected = [LeadTime(2, 3.5), LeadTime(1, 1.25)]
    assert read_lead_times(tmp_path / "a.csv") == expected
    assert read_lead_times(tmp_path / "a.json") == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "clicks\n1\n", "answer 1"),
        ("a.csv", "", "holds no lead times"),
        ("a.csv", "clicks,lead_time_s\n1,fast\n", "is no lead time"),
        ("a.csv", "clicks,lead_time_s\n1,2\n-1,2\n", "answer 2: -1 clicks"),
        ("a.csv", "clicks,lead_time_s\n1,nan\n", "cannot be"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "[3]", "answer 1: 3 is no lead time"),
        ("a.json", "{}", "holds no lead times"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_lead_times(tmp_path / name)
    assert "lead_time_s" in caught.value.hint


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_lead_times(tmp_path / "nothing.csv")
