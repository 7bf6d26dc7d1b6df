from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.errors import BackendError
from ml_backend.queue_score import queue_score

priorities = st.floats(-1e6, 1e6)


def test_values() -> None:
    assert queue_score(0.0) == 0.5
    assert queue_score(1.0) == 0.25
    assert queue_score(-1.0) == 0.75
    assert queue_score(9.0) == pytest.approx(0.05)


@given(priorities, priorities)
def test_more_urgent_is_lower_and_all_lie_within_the_unit_interval(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0.0 < queue_score(high) <= queue_score(low) < 1.0
    if high - low > 1e-3:
        assert queue_score(high) < queue_score(low)


@pytest.mark.parametrize("priority", [math.nan, math.inf, -math.inf])
def test_a_priority_must_be_finite(priority: float) -> None:
    with pytest.raises(BackendError, match="finite priority"):
        queue_score(priority)
