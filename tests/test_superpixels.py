"""Superpixels: one contract asked of every method, the traps of SEEDS, quality, and the pool."""

from __future__ import annotations

import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2lab
from skimage.measure import label

from training import superpixel_pool
from training.bench_superpixels import bench_superpixels, majority_confusion
from training.colour import srgb_to_lab
from training.datasets import camvid as load_camvid
from training.errors import SuperpixelError
from training.regions import RegionMap
from training.repair import flood, keep_largest_pieces, merge_small_pieces
from training.seeds import seeds_request
from training.superpixel_pool import Segmented, SegmentJob, segment_pool
from training.superpixels import (
    METHODS,
    Option,
    available_methods,
    default_method,
    expected_count,
    segment,
)

# Counts of these are what the image makes of them; the others can be asked for a number.
UNCOUNTED = ("felzenszwalb", "quickshift")


def scene(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth blobs with noise: something to follow and something to stumble over."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def pieces(ids: NDArray[np.int32]) -> int:
    return int(label(ids, background=-1, connectivity=1).max())


def assert_contract(region_map: RegionMap, image: NDArray[np.uint8]) -> None:
    assert region_map.ids.shape == image.shape[:2]
    assert region_map.areas().min() >= 1  # contiguous: every id is used
    assert pieces(region_map.ids) == region_map.count  # each region in one 4-connected piece
    assert region_map.params["count"] == region_map.count


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_contract(self, method: str) -> None:
        image = scene(96, 128)
        before = image.copy()
        first, second = (segment(image, method, 16) for _ in range(2))
        assert_contract(first, image)
        assert first.hash == second.hash
        assert np.array_equal(image, before)
        assert (first.method, first.params["side_px"], first.params["expected"]) == (method, 16, 48)

    @pytest.mark.parametrize(
        "shape", [(1, 1), (1, 2), (2, 1), (3, 3), (4, 8), (1, 300), (300, 1), (33, 200), (7, 90)]
    )
    @pytest.mark.parametrize("side_px", [4, 32])
    def test_small_and_thin_images(self, method: str, shape: tuple[int, int], side_px: int) -> None:
        image = scene(*shape)
        assert_contract(segment(image, method, side_px), image)

    def test_flat_image(self, method: str) -> None:
        image = np.full((64, 64, 3), 7, np.uint8)
        assert_contract(segment(image, method, 16), image)

    def test_count(self, method: str) -> None:
        for height, width, side_px in ((120, 160, 16), (97, 141, 12), (200, 64, 16)):
            region_map = segment(scene(height, width), method, side_px)
            if method in UNCOUNTED:
                assert region_map.params["asked"] is None
            else:
                assert 0.8 < region_map.count / region_map.params["expected"] < 1.2

    def test_survives_the_file(self, method: str, tmp_path: Path) -> None:
        region_map = segment(scene(40, 50), method, 8)
        region_map.save(tmp_path / "map.npz")
        assert RegionMap.load(tmp_path / "map.npz").hash == region_map.hash

    def test_unknown_and_wrong_options(self, method: str) -> None:
        image = scene(16, 16)
        with pytest.raises(SuperpixelError, match=f"Unknown option of {method}: 'colour'"):
            segment(image, method, 8, colour=1)
        for name, option in METHODS[method].options.items():
            for value in ("x", None, np.nan, option.low - 1):
                with pytest.raises(SuperpixelError, match=f"Expected {name} as"):
                    segment(image, method, 8, **{name: value})
            explicit: dict[str, Any] = {name: option.default}
            assert segment(image, method, 8, **explicit).hash == segment(image, method, 8).hash

    def test_transposed_memory_is_fine(self, method: str) -> None:
        image = scene(40, 50)
        strided = np.asfortranarray(image)
        assert segment(strided, method, 8).hash == segment(image, method, 8).hash


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([4, 7, 16]), st.integers(0, 99))
def test_contract_on_any_shape(height: int, width: int, side_px: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for method in ("seeds", "slic", "watershed", "grid"):
        assert_contract(segment(image, method, side_px), image)


@pytest.mark.parametrize("method", ["seeds", "slic"])
def test_quantised_count_at_camvid_size(method: str) -> None:
    region_map = segment(scene(360, 480), method, 32)
    assert (region_map.params["expected"], region_map.count) == (169, 165)


def test_counts_within_two_per_cent_where_they_exist() -> None:
    for method in ("seeds", "slic", "watershed", "grid"):
        region_map = segment(scene(512, 768), method, 32)
        assert abs(region_map.count / region_map.params["expected"] - 1) <= 0.02


def test_seeds_request_is_the_arithmetic_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    safe = 0
    for _ in range(200):
        height, width, side = (int(v) for v in rng.integers((1, 1, 4), (300, 300, 50)))
        levels = int(rng.integers(2, 6))
        asked, count = seeds_request(height, width, expected_count((height, width), side), levels)
        if count:
            safe += 1
            made = cv2.ximgproc.createSuperpixelSEEDS(width, height, 3, asked, levels)
            assert made.getNumberOfSuperpixels() == count
    assert safe > 100


@pytest.mark.parametrize(
    ("height", "width", "expected", "levels", "answer"),
    [
        (360, 480, 169, 3, 165), (360, 480, 169, 5, 165), (1024, 2048, 2048, 3, 2048),
        (500, 375, 183, 5, 165), (1, 1, 1, 3, 0), (3, 100, 10, 3, 0),
    ],
)  # fmt: skip
def test_seeds_request_known_counts(
    height: int, width: int, expected: int, levels: int, answer: int
) -> None:
    assert seeds_request(height, width, expected, levels)[1] == answer


@pytest.mark.parametrize("cv2", [None, types.ModuleType("cv2")])
def test_without_contrib(cv2: types.ModuleType | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No OpenCV at all, and the empty folder that uninstalling one of two OpenCVs leaves."""
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    image = scene(40, 50)
    with pytest.raises(SuperpixelError) as caught:
        segment(image, "seeds", 8)
    command = "pip install --force-reinstall --no-deps opencv-contrib-python-headless==4.12.0.88"
    assert command in caught.value.hint
    with pytest.raises(SuperpixelError, match="'watershed' needs OpenCV"):
        segment(image, "watershed", 8)
    assert default_method() == "slic"
    assert available_methods() == ("slic", "felzenszwalb", "quickshift", "grid")
    assert_contract(segment(image, "slic", 8), image)


def test_with_contrib() -> None:
    assert default_method() == "seeds"
    assert available_methods() == tuple(METHODS)


def test_refusals() -> None:
    image = scene(16, 16)
    with pytest.raises(SuperpixelError, match="Unknown superpixel method: 'seed'") as caught:
        segment(image, "seed")
    assert caught.value.hint.startswith("Known: seeds, slic")
    for side_px in (3, 0, -1, 5000, 8.0, True, "8"):
        with pytest.raises(SuperpixelError, match="side_px must be a whole number"):
            segment(image, "grid", side_px)  # type: ignore[arg-type]
    for wrong in (image[..., 0], image.astype(np.float32), image[:0], image[..., :2]):
        with pytest.raises(SuperpixelError, match="Expected an image as non-empty"):
            segment(wrong, "grid")


def test_defaults_lie_in_their_ranges() -> None:
    options = [option for method in METHODS.values() for option in method.options.values()]
    assert len(options) > 10
    for option in options:
        assert isinstance(option, Option)
        assert option.low <= option.default <= option.high


def test_lab_is_that_of_scikit_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    assert np.abs(srgb_to_lab(image) - rgb2lab(image)).max() < 1e-3
    white_and_black = srgb_to_lab(np.array([[[255] * 3, [0] * 3]], np.uint8))
    assert np.allclose(white_and_black, [[[100, 0, 0], [0, 0, 0]]], atol=0.02)


def test_repair_by_hand() -> None:
    labels = np.array([[5, 5, 9, 5], [5, 5, 9, 9], [5, 5, 9, 9]])
    image = np.zeros((3, 4, 3), np.uint8)
    assert keep_largest_pieces(labels, image).tolist() == [[0, 0, 1, 1]] + [[0, 0, 1, 1]] * 2


def test_repair_goes_by_colour() -> None:
    labels = np.array([[0, 0, 2, 1, 1], [0, 0, 3, 1, 1], [2, 2, 3, 3, 3]])
    image = np.zeros((3, 5, 3), np.uint8)
    image[:, 3:] = image[0, 2] = 200  # the loose pixel of label 2 looks like label 1
    assert keep_largest_pieces(labels, image)[0].tolist() == [0, 0, 1, 1, 1]
    image[0, 2] = 0
    assert keep_largest_pieces(labels, image)[0].tolist() == [0, 0, 0, 1, 1]


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.integers(1, 20))
def test_repair_laws(seed: int, height: int, width: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, number, (height, width))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    kept = keep_largest_pieces(labels, image)
    assert pieces(kept) == int(kept.max()) + 1 == len(np.unique(labels))
    assert np.array_equal(keep_largest_pieces(kept, image), kept)  # nothing left to repair
    merged = merge_small_pieces(labels, image, min_px=4)
    assert pieces(merged) == int(merged.max()) + 1
    areas = np.bincount(merged.ravel())
    assert areas.min() >= 4 or len(areas) == 1
    assert pieces(merge_small_pieces(labels, image, min_px=1)) == pieces(labels)


def test_flood_changes_no_assigned_pixel() -> None:
    ids = np.array([[0, -1, -1, 1]], np.int32)
    image = np.array([[[0] * 3, [9] * 3, [200] * 3, [255] * 3]], np.uint8)
    assert flood(ids, image).tolist() == [[0, 0, 1, 1]]
    assert ids.tolist() == [[0, -1, -1, 1]]


def test_majority_confusion_by_hand() -> None:
    region_map = RegionMap(np.array([[0, 0, 0, 1]], np.int32), 2, "grid")
    mask = np.array([[1, 1, 0, 255]], np.uint8)
    assert majority_confusion(mask, region_map, 2).tolist() == [[0, 1], [0, 2]]


def test_quality_on_camvid(camvid: Path) -> None:
    pairs = load_camvid(camvid, "train")
    rows = {row.method: row for row in bench_superpixels(pairs, ("seeds", "slic", "grid"))}
    assert rows["seeds"].miou >= 0.65
    assert rows["slic"].miou >= 0.645
    assert min(rows["seeds"].miou, rows["slic"].miou) > rows["grid"].miou + 0.04
    assert min(rows["seeds"].accuracy, rows["slic"].accuracy) >= 0.915
    assert rows["seeds"].count == rows["slic"].count == 165
    assert all(row.ms > 0 for row in rows.values())


@pytest.fixture
def jobs(tmp_path: Path) -> list[SegmentJob]:
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.fromarray(scene(40, 48, number)).save(path)
        made.append(SegmentJob(path, tmp_path / f"{number}.npz"))
    made[2].image.write_text("not an image")
    return made


@pytest.mark.parametrize("workers", [1, 2])
def test_pool_reports_failures_and_goes_on(jobs: list[SegmentJob], workers: int) -> None:
    seen: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, result: Segmented) -> None:
        seen.append((done, total, result.job.image.name))

    results = segment_pool(jobs, "grid", 8, workers=workers, progress=progress)
    assert [result.job for result in results] == jobs
    assert [result.error is None for result in results] == [True, True, False, True]
    assert "2.png is not an image" in str(results[2].error)
    assert not jobs[2].regions.exists()
    for result in (results[0], results[1], results[3]):
        saved = RegionMap.load(result.job.regions)
        assert saved.hash == result.regions_hash
        assert (saved.height, saved.width, saved.count) == (40, 48, result.count)
    assert [row[:2] for row in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {row[2] for row in seen} == {job.image.name for job in jobs}


def test_pool_hands_on_options_and_the_pixel_cap(jobs: list[SegmentJob]) -> None:
    results = segment_pool(jobs[:1], "slic", 8, params={"iterations": 1}, workers=1)
    assert RegionMap.load(results[0].job.regions).params["iterations"] == 1
    (capped,) = segment_pool(jobs[:1], "grid", 8, workers=1, max_pixels=100)
    assert "at most 100 are allowed" in str(capped.error)
    (wrong,) = segment_pool(jobs[:1], "none", 8, workers=1)
    assert "Unknown superpixel method" in str(wrong.error)
    full = SegmentJob(jobs[0].image, jobs[0].image / "no" / "folder.npz")
    assert segment_pool([full], "grid", 8, workers=1)[0].error


def test_empty_pool_and_no_workers() -> None:
    assert segment_pool([]) == []
    with pytest.raises(SuperpixelError, match="at least 1 worker"):
        segment_pool([], workers=0)


class _DiesOnTwo(superpixel_pool._Work):
    def __call__(self, job: SegmentJob) -> Segmented:
        if job.image.name == "2.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(job)


def test_a_killed_worker_costs_one_image(
    jobs: list[SegmentJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superpixel_pool, "_Work", _DiesOnTwo)
    results = segment_pool(jobs, "grid", 8, workers=2)
    assert [result.error is None for result in results] == [True, True, False, True]
    assert "died" in str(results[2].error)
