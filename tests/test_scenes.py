"""Procedural street scenes: exact masks, the layout of CamVid, the same again for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from label_config.classes import ClassSchema
from training.datasets import CAMVID_CLASSES, CAMVID_VOID, camvid
from training.errors import DataError
from training.images import read_image, read_mask
from training.oracle import region_targets
from training.scene_canvas import Camera, Canvas
from training.scenes import CLASS_NAMES, VOID, make_scene, write_scene_set
from training.superpixels import segment


def test_same_generator_same_scene() -> None:
    first, second, other = (make_scene(np.random.default_rng(s), 120, 160) for s in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("size", [(32, 32), (360, 480), (90, 200), (256, 128)])
def test_shapes(size: tuple[int, int]) -> None:
    image, mask = make_scene(np.random.default_rng(0), *size)
    assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
    assert (mask.shape, mask.dtype) == (size, np.uint8)
    assert mask.max() <= VOID


def test_classes_are_those_of_camvid_and_all_occur() -> None:
    assert (CLASS_NAMES, VOID) == (CAMVID_CLASSES, CAMVID_VOID) == (
        tuple(ClassSchema.preset("camvid").names), 11,
    )  # fmt: skip
    shares = np.zeros(12)
    for seed in range(30):
        mask = make_scene(np.random.default_rng(seed), 180, 240)[1]
        shares += np.bincount(mask.ravel(), minlength=12) / mask.size / 30
    assert (shares > 0.001).all()  # rare classes, but none is missing
    assert shares.argmax() == CLASS_NAMES.index("Road")
    assert shares[list(map(CLASS_NAMES.index, ("Sky", "Building", "Tree")))].min() > 0.05


def test_colour_alone_helps_but_is_not_enough() -> None:
    """A nearest-mean-colour classifier lies between guessing and knowing."""
    scenes = [make_scene(np.random.default_rng(seed), 120, 160) for seed in range(16)]
    images = np.stack([image for image, _ in scenes]).astype(float)
    masks = np.stack([mask for _, mask in scenes])
    means = np.stack([images[:8][masks[:8] == c].mean(axis=0) for c in range(11)])
    nearest = ((images[8:, ..., None, :] - means) ** 2).sum(axis=-1).argmin(axis=-1)
    accuracy = [(nearest[masks[8:] == c] == c).mean() for c in range(11)]
    assert 1.5 / 11 < np.mean(accuracy) < 0.6


def test_regions_of_scenes_hold_one_or_several_classes() -> None:
    image, mask = make_scene(np.random.default_rng(1))
    region_map = segment(image, "slic", 32)
    per_region = region_targets(mask, region_map, 11, void=11).sum(axis=1)
    assert 0.4 < (per_region == 1).mean() < 0.95
    assert per_region.max() >= 3


def test_mask_is_painted_exactly_where_the_picture_is() -> None:
    canvas = Canvas(np.random.default_rng(0), 40, 60, 0)
    canvas.haze = (0.0, 0.0, 0.0)
    flat = ("fine", 0.0)
    canvas.polygon([(5, 5), (30, 8), (20, 35)], (1.0, 0.0, 0.0), 4, flat)
    canvas.ellipse((40, 10, 50, 30), (0.0, 1.0, 0.0), 7, flat)
    assert np.array_equal(canvas.mask == 4, canvas.image[..., 0] > 0)
    assert np.array_equal(canvas.mask == 7, canvas.image[..., 1] > 0)
    assert (canvas.mask == 4).sum() > 300
    before = canvas.mask.copy()
    canvas.polygon([(0, 0), (60, 0), (60, 40), (0, 40)], (0.0, 0.0, 1.0), None, flat)
    canvas.shade([(0, 0), (30, 0), (30, 40), (0, 40)], 0.5)
    assert np.array_equal(canvas.mask, before)
    assert canvas.image[20, [10, 50], 2].tolist() == [0.5, 1.0]
    canvas.polygon([(-50, -50), (-10, -50), (-10, -10)], (0.0, 0.0, 1.0), 9)  # out of sight
    assert np.array_equal(canvas.mask, before)


def test_camera_by_hand() -> None:
    camera = Camera(center=100, horizon=50, focal=200, height=1.5)
    assert camera.project(0, 1.5, 10) == (100, 50)  # eye level is the horizon at any distance
    assert camera.project(2, 0, 10) == (140, 80)
    assert camera.project(2, 0, 20) == (120, 65)


def test_written_set(tmp_path: Path) -> None:
    root = write_scene_set(tmp_path / "set", train=3, heldout=2, seed=5, height=48, width=64)
    train, test = camvid(root, "train"), camvid(root, "test")
    assert (len(train), len(test)) == (3, 2)
    train.check()
    test.check()
    image, mask = make_scene(np.random.default_rng([5, 0, 1]), 48, 64)
    assert np.array_equal(read_mask(train.pairs[1].mask), mask)  # masks lose nothing
    jpeg = read_image(train.pairs[1].image).astype(float)
    assert np.abs(jpeg - image).mean() < 6
    assert not np.array_equal(train.read(0)[1], test.read(0)[1])
    schema = ClassSchema.load(str(root / "classes.json"))
    assert (tuple(schema.names), schema.undefined) == (CLASS_NAMES, True)
    assert schema == ClassSchema.preset("camvid")


def test_larger_set_begins_with_the_smaller(tmp_path: Path) -> None:
    small = write_scene_set(tmp_path / "a", 1, 0, height=32, width=32)
    large = write_scene_set(tmp_path / "b", 2, 1, height=32, width=32)
    files = sorted(p.relative_to(small) for p in small.rglob("*") if p.is_file())
    assert len(files) == 3
    assert all((small / f).read_bytes() == (large / f).read_bytes() for f in files)
    write_scene_set(large, 2, 1, height=32, width=32)  # again, over it
    assert len(list(large.rglob("*.png"))) == 3


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 32 px"):
        make_scene(np.random.default_rng(0), 31, 100)
    with pytest.raises(DataError, match="cannot be negative"):
        write_scene_set(tmp_path, train=-1)
