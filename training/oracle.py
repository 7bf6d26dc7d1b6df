"""Simulated annotators: what a person would answer about a region, read off a ground-truth mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.errors import DataError
from training.regions import RegionMap


def region_targets(
    mask: NDArray[np.uint8],
    region_map: RegionMap,
    num_classes: int,
    *,
    void: int = 255,
    undefined: bool = True,
    trim: int = 5,
    min_share: float = 0.0,
) -> NDArray[np.uint8]:
    """Multi-hot answers: t[s, c] = 1 iff class c occurs in core(s)   (arXiv 2309.09319, Sec. 3.1).

    core(s) = the pixels of s outside a band of `trim` x `trim` px around region borders, or all of
    s if none is left. The band stands for what annotators overlook; it moves the clicks per region
    by a quarter, so a report must name `trim` and `min_share`.

    Args:
        mask: class indices (H, W); `void` marks pixels of no class.
        undefined: whether void is a column of its own, the last (index `num_classes`). Otherwise
            it counts nowhere and a void-only region has an empty row.
        trim: odd side of the box in px; 0 trims nothing. Image borders are not trimmed.
        min_share: a class must hold this share of core(s) to be noticed; the largest always is.

    Returns:
        (count, K) uint8 of 0 and 1, K = num_classes + undefined.

    Raises: DataError for a mask of another size, unknown values, or arguments out of range.
    """
    if not 0 <= min_share <= 1:
        raise DataError(f"min_share must lie in 0..1, got {min_share}.", hint="0.01 is 1 %.")
    core = core_pixels(region_map, trim)
    counts = _class_counts(mask, region_map, num_classes, void, core)
    noticed = (counts > 0) & (counts >= min_share * counts.sum(axis=1, keepdims=True))
    noticed[np.arange(len(counts)), counts.argmax(axis=1)] = True
    targets: NDArray[np.uint8] = noticed[:, : num_classes + undefined].astype(np.uint8)
    return targets


def dominant_targets(
    mask: NDArray[np.uint8],
    region_map: RegionMap,
    num_classes: int,
    *,
    void: int = 255,
    undefined: bool = True,
) -> NDArray[np.uint8]:
    """One-hot answers of the dominant-class baseline: the most frequent value of the whole region.

    Ties go to the smaller class, void last. Where void dominates: the last column if `undefined`,
    else an empty row. (count, K) uint8, K = num_classes + undefined.

    Raises: DataError as `region_targets`.
    """
    counts = _class_counts(mask, region_map, num_classes, void, None)
    one_hot = np.zeros(counts.shape, np.uint8)
    one_hot[np.arange(len(counts)), counts.argmax(axis=1)] = 1
    return one_hot[:, : num_classes + undefined]


def core_pixels(region_map: RegionMap, trim: int) -> NDArray[np.bool_]:
    """Pixels (H, W) left to each region by trimming; all of a region that would lose them all.

    Raises: DataError if `trim` is neither 0 nor odd.
    """
    if trim < 0 or (trim > 0 and trim % 2 == 0):
        raise DataError(f"trim must be 0 or an odd side in px, got {trim}.", hint="The paper: 5.")
    if trim == 0:
        return np.ones(region_map.ids.shape, np.bool_)
    ids = region_map.ids
    # Both sides of every border between 4-neighbours, then widened by the box.
    border = np.zeros(ids.shape, np.uint8)
    below, beside = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    border[1:] |= below
    border[:-1] |= below
    border[:, 1:] |= beside
    border[:, :-1] |= beside
    core: NDArray[np.bool_] = (
        ndimage.maximum_filter(border, size=trim, mode="constant", cval=0) == 0
    )
    left = np.bincount(ids[core], minlength=region_map.count)
    core |= (left == 0)[ids]
    return core


def _class_counts(
    mask: NDArray[np.uint8],
    region_map: RegionMap,
    num_classes: int,
    void: int,
    pixels: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """Pixels of each class in each region, (count, num_classes + 1); the last column is void."""
    if mask.shape != region_map.ids.shape:
        raise DataError(
            f"The mask is {mask.shape} px, its region map {region_map.ids.shape}.",
            hint="Make both from the same image at the same size.",
        )
    if num_classes < 1 or 0 <= void < num_classes:
        raise DataError(
            f"void={void} is one of the {num_classes} classes.",
            hint="Void must lie outside 0..num_classes-1.",
        )
    columns = np.where(mask == void, num_classes, mask.astype(np.int64))
    if columns.max() > num_classes:
        unknown = np.unique(mask[(mask >= num_classes) & (mask != void)])[:10].tolist()
        raise DataError(
            f"The mask holds {unknown}, which are neither classes 0..{num_classes - 1} nor "
            f"void ({void}).",
            hint="Check the number of classes and the void value.",
        )
    keys = region_map.ids * np.int64(num_classes + 1) + columns
    flat = keys.ravel() if pixels is None else keys[pixels]
    size = region_map.count * (num_classes + 1)
    return np.bincount(flat, minlength=size).astype(np.int64).reshape(-1, num_classes + 1)
