"""Data sets on disk: pairs of an image and a class-index mask, checked before use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.images import image_size, read_image, read_mask

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")

CAMVID_CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
    "Pedestrian", "Bicyclist",
)  # fmt: skip
CAMVID_VOID = 11


@dataclass(frozen=True)
class Pair:
    """An image file and its mask file."""

    image: Path
    mask: Path

    @property
    def name(self) -> str:
        """File name of the image without its suffix."""
        return self.image.stem


@dataclass(frozen=True)
class ImageMaskSet:
    """Pairs in the order of their names; masks hold 0..num_classes-1 and `void`."""

    pairs: tuple[Pair, ...]
    num_classes: int
    void: int = 255

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and mask (H, W), both uint8.

        Raises: ImageError for unreadable files; DataError if their sizes differ or the mask holds
        an unknown class.
        """
        pair = self.pairs[index]
        image, mask = read_image(pair.image), read_mask(pair.mask)
        _check_sizes(pair, image.shape[:2], mask.shape)
        used = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
        unknown = used[(used >= self.num_classes) & (used != self.void)]
        if unknown.size:
            raise DataError(
                f"{pair.mask} holds class ids {unknown.tolist()}; known are "
                f"0..{self.num_classes - 1} and void ({self.void}).",
                hint="Check the number of classes and the void value against the masks.",
            )
        return image, mask

    def check(self) -> None:
        """Read every pair once; the first fault is raised (as `read`). Takes time."""
        for index in range(len(self.pairs)):
            self.read(index)


def find_pairs(
    images_dir: Path | str, masks_dir: Path | str, num_classes: int, void: int = 255
) -> ImageMaskSet:
    """Pair the files of two folders by name without suffix; sizes are compared by the headers.

    Raises: DataError naming the missing folder, every image without mask and mask without image,
    two files of one name, an empty folder, sizes that differ, or a void among the classes.
    ImageError for a file that is no picture.
    """
    if not 1 <= num_classes <= 255 or void < num_classes:
        raise DataError(
            f"Expected 1..255 classes and a void value outside them, got {num_classes} and {void}.",
            hint="Void is usually 255.",
        )
    images = _by_name(Path(images_dir), IMAGE_SUFFIXES, "images")
    masks = _by_name(Path(masks_dir), MASK_SUFFIXES, "masks")
    _check_partners(Path(images_dir), images, masks, "mask", Path(masks_dir))
    _check_partners(Path(masks_dir), masks, images, "image", Path(images_dir))
    pairs = tuple(Pair(images[name], masks[name]) for name in sorted(images))
    for pair in pairs:
        _check_sizes(pair, image_size(pair.image), image_size(pair.mask))
    return ImageMaskSet(pairs, num_classes, void)


def camvid(root: Path | str, split: str = "train") -> ImageMaskSet:
    """CamVid or a set in its layout: root/split/{images,masks}, 11 classes, void = 11.

    Raises: DataError as `find_pairs`, and for a split that is not there (naming those that are).
    """
    folder = Path(root) / split
    if not folder.is_dir():
        found = sorted(p.parent.name for p in Path(root).glob("*/images") if p.is_dir())
        raise DataError(
            f"There is no split {split!r} in {root}.",
            hint=f"Splits found: {', '.join(found)}." if found else
            "Expected folders train/images and train/masks there.",
        )  # fmt: skip
    return find_pairs(folder / "images", folder / "masks", len(CAMVID_CLASSES), CAMVID_VOID)


def _by_name(folder: Path, suffixes: Sequence[str], what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"There is no folder of {what} at {folder}.", hint="Check the path.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(
                f"{folder} holds both {found[path.stem].name} and {path.name}.",
                hint="Pairs are found by name: rename or remove one.",
            )
        found[path.stem] = path
    if not found:
        raise DataError(
            f"There are no {what} in {folder}.", hint=f"Looked for {', '.join(suffixes)}."
        )
    return found


def _check_partners(
    folder: Path, files: dict[str, Path], partners: dict[str, Path], kind: str, other: Path
) -> None:
    alone = [files[name].name for name in sorted(files) if name not in partners]
    if alone:
        more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
        raise DataError(
            f"In {folder}, {len(alone)} files have no {kind} of the same name in {other}: "
            f"{', '.join(alone[:5])}{more}.",
            hint=f"Add each {kind}, or remove the file.",
        )


def _check_sizes(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    if image != mask:
        raise DataError(
            f"{pair.image} is {image[0]} x {image[1]} px (height x width), its mask {pair.mask} "
            f"{mask[0]} x {mask[1]}.",
            hint="Make the mask at the size of the upright image.",
        )
