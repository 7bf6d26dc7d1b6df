"""Which labels count, and how many are new."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ml_backend.labels import count_changes
from training.regions import RegionId

regions = st.builds(RegionId, st.sampled_from(["a", "b"]), st.integers(0, 3))
labels = st.dictionaries(
    regions, st.sampled_from([(), ("Road",), ("Road", "Car"), ("Car", "Road")])
)


def test_counts_added_changed_and_withdrawn() -> None:
    before = {RegionId("a", 0): ("Road",), RegionId("a", 1): ("Car",), RegionId("a", 2): ()}
    now = {RegionId("a", 0): ("Road",), RegionId("a", 1): ("Road",), RegionId("b", 0): ()}
    assert count_changes(now, before) == 3  # a:1 changed, b:0 added, a:2 withdrawn


@given(labels)
def test_nothing_changed(found: dict[RegionId, tuple[str, ...]]) -> None:
    turned = {region: tuple(reversed(classes)) for region, classes in found.items()}
    assert count_changes(turned, found) == 0


@given(labels, labels)
def test_changes_count_alike_both_ways(
    now: dict[RegionId, tuple[str, ...]], before: dict[RegionId, tuple[str, ...]]
) -> None:
    assert count_changes(now, before) == count_changes(before, now)
    assert (count_changes(now, before) == 0) == (
        {k: set(v) for k, v in now.items()} == {k: set(v) for k, v in before.items()}
    )
