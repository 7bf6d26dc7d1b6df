"""The simulated annotator: clicks and labels of each kind of question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.images import read_mask
from training.oracle_noise import OracleNoise
from training.regions import RegionMap
from training.simulate_config import DataConfig, Method
from training.simulate_data import VOID, PoolEntry
from training.simulate_oracle import Annotator, annotator, full_item, snapshot_item

CLASSES = ("sky", "road", "car")
SIDE = 16

# Four regions of 16 x 16 px: sky; sky above 5 rows of road; void; road with a 2 x 2 px car.
MASK = np.zeros((SIDE, 4 * SIDE), np.uint8)
MASK[11:, SIDE : 2 * SIDE] = 1
MASK[:, 2 * SIDE : 3 * SIDE] = VOID
MASK[:, 3 * SIDE :] = 1
MASK[6:8, 3 * SIDE + 6 : 3 * SIDE + 8] = 2


@pytest.fixture
def entry(tmp_path: Path) -> PoolEntry:
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    Image.fromarray(np.zeros((*MASK.shape, 3), np.uint8)).save(tmp_path / "image.png")
    ids = np.broadcast_to(np.arange(4 * SIDE) // SIDE, MASK.shape).astype(np.int32)
    RegionMap(ids, 4, "grid", {}).save(tmp_path / "regions.npz")
    return PoolEntry("street", tmp_path / "image.png", tmp_path / "mask.png", "0" * 64)


def ask(entry: PoolEntry, query: str, seed: int = 0, **changes: Any) -> Annotator:
    noise, least = changes.pop("noise", OracleNoise()), changes.pop("method_min_share", None)
    method = Method(query=query, stages=1, noise=noise, min_share=least)
    regions = entry.image.with_name("regions.npz")
    short_side = changes.pop("short_side", None)
    return annotator(entry, regions, CLASSES, DataConfig(**changes), method, seed, short_side)


def test_multi_class_ticks_every_class(entry: PoolEntry) -> None:
    found = ask(entry, "multi", trim=0)
    assert found.clicks.tolist() == [1, 2, 1, 2]
    assert found.learn([0, 1, 2, 3]) == (None, {0: (0,), 1: (0, 1), 2: (3,), 3: (1, 2)})
    assert found.learn([3]) == (None, {3: (1, 2)})


def test_void_is_no_answer_without_undefined(entry: PoolEntry) -> None:
    # "Can't tell" is left to press: a click that teaches nothing.
    for query, clicks in (("multi", [1, 2, 1, 2]), ("dominant", [1, 1, 1, 1])):
        found = ask(entry, query, trim=0, undefined=False)
        assert found.clicks.tolist() == clicks
        assert found.learn([2])[1] == {2: ()}


def test_small_classes_are_overlooked_where_asked(entry: PoolEntry) -> None:
    assert ask(entry, "multi", trim=0, min_share=0.05).clicks.tolist() == [1, 2, 1, 1]
    for least, clicks in ((0.05, [1, 2, 1, 1]), (0.5, [1, 1, 1, 1]), (0.0, [1, 2, 1, 2])):
        of_method = ask(entry, "multi", trim=0, min_share=0.4, method_min_share=least)
        assert of_method.clicks.tolist() == clicks


def test_dominant_ticks_the_largest(entry: PoolEntry) -> None:
    found = ask(entry, "dominant")
    assert found.clicks.tolist() == [1, 1, 1, 1]
    assert found.learn([0, 1, 2, 3])[1] == {0: (0,), 1: (0,), 2: (3,), 3: (1,)}


def test_mask_labels_every_pixel_of_the_region(entry: PoolEntry) -> None:
    found = ask(entry, "mask")
    # Region 1: two classes and 16 px of border; region 3: two classes and 8 px round the car.
    assert found.clicks.tolist() == [1, 2 + 2, 1, 2 + 1]
    regions, labels = found.learn([1, 2, 3])
    assert regions is not None
    shown = np.full(regions.count, 99)
    for index, classes in labels.items():
        (shown[index],) = classes
    taught = shown[regions.ids]
    assert (taught[:, :SIDE] == 99).all()  # not asked about
    truth = np.where(MASK == VOID, len(CLASSES), MASK)
    assert np.array_equal(taught[:, SIDE:], truth[:, SIDE:])


def test_mask_of_void_teaches_nothing_without_undefined(entry: PoolEntry) -> None:
    assert ask(entry, "mask", undefined=False).learn([2])[1] == {}


@pytest.mark.parametrize("short_side", [None, 16, 32])
def test_pixels_label_one_pixel_of_the_region(entry: PoolEntry, short_side: int | None) -> None:
    found = ask(entry, "pixels", short_side=short_side)
    assert found.clicks.tolist() == [1, 1, 1, 1]
    regions, labels = found.learn([3, 0])
    assert regions is not None
    assert np.bincount(regions.ids.ravel()).tolist() == [MASK.size - 2, 1, 1]
    for index, region in ((1, 0), (2, 3)):
        ((y, x),) = np.argwhere(regions.ids == index)
        assert x // SIDE == region
        assert labels[index] == (int(MASK[y, x]),)


def test_pixels_depend_on_the_seed_alone(entry: PoolEntry) -> None:
    def places(seed: int) -> np.ndarray:
        regions, _ = ask(entry, "pixels", seed).learn([0, 1, 2, 3])
        assert regions is not None
        return np.flatnonzero(regions.ids)

    assert np.array_equal(places(1), places(1))
    assert not np.array_equal(places(1), places(2))


def test_noise_keeps_the_main_class(entry: PoolEntry) -> None:
    found = ask(entry, "multi", trim=0, noise=OracleNoise(missed=1.0))
    assert found.learn([0, 1, 2, 3])[1] == {0: (0,), 1: (0,), 2: (3,), 3: (1,)}
    found = ask(entry, "multi", trim=0, noise=OracleNoise(extra=1.0))
    assert found.clicks.tolist() == [3, 3, 4, 3]
    wrong = ask(entry, "dominant", noise=OracleNoise(missed=1.0)).learn([0, 1, 3])[1]
    assert all(classes != {0: (0,), 1: (0,), 3: (1,)}[i] for i, classes in wrong.items())


def test_item_for_the_snapshot(entry: PoolEntry, tmp_path: Path) -> None:
    regions = entry.image.with_name("regions.npz")
    item = snapshot_item(entry, regions, ask(entry, "multi", trim=0), [1], tmp_path / "maps")
    assert (item.regions, item.labels) == (regions, {1: (0, 1)})
    item = snapshot_item(entry, regions, ask(entry, "pixels"), [1], tmp_path / "maps")
    assert item.regions == tmp_path / "maps" / "street.npz"
    assert RegionMap.load(item.regions).count == 2


def test_full_supervision_labels_all_but_void(entry: PoolEntry, tmp_path: Path) -> None:
    item = full_item(entry, tmp_path / "maps")
    regions = RegionMap.load(item.regions)
    taught = np.full(regions.count, VOID)
    for index, classes in item.labels.items():
        (taught[index],) = classes
    assert np.array_equal(taught[regions.ids], read_mask(entry.mask))
