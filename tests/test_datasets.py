"""Pairs of images and masks, and what is said when one is missing or wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.datasets import CAMVID_CLASSES, camvid, find_pairs
from training.errors import DataError, ImageError


def write(path: Path, value: int = 0, size: tuple[int, int] = (4, 3), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else "#102030").save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b", "a"):
        write(tmp_path / "images" / f"{name}.jpg", mode="RGB")
        write(tmp_path / "masks" / f"{name}.png", value=1)
    (tmp_path / "images" / "notes.txt").touch()
    return tmp_path


def test_pairs_come_by_name(folder: Path) -> None:
    pairs = find_pairs(folder / "images", folder / "masks", num_classes=2)
    assert [(p.name, p.image.name, p.mask.name) for p in pairs] == [
        ("a", "a.jpg", "a.png"), ("b", "b.jpg", "b.png"),
    ]  # fmt: skip
    assert len(pairs) == 2
    image, mask = pairs.read(0)
    assert (image.shape, mask.shape, mask.tolist()) == ((3, 4, 3), (3, 4), [[1] * 4] * 3)
    pairs.check()


def test_every_fault_is_named(folder: Path) -> None:
    images, masks = folder / "images", folder / "masks"
    with pytest.raises(DataError, match=r"no folder of images at .*nowhere"):
        find_pairs(folder / "nowhere", masks, 2)
    write(images / "c.png", mode="RGB")
    with pytest.raises(DataError, match=r"1 files have no mask of the same name in .*: c\.png"):
        find_pairs(images, masks, 2)
    (images / "c.png").unlink()
    for number in range(7):
        write(masks / f"x{number}.png")
    with pytest.raises(DataError, match=r"7 files have no image .*x4\.png and 2 more"):
        find_pairs(images, masks, 2)
    for number in range(7):
        (masks / f"x{number}.png").unlink()
    write(images / "a.png", mode="RGB")
    with pytest.raises(DataError, match=r"both a\.jpg and a\.png"):
        find_pairs(images, masks, 2)
    (images / "a.png").unlink()
    write(masks / "a.png", size=(3, 4))
    with pytest.raises(DataError, match=r"a\.jpg is 3 x 4 px .*a\.png 4 x 3"):
        find_pairs(images, masks, 2)
    (masks / "a.png").write_text("text")
    with pytest.raises(ImageError, match=r"a\.png is not an image"):
        find_pairs(images, masks, 2)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no images in"):
        find_pairs(tmp_path, tmp_path, 2)


def test_unknown_classes_are_named(folder: Path) -> None:
    write(folder / "masks" / "b.png", value=7)
    pairs = find_pairs(folder / "images", folder / "masks", num_classes=3)
    pairs.read(0)
    with pytest.raises(DataError, match=r"b\.png holds class ids \[7\]; known are 0\.\.2 and void"):
        pairs.check()
    find_pairs(folder / "images", folder / "masks", num_classes=3, void=7).check()


@pytest.mark.parametrize(("num_classes", "void"), [(0, 255), (256, 300), (12, 11)])
def test_class_numbers_are_checked(folder: Path, num_classes: int, void: int) -> None:
    with pytest.raises(DataError, match=r"1\.\.255 classes"):
        find_pairs(folder / "images", folder / "masks", num_classes, void)


def test_missing_split_names_those_found(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        camvid(folder, "train")
    assert "train/images" in caught.value.hint
    write(folder / "val" / "images" / "a.png")
    with pytest.raises(DataError, match="Splits found: val"):
        camvid(folder, "train")


@pytest.mark.parametrize(("split", "size"), [("train", 367), ("val", 101), ("test", 233)])
def test_camvid(camvid: Path, split: str, size: int) -> None:
    from training.datasets import camvid as load

    pairs = load(camvid, split)
    assert (len(pairs), pairs.num_classes, pairs.void) == (size, len(CAMVID_CLASSES), 11)
    image, mask = pairs.read(0)
    assert (image.shape, mask.shape) == ((360, 480, 3), (360, 480))
    assert set(np.unique(mask)) <= set(range(12))
