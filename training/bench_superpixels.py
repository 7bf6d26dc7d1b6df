"""Speed and quality of superpixel methods on images with masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.bench_timing import Stopwatch, medians
from training.datasets import ImageMaskSet
from training.regions import RegionMap
from training.superpixels import available_methods, segment


@dataclass(frozen=True)
class SuperpixelRow:
    """Median times per image, mean region count, and the best that one label per region allows."""

    method: str
    side_px: int
    ms: float
    cpu_ms: float
    count: float
    accuracy: float
    miou: float


def bench_superpixels(
    pairs: ImageMaskSet,
    methods: Sequence[str] | None = None,
    side_px: int = 32,
    limit: int = 60,
) -> list[SuperpixelRow]:
    """Measure methods (default: all that are available) on `limit` images spread over the set.

    mIoU and accuracy are those of a labeller who gives each region its most frequent class; void
    pixels count nowhere. Classes that never occur are left out of the mean; NaN if all do.
    """
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(limit, len(pairs))).astype(int))
    data = [pairs.read(int(index)) for index in chosen]
    rows = []
    for method in available_methods() if methods is None else methods:
        confusion = np.zeros((pairs.num_classes, pairs.num_classes), np.int64)
        times, counts = [], []
        segment(data[0][0], method, side_px)  # imports and first touches are not the method's
        for image, mask in data:
            with Stopwatch() as watch:
                region_map = segment(image, method, side_px)
            times.append(watch.times)
            counts.append(region_map.count)
            confusion += majority_confusion(mask, region_map, pairs.num_classes)
        accuracy, miou = _scores(confusion)
        count = float(np.mean(counts))
        rows.append(SuperpixelRow(method, side_px, *medians(times), count, accuracy, miou))
    return rows


def majority_confusion(
    mask: NDArray[np.uint8], region_map: RegionMap, num_classes: int
) -> NDArray[np.int64]:
    """Confusion (true, given), (C, C), if each region got its most frequent class; void is out."""
    valid = mask < num_classes
    keys = region_map.ids[valid].astype(np.int64) * num_classes + mask[valid]
    counts = np.bincount(keys, minlength=region_map.count * num_classes).reshape(-1, num_classes)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion.T, counts.argmax(axis=1), counts)
    return confusion


def _scores(confusion: NDArray[np.int64]) -> tuple[float, float]:
    hits = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    if not union.any():
        return float("nan"), float("nan")
    present = union > 0
    return float(hits.sum() / confusion.sum()), float((hits[present] / union[present]).mean())
