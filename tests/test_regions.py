"""Region maps: names, derived quantities, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.errors import RegionMapError, TrainingError
from training.regions import RegionId, RegionMap

IDS = np.array([[0, 0, 1], [0, 2, 1], [3, 3, 3]], np.int32)


def make_map(ids: NDArray[np.int32] = IDS) -> RegionMap:
    return RegionMap(ids, int(ids.max()) + 1, "grid", {"side_px": 2})


def random_ids(seed: int, height: int, width: int, count: int) -> NDArray[np.int32]:
    values = np.random.default_rng(seed).integers(0, count, (height, width))
    return np.unique(values, return_inverse=True)[1].reshape(height, width).astype(np.int32)


maps = st.builds(
    random_ids, st.integers(0, 999), st.integers(1, 9), st.integers(1, 9), st.integers(1, 12)
)


def test_error_text_carries_the_hint() -> None:
    error = TrainingError("Expected A, got B.", hint="Do C.")
    assert (error.message, error.hint, str(error)) == (
        "Expected A, got B.", "Do C.", "Expected A, got B. Do C.",
    )  # fmt: skip
    assert str(TrainingError("Only this.")) == "Only this."


@given(st.text(min_size=1), st.integers(0, 10**9))
def test_region_id_round_trip(image_id: str, index: int) -> None:
    region = RegionId(image_id, index)
    assert RegionId.parse(str(region)) == region


@pytest.mark.parametrize("text", ["", "a", "a:", ":3", "a:-1", "a:1.5", "a: 1", "a:²", "a:x"])
def test_region_id_refuses(text: str) -> None:
    with pytest.raises(RegionMapError, match="image_id:index"):
        RegionId.parse(text)


def test_areas_and_boxes() -> None:
    region_map = make_map()
    assert region_map.areas().tolist() == [3, 2, 1, 3]
    assert region_map.boxes().tolist() == [[0, 0, 2, 2], [0, 2, 2, 3], [1, 1, 2, 2], [2, 0, 3, 3]]
    assert (region_map.areas().dtype, region_map.boxes().dtype) == (np.int64, np.int32)


def test_adjacency_counts_diagonals() -> None:
    pairs = make_map(np.array([[0, 1], [2, 3]], np.int32)).adjacency()
    assert pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert pairs.dtype == np.int32


def test_one_region_has_no_neighbours() -> None:
    assert make_map(np.zeros((1, 1), np.int32)).adjacency().shape == (0, 2)


@given(maps)
def test_adjacency_is_the_dilation(ids: NDArray[np.int32]) -> None:
    padded = np.pad(ids, 1, constant_values=-1)
    height, width = ids.shape
    expected = set()
    for y in range(height):
        for x in range(width):
            window = padded[y : y + 3, x : x + 3].ravel()
            expected |= {(int(ids[y, x]), int(v)) for v in window if v > ids[y, x]}
    assert {tuple(pair) for pair in make_map(ids).adjacency().tolist()} == expected


@settings(max_examples=20)
@given(maps)
def test_file_round_trip(tmp_path_factory: pytest.TempPathFactory, ids: NDArray[np.int32]) -> None:
    path = tmp_path_factory.mktemp("maps") / "map.npz"
    first = make_map(ids)
    first.save(path)
    second = RegionMap.load(path)
    assert np.array_equal(first.ids, second.ids)
    assert second.ids.dtype == np.int32
    assert (first.hash, first.count, first.method, first.params) == (
        second.hash, second.count, second.method, second.params,
    )  # fmt: skip


def test_many_regions_survive_the_file(tmp_path: Path) -> None:
    ids = np.arange(70_000, dtype=np.int32).reshape(700, 100)
    make_map(ids).save(tmp_path / "a.npz")
    assert np.array_equal(RegionMap.load(tmp_path / "a.npz").ids, ids)


def test_equal_maps_give_equal_bytes_and_no_leftovers(tmp_path: Path) -> None:
    make_map().save(tmp_path / "a.npz")
    make_map().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_hash_depends_on_all_parts() -> None:
    base = make_map()
    others = [
        RegionMap(IDS.reshape(1, 9), 4, "grid", {"side_px": 2}),
        RegionMap(IDS[::-1], 4, "grid", {"side_px": 2}),
        RegionMap(IDS, 4, "slic", {"side_px": 2}),
        RegionMap(IDS, 4, "grid", {"side_px": 3}),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == 5
    assert len(base.hash) == 24
    assert base.hash == make_map().hash


def test_map_keeps_its_own_copy() -> None:
    ids = IDS.copy()
    region_map = make_map(ids)
    ids[:] = 0
    assert np.array_equal(region_map.ids, IDS)
    with pytest.raises(ValueError, match="read-only"):
        region_map.ids[0, 0] = 1


@pytest.mark.parametrize(
    ("ids", "count", "match"),
    [
        (IDS.astype(np.int64), 4, "int32"),
        (IDS[0], 2, r"\(H, W\)"),
        (np.zeros((0, 3), np.int32), 0, "non-empty"),
        (IDS - 1, 3, "smallest is -1"),
        (IDS, 5, r"unused ones are \[4\]"),
        (IDS, 3, "largest is 3"),
        (IDS * 2, 7, r"unused ones are \[1, 3, 5\]"),
    ],
)
def test_refuses_wrong_ids(ids: NDArray[np.int32], count: int, match: str) -> None:
    with pytest.raises(RegionMapError, match=match):
        RegionMap(ids, count, "grid")


def test_refuses_params_that_are_not_json() -> None:
    with pytest.raises(RegionMapError, match="plain JSON"):
        RegionMap(IDS, 4, "grid", {"image": np.zeros(3)})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RegionMapError, match="no region map at"):
        RegionMap.load(tmp_path / "none.npz")


def test_every_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "map.npz"
    make_map(random_ids(0, 40, 40, 30)).save(path)
    whole = path.read_bytes()
    hints: set[str] = set()
    damaged = [b"", b"text", whole[: len(whole) // 2], whole[:-1]]
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 0xFF
        damaged.append(bytes(flipped))
    original = RegionMap.load(path)
    for content in damaged:
        path.write_bytes(content)
        try:
            loaded = RegionMap.load(path)
        except RegionMapError as error:
            hints.add(error.hint)
        else:  # a flip in zip bookkeeping may leave the content whole
            assert (loaded.hash, loaded.count) == (original.hash, original.count)
            assert np.array_equal(loaded.ids, original.ids)
    assert hints == {
        "Make the region map again from the image, with the same method and parameters."
    }


def test_content_that_does_not_match_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "map.npz"
    make_map().save(path)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    arrays["ids"] = arrays["ids"][::-1]
    np.savez(path, **arrays)
    with pytest.raises(RegionMapError, match="says its hash is"):
        RegionMap.load(path)
