"""Held-out images: checked as a set before anything is made, so that no round fails for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from label_config import ClassSchema
from ml_backend.errors import BackendError
from ml_backend.heldout_masks import VOID, ReadMask, read_heldout_mask
from ml_backend.sources import Source, printable
from ml_backend.store import Image
from training.class_lists import read_class_list
from training.datasets import pair_folders
from training.errors import DataError, TrainingError
from training.images import ACCEPTED_PIXELS, content_id, image_size, read_mask


@dataclass(frozen=True)
class Heldout:
    """Held-out images that can be imported, and what a person should know about them."""

    sources: tuple[Source, ...]
    warnings: tuple[str, ...] = ()


def read_heldout(
    folder: str,
    schema: ClassSchema,
    max_pixels: int,
    *,
    pool: Collection[str] = (),
    others: Sequence[Image] = (),
) -> Heldout:
    """Held-out images with masks: a folder that holds `images/` and `masks/` of equal stems.

    Every mask is read. A `classes.json` there, or in the folder above, must list the project's
    classes and may name another void value than 255.

    Args:
        pool: content ids of the images to label; a held-out one must be none of them.
        others: held-out images that stay beside these.

    Raises:
        BackendError: what cannot be used, each file with its reason.
        DataError: files without a partner of the same name.
    """
    root = Path(folder).expanduser().resolve()
    void = _void(root, schema)
    pairs = pair_folders(root / "images", root / "masks")
    sources = [
        Source(str(p.image), p.image, split="heldout", mask=p.mask, void=void) for p in pairs
    ]
    faults: list[str] = []
    seen = _Seen(len(schema.names))
    masks: dict[str, bytes] = {}
    for source in sources:
        try:
            mask = checked_mask(source, schema, max_pixels)
            key = content_id(source.path.read_bytes())
        except (TrainingError, OSError, UnicodeError) as error:
            faults.append(_reason(source, error))
            continue
        if key in pool:
            faults.append(
                f"{printable(source.name)} is among the images to label: what a model learns from "
                "cannot measure it"
            )
        elif masks.setdefault(key, mask.data) != mask.data:
            faults.append(f"{printable(source.name)} is there twice, with different masks")
        seen.add(mask)
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise BackendError(
            f"{len(faults)} of {len(sources)} held-out images cannot be used: "
            f"{'; '.join(faults[:5])}{more}",
            hint="Correct the files, or take them out of the folder, and run it again.",
        )
    if not seen.pixels[: len(schema.names)].any():
        raise BackendError(
            f"no mask in {printable(str(root / 'masks'))} has a pixel of a class",
            hint=f"They hold {sorted(seen.values)}; the class list has 0..{len(schema.names) - 1}.",
        )
    names = {source.name for source in sources}
    for image in others:
        if image.image_id in masks or image.source in names:
            continue  # the one that came takes its place
        seen.add_indices(Path(image.mask_path or ""))
    return Heldout(tuple(sources), tuple(seen.warnings(schema)))


def checked_mask(source: Source, schema: ClassSchema, max_pixels: int) -> ReadMask:
    """The mask of a held-out image, of the image's size.

    Raises:
        TrainingError: it cannot be understood, or has another size. OSError: no such file.
    """
    if source.mask is None:
        raise DataError(f"{source.name} has no mask.", hint="Put it into masks/.")
    name = f"the mask {printable(str(source.mask))}"
    mask = read_heldout_mask(source.mask.read_bytes(), name, schema, source.void, max_pixels)
    size = image_size(source.path, max_pixels)
    if mask.indices.shape != size:
        high, wide = mask.indices.shape
        raise DataError(
            f"{name} is {high} x {wide} px (height x width), its image {size[0]} x {size[1]}.",
            hint="Make the mask at the size of the upright image.",
        )
    return mask


def check_stored(image: Image, pool: Collection[str]) -> None:
    """Look at a held-out image before hours of training: earlier releases never read its mask.

    Args:
        pool: ids of the images to label.

    Raises:
        BackendError: it cannot measure, and why.
    """
    fault = None
    if image.image_id in pool:
        fault = "it is also among the images to label"
    elif image.mask_path is not None:
        try:
            shape = read_mask(Path(image.mask_path), ACCEPTED_PIXELS).shape
        except TrainingError as error:
            fault = error.message
        else:
            if shape != (image.height, image.width):
                fault = f"its mask has {shape[0]} x {shape[1]} px (height x width)"
    if fault is not None:
        raise BackendError(
            f"held-out image {image.source} cannot measure: {fault}",
            hint="`pixbal images heldout replace FOLDER` reads every mask, `pixbal images heldout "
            f"remove {image.image_id}` takes this one out; then `pixbal train`.",
        )


def _void(root: Path, schema: ClassSchema) -> int:
    """The void value of the class list beside the masks; 255 where there is none."""
    for path in (root / "classes.json", root.parent / "classes.json"):
        try:
            listed = read_class_list(path)
        except DataError:
            continue  # none, or another file of that name
        names = [name.casefold() for name in listed.names]
        if names == [name.casefold() for name in schema.names[: len(names)]]:
            return listed.void
        raise BackendError(
            f"{path} lists the classes {', '.join(listed.names[:8])}, the project has "
            f"{', '.join(schema.names[:8])}",
            hint="Give held-out masks of the project's classes; if they are, correct that list.",
        )
    return VOID


def _reason(source: Source, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{printable(error.filename or source.name)}: {error.strerror or error}"
    text = str(error).rstrip(".")
    return text if "mask" in text else f"{printable(source.name)}: {text}"


@dataclass
class _Seen:
    """What occurs in a set of masks."""

    classes: int
    values: set[int] = field(default_factory=set)
    pixels: NDArray[np.int64] = field(init=False)
    how: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(256, np.int64)

    def add(self, mask: ReadMask) -> None:
        self.pixels += np.bincount(mask.indices.ravel(), minlength=256)
        self.values.update(mask.stored)
        if mask.how:
            self.how[mask.how] = self.how.get(mask.how, 0) + 1

    def add_indices(self, path: Path) -> None:
        indices = read_mask(path, ACCEPTED_PIXELS)
        counts = np.bincount(indices.ravel(), minlength=256)
        self.pixels[: self.classes] += counts[: self.classes]
        self.values.update(np.flatnonzero(counts).tolist())

    def warnings(self, schema: ClassSchema) -> list[str]:
        found = [f"held-out images: {how} ({count})" for how, count in self.how.items()]
        never = [n for n, count in zip(schema.names, self.pixels, strict=False) if not count]
        if self.values == {0, VOID} and len(schema.names) > 1:
            found.append(
                f"held-out images: the masks hold the values 0 and 255 only, and 255 is void: "
                f"nothing but {schema.names[0]} is measured. If 255 stands for "
                f"{schema.names[1]}, store 1"
            )
        if never:
            shown = ", ".join(never[:12]) + (", ..." if len(never) > 12 else "")
            found.append(f"held-out images: never in a mask, so not measured: {shown}")
        return found
