"""Which labels count, and how many are new."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ml_backend.labels import RegionLabel, count_changes
from training.regions import RegionId

regions = st.builds(RegionId, st.sampled_from(["a", "b"]), st.integers(0, 3))
said = st.builds(
    RegionLabel,
    st.sampled_from([("Road",), ("Road", "Car"), ("Car", "Road")]),
    st.booleans(),
) | st.just(RegionLabel((), other=True))
labels = st.dictionaries(regions, said)
Labels = dict[RegionId, RegionLabel]


def test_counts_added_changed_and_withdrawn() -> None:
    road, car, rest = RegionLabel(("Road",)), RegionLabel(("Car",)), RegionLabel((), other=True)
    before = {RegionId("a", 0): road, RegionId("a", 1): car, RegionId("a", 2): rest}
    now = {RegionId("a", 0): road, RegionId("a", 1): road, RegionId("b", 0): rest}
    assert count_changes(now, before) == 3  # a:1 changed, b:0 added, a:2 withdrawn


def test_something_else_added_or_taken_away_is_a_change() -> None:
    plain, more = ({RegionId("a", 0): RegionLabel(("Road",), other)} for other in (False, True))
    assert count_changes(more, plain) == count_changes(plain, more) == 1
    assert count_changes(more, more) == 0


@given(labels)
def test_nothing_changed(found: Labels) -> None:
    turned = {
        region: RegionLabel(tuple(reversed(label.classes)), label.other)
        for region, label in found.items()
    }
    assert count_changes(turned, found) == 0


@given(labels, labels)
def test_changes_count_alike_both_ways(now: Labels, before: Labels) -> None:
    assert count_changes(now, before) == count_changes(before, now)
    assert (count_changes(now, before) == 0) == (
        {k: (set(v.classes), v.other) for k, v in now.items()}
        == {k: (set(v.classes), v.other) for k, v in before.items()}
    )
