"""Simulated annotators against the authors' numbers, by hand, and by law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.errors import DataError
from training.oracle import core_pixels, dominant_targets, region_targets
from training.regions import RegionMap

CASES = ["city_96x128", "padded_72x96", "unselected_96x128", "voc_72x96"]


def as_map(ids: Any) -> RegionMap:
    ids = np.asarray(ids, np.int32)
    return RegionMap(ids, int(ids.max()) + 1, "grid")


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, golden: Path) -> None:
    """`golden/oracle.npz` holds gt, ids and answers of the reference's oracle, four cases."""
    with np.load(golden / "oracle.npz", allow_pickle=False) as file:
        gt, spx, multihot, size, trim, classes = (
            file[f"{case}/{key}"]
            for key in ("gt", "spx", "oracle_multihot", "oracle_size", "oracle_trim", "C")
        )
    for image in range(len(gt)):
        used, ids = np.unique(spx[image], return_inverse=True)  # the reference's ids have gaps
        region_map = as_map(ids.reshape(spx[image].shape))
        targets = region_targets(gt[image], region_map, int(classes), trim=int(trim))
        assert np.array_equal(targets, multihot[image][used])
        core = core_pixels(region_map, int(trim))
        assert np.array_equal(np.bincount(region_map.ids[core]), size[image][used])
        dropped = region_targets(
            gt[image], region_map, int(classes), trim=int(trim), undefined=False
        )
        assert np.array_equal(dropped, multihot[image][used][:, :-1])


def test_trim_removes_three_pixels_on_both_sides_and_none_at_image_borders() -> None:
    ids = np.zeros((4, 12), np.int32)
    ids[:, 6:] = 1
    assert core_pixels(as_map(ids), 5).tolist() == [[True] * 3 + [False] * 6 + [True] * 3] * 4
    assert core_pixels(as_map(ids), 1).tolist() == [[True] * 5 + [False] * 2 + [True] * 5] * 4
    assert core_pixels(as_map(ids), 0).all()


def test_a_region_trimmed_away_keeps_all_its_pixels() -> None:
    ids = np.zeros((9, 9), np.int32)
    ids[4, 4] = 1
    core = core_pixels(as_map(ids), 5)
    assert core[4, 4]
    assert core.sum() == 1 + 81 - 49 + 4  # the box of the diamond's border is 7x7 less its corners


def test_multi_hot_by_hand() -> None:
    mask = np.array([[0, 0, 1, 255], [0, 2, 255, 255]], np.uint8)
    region_map = as_map([[0, 0, 1, 2], [0, 0, 1, 2]])
    targets = region_targets(mask, region_map, 3, trim=0)
    assert targets.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 1]]
    assert targets.dtype == np.uint8
    without = region_targets(mask, region_map, 3, trim=0, undefined=False)
    assert without.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_void_is_a_raw_value() -> None:
    mask = np.array([[11, 0]], np.uint8)
    assert region_targets(mask, as_map([[0, 0]]), 11, void=11, trim=0)[0, [0, 11]].tolist() == [
        1,
        1,
    ]


def test_min_share_is_inclusive_and_keeps_the_largest() -> None:
    mask = np.array([[0] * 6 + [1] * 3 + [2]], np.uint8)
    region_map = as_map([[0] * 10])
    shares = {0.1: [1, 1, 1], 0.11: [1, 1, 0], 0.3: [1, 1, 0], 0.31: [1, 0, 0], 1.0: [1, 0, 0]}
    for share, expected in shares.items():
        targets = region_targets(mask, region_map, 3, undefined=False, trim=0, min_share=share)
        assert targets[0].tolist() == expected


def test_dominant_by_hand() -> None:
    mask = np.array([[0, 0, 1, 2, 255, 255], [0, 2, 2, 1, 255, 1]], np.uint8)
    region_map = as_map([[0, 0, 1, 1, 2, 2]] * 2)
    assert dominant_targets(mask, region_map, 3).tolist() == [
        [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1],
    ]  # fmt: skip
    assert dominant_targets(mask, region_map, 3, undefined=False)[2].tolist() == [0, 0, 0]


def test_dominant_ignores_trimming() -> None:
    ids = np.zeros((9, 9), np.int32)
    ids[:, 5:] = 1
    mask = np.zeros((9, 9), np.uint8)
    mask[:, 2:] = 1  # the core of region 0 is class 0, its majority class 1
    assert region_targets(mask, as_map(ids), 2)[0].tolist() == [1, 0, 0]
    assert dominant_targets(mask, as_map(ids), 2)[0].tolist() == [0, 1, 0]


def random_case(seed: int) -> tuple[NDArray[np.uint8], RegionMap]:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, 2))
    blocks = rng.integers(0, 4, shape).repeat(3, axis=0).repeat(3, axis=1)
    ids = np.unique(blocks, return_inverse=True)[1].reshape(blocks.shape)
    mask = rng.choice([0, 1, 2, 9], blocks.shape).astype(np.uint8)
    return mask, as_map(ids)


@given(st.integers(0, 10_000), st.sampled_from([0, 1, 3, 5, 7]), st.floats(0, 1))
def test_laws(seed: int, trim: int, min_share: float) -> None:
    mask, region_map = random_case(seed)
    every = region_targets(mask, region_map, 3, void=9, trim=0)
    targets = region_targets(mask, region_map, 3, void=9, trim=trim, min_share=min_share)
    assert (targets.sum(axis=1) >= 1).all()  # with the undefined column nobody answers nothing
    assert (targets <= every).all()  # trimming and a larger share only take classes away
    dominant = dominant_targets(mask, region_map, 3, void=9)
    assert (dominant.sum(axis=1) == 1).all()
    assert (dominant <= every).all()
    order = np.random.default_rng(seed).permutation(region_map.count)
    renumbered = as_map(order[region_map.ids])
    again = region_targets(mask, renumbered, 3, void=9, trim=trim, min_share=min_share)
    assert np.array_equal(again[order], targets)


def test_refusals() -> None:
    region_map = as_map([[0, 0]])
    mask = np.array([[0, 7]], np.uint8)
    with pytest.raises(
        DataError, match=r"\[7\], which are neither classes 0\.\.2 nor void \(255\)"
    ):
        region_targets(mask, region_map, 3)
    with pytest.raises(DataError, match=r"mask is \(1, 3\) px, its region map \(1, 2\)"):
        dominant_targets(np.zeros((1, 3), np.uint8), region_map, 3)
    with pytest.raises(DataError, match="void=2 is one of the 3 classes"):
        region_targets(mask, region_map, 3, void=2)
    for trim in (-1, 2, 4):
        with pytest.raises(DataError, match="0 or an odd side"):
            region_targets(mask, region_map, 8, trim=trim)
    with pytest.raises(DataError, match=r"min_share must lie in 0\.\.1"):
        region_targets(mask, region_map, 8, min_share=1.5)
