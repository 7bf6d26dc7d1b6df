"""Recorded answers, out of the store and into the seconds of a simulation."""

from __future__ import annotations

from pathlib import Path

import pytest
from backend_helpers import make_label, make_store

from ml_backend.errors import NotFound
from ml_backend.export import write_lead_times
from training.annotation_cost import fit_cost, read_lead_times


def test_answers_become_the_cost_of_a_simulation(tmp_path: Path) -> None:
    store = make_store(tmp_path, open_tasks=4)
    for number, (clicks, seconds) in enumerate(((1, 2.0), (2, 3.0), (3, 4.0)), 1):
        store.apply_label(make_label(number, task_id=number, query_id=number,
                                     clicks=clicks, lead_time_s=seconds))  # fmt: skip
    store.apply_label(make_label(4, task_id=4, query_id=4, lead_time_s=None))  # by the API
    path = tmp_path / "lead_times.csv"
    assert write_lead_times(store, 4, path) == 3
    assert path.read_text() == "clicks,lead_time_s\n1,2.000\n2,3.000\n3,4.000\n"
    cost = fit_cost(read_lead_times(path))
    assert (cost.look_s, cost.key_s) == (pytest.approx(1.0), pytest.approx(1.0))


def test_no_timed_answer(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(NotFound, match="no answer of project 4 has a lead time"):
        write_lead_times(store, 4, tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()
