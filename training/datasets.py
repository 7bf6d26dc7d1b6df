"""Data sets on disk: pairs of an image and a class-index mask, checked before use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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

UNKNOWN = 254  # in a table: this stored value may not occur


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
    """Pairs in the order of their names; masks hold 0..num_classes-1 and `void`.

    names: of the classes, or empty where they are not known.
    table: 256 entries, stored value -> class, `void` or UNKNOWN; None: masks are as stored.

    Raises: DataError for a void among the classes, names or a table that do not fit the classes.
    """

    pairs: tuple[Pair, ...]
    num_classes: int
    void: int = 255
    names: tuple[str, ...] = ()
    table: bytes | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= 255 or self.void < self.num_classes:
            raise DataError(
                f"Expected 1..255 classes and a void value outside them, got {self.num_classes} "
                f"and {self.void}.",
                hint="Void is usually 255.",
            )
        if self.names and len(self.names) != self.num_classes:
            raise DataError(
                f"The class list names {len(self.names)} classes, the masks have "
                f"{self.num_classes}.",
                hint="Give one name per class index, without void.",
            )
        if self.table is not None:
            _check_table(self.table, self.num_classes, self.void)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H, W, 3) and mask (H, W) after the table, both uint8.

        Raises: ImageError for unreadable files; DataError if their sizes differ or the mask holds
        an unknown class.
        """
        pair = self.pairs[index]
        image, mask = read_image(pair.image), read_mask(pair.mask)
        _check_sizes(pair, image.shape[:2], mask.shape)
        lookup = np.frombuffer(self.table or bytes(range(256)), np.uint8)
        used = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
        classes = lookup[used].astype(np.int64)
        unknown = used[(classes >= self.num_classes) & (classes != self.void)]
        if unknown.size:
            known = np.flatnonzero((lookup < self.num_classes) | (lookup == self.void)).tolist()
            raise DataError(
                f"{pair.mask} holds class ids {unknown.tolist()}; known are "
                + (f"0..{self.num_classes - 1} and void ({self.void})." if self.table is None
                   else f"{_spans(known)}."),
                hint="Check the number of classes and the void value against the masks.",
            )  # fmt: skip
        return image, mask if self.table is None else lookup[mask]

    def check_sizes(self) -> None:
        """Compare the sizes of every pair by the headers alone; DataError or ImageError."""
        for pair in self.pairs:
            _check_sizes(pair, image_size(pair.image), image_size(pair.mask))

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
    found = ImageMaskSet((), num_classes, void)  # the cheap checks first
    found = replace(found, pairs=pair_folders(Path(images_dir), Path(masks_dir)))
    found.check_sizes()
    return found


def pair_folders(
    images_dir: Path, masks_dir: Path, endings: tuple[str, str] = ("", ""), deep: bool = False
) -> tuple[Pair, ...]:
    """Pairs of two folders by name without suffix, sorted.

    endings: of the stems of images and masks, no part of the name; files without are left alone.
    deep: look into subfolders; the subfolder then belongs to the name.

    Raises: DataError as `find_pairs`, but for sizes.
    """
    images = _by_name(images_dir, IMAGE_SUFFIXES, "images", endings[0], deep)
    masks = _by_name(masks_dir, MASK_SUFFIXES, "masks", endings[1], deep)
    _check_partners(images_dir, images, masks, "mask", masks_dir)
    _check_partners(masks_dir, masks, images, "image", images_dir)
    return tuple(Pair(images[name], masks[name]) for name in sorted(images))


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


def _by_name(
    folder: Path, suffixes: Sequence[str], what: str, ending: str, deep: bool
) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(
            f"There is no folder of {what} at {folder}.",
            hint="Give the folder that holds images/ and masks/."
            if folder.name in ("images", "masks")
            else "Check the path.",
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*") if deep else folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if not path.stem.endswith(ending) or (ending and path.stem == ending):
            continue
        name = path.relative_to(folder).with_name(path.stem.removesuffix(ending)).as_posix()
        if name in found:
            raise DataError(
                f"{folder} holds both {found[name].name} and {path.name}.",
                hint="Pairs are found by name: rename or remove one.",
            )
        found[name] = path
    if not found:
        looked = ", ".join(f"{ending}{suffix}" for suffix in suffixes)
        raise DataError(f"There are no {what} in {folder}.", hint=f"Looked for {looked}.")
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


def _check_table(table: bytes, num_classes: int, void: int) -> None:
    """Raises DataError unless each of 256 stored values has a class, void or UNKNOWN."""
    strange = sorted({v for v in table if v >= num_classes} - {void, UNKNOWN})
    if len(table) != 256 or strange or num_classes > UNKNOWN or void == UNKNOWN:
        raise DataError(
            f"A table of {len(table)} entries leads to {strange}, which are neither classes "
            f"0..{num_classes - 1} nor void ({void}).",
            hint=f"It needs 256 entries; {UNKNOWN} marks values that may not occur.",
        )


def _spans(values: Sequence[int]) -> str:
    """Ascending numbers in short: 0..7, 9."""
    groups: list[list[int]] = []
    for value in values:
        if groups and value == groups[-1][1] + 1:
            groups[-1][1] = value
        else:
            groups.append([value, value])
    return ", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in groups)
