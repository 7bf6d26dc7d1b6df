from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.backoff import Backoff, retry_after_s

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


class Half(random.Random):
    def random(self) -> float:
        return 0.5


def test_delays_double_up_to_the_cap() -> None:
    backoff = Backoff(first_s=1.0, cap_s=5.0, jitter=Half())
    assert [backoff.delay_s(n) for n in (1, 2, 3, 4, 5)] == [0.75, 1.5, 3.0, 3.75, 3.75]


@given(st.integers(1, 60), st.integers())
def test_a_delay_is_between_half_and_all_of_the_grown_one(tries: int, seed: int) -> None:
    backoff = Backoff(first_s=0.5, cap_s=30.0, jitter=random.Random(seed))
    grown = min(0.5 * 2.0 ** (tries - 1), 30.0)
    assert grown / 2 <= backoff.delay_s(tries) < grown


def test_the_servers_wish_wins_up_to_the_cap() -> None:
    backoff = Backoff(cap_s=30.0, jitter=Half())
    assert backoff.delay_s(1, 12.0) == 12.0
    assert backoff.delay_s(1, 3600.0) == 30.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-3", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds
