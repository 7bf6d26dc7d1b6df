"""Masks of held-out images, read when they come in: understood, or refused with what was found."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from label_config import ClassSchema
from training.errors import DataError
from training.images import read_values

VOID = 255
_FORMS = "Store one class index per pixel (8-bit grey or palette), or the colours of the classes."


@dataclass(frozen=True, eq=False)
class ReadMask:
    """A mask as class indices, (H, W) uint8, VOID elsewhere.

    Attributes:
        data: the file to keep: the given one where it says the same (`as_given`), else a new PNG.
        stored: the values that the given file holds, ascending; empty for one of colours.
        how: how it was understood, where that is not plain.
    """

    indices: NDArray[np.uint8]
    data: bytes
    as_given: bool
    stored: tuple[int, ...]
    how: str | None = None


def read_heldout_mask(
    data: bytes, name: str, schema: ClassSchema, void: int, max_pixels: int
) -> ReadMask:
    """Understand a mask: class indices (grey, palette, or equal in all channels), or class colours.

    Void are 255, `void` and the number of classes, as published sets have it; in colours black,
    if no class is.

    Raises:
        ImageError: no picture, or too large.
        DataError: it means something else; says what was found.
    """
    values, mode = read_values(data, max_pixels)
    how = None
    if values.ndim == 3:
        values = _opaque(values, mode, name)
        if np.all(values == values[:, :, :1]):
            values, how = values[:, :, 0], f"the {mode} masks are read as class indices"
    if values.ndim == 3 or (how and not _fits(values, schema, void)):
        coloured = values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)
        found = _by_colour(coloured, schema)
        if isinstance(found, str):
            raise DataError(f"{name} is a mask of mode {mode} with {found}.", hint=_FORMS)
        return ReadMask(
            found, _png(found), False, (), "the masks are read by the colours of the classes"
        )
    indices = _by_index(values, name, schema, void)
    stored = tuple(np.unique(values).astype(int).tolist())
    kept = how is None and all(v < len(schema.names) or v == VOID for v in stored)
    return ReadMask(indices, data if kept else _png(indices), kept, stored, how)


def _opaque(values: NDArray[Any], mode: str, name: str) -> NDArray[Any]:
    """The channels without alpha."""
    if mode not in ("LA", "PA", "RGB", "RGBA"):
        raise DataError(f"{name} is a mask of mode {mode}.", hint=_FORMS)
    if mode == "RGB":
        return values
    if values[:, :, -1].min() < 255:
        raise DataError(
            f"{name} is a mask of mode {mode} that is transparent in places.",
            hint=f"Store void as {VOID} and no transparency.",
        )
    return values[:, :, :-1]


def _allowed(schema: ClassSchema, void: int) -> NDArray[np.bool_]:
    """Of 256 values, those that are a class or void."""
    allowed = np.arange(256) < len(schema.names)
    allowed[[VOID, void, len(schema.names)]] = True
    return allowed


def _fits(values: NDArray[Any], schema: ClassSchema, void: int) -> bool:
    return bool(_allowed(schema, void)[values].all())


def _by_index(values: NDArray[Any], name: str, schema: ClassSchema, void: int) -> NDArray[np.uint8]:
    found = np.unique(values)
    classes = len(schema.names)
    allowed = {int(v) for v in np.flatnonzero(_allowed(schema, void))}
    wrong = [v for v in found.tolist() if v not in allowed]
    if wrong:
        shown = ", ".join(f"{v:g}" for v in wrong[:8]) + (", ..." if len(wrong) > 8 else "")
        raise DataError(
            f"{name} holds the values {shown}; the class list has 0..{classes - 1} "
            f"({', '.join(schema.names[:5])}{', ...' if classes > 5 else ''}), void is {VOID}.",
            hint="Give masks made with this class list, or map their values to it and the rest to "
            f"{VOID}.",
        )
    indices = values.astype(np.uint8)
    return np.where(indices < classes, indices, np.uint8(VOID))


def _by_colour(values: NDArray[Any], schema: ClassSchema) -> NDArray[np.uint8] | str:
    """Class indices by the colours of the class list, or in words which colours are none of them.

    The lowest class of equal colours wins.
    """
    packed = values.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    known = {0: VOID}
    for index in reversed(range(len(schema.classes))):
        known[int(schema.classes[index].color[1:], 16)] = index
    strange = [i for i in np.argsort(-counts).tolist() if int(found[i]) not in known]
    if strange:
        shown = ", ".join(f"#{int(found[i]):06x}" for i in strange[:4])
        more = f" and {len(strange) - 4} more" if len(strange) > 4 else ""
        own = ", ".join(f"{c.name} {c.color}" for c in schema.classes[:4])
        return f"the colours {shown}{more}, which are no class ({own}, ...)"
    table = np.array([known[int(colour)] for colour in found], np.uint8)
    return np.asarray(table[inverse].reshape(packed.shape), np.uint8)


def _png(indices: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(indices).save(buffer, "PNG")
    return buffer.getvalue()
