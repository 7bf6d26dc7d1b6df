"""How much better or worse a version segments than another one, by the images both were tried on.

Pure functions of what versions keep of their held-out images; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# With fewer the error of the difference is itself hardly known.
FEWEST_IMAGES = 5
SURE = 2.0  # errors of the difference; one-sided, a chance of about 2.5 %


@dataclass(frozen=True)
class Change:
    """A difference with its standard error, and how many images or questions it was seen on."""

    difference: float
    error: float
    count: int

    @property
    def fell(self) -> bool:
        """Whether it is below zero by more than `SURE` errors."""
        return self.difference < -SURE * self.error


def heldout_change(before: Mapping[str, str], after: Mapping[str, str]) -> Change | None:
    """The difference of two versions' mIoU on the held-out images that both have.

    mIoU is a mean of ratios of sums over images, so its error is that of the jackknife: the
    difference is taken again without each image in turn, for both versions at once, since an
    image that is hard for one is hard for the other.

    Args:
        before: by image and hash of its mask, `ConfusionMatrix.per_class`; of the same classes.

    Returns:
        None where fewer than `FEWEST_IMAGES` images are the same.
    """
    same = sorted(before.keys() & after.keys())
    if len(same) < FEWEST_IMAGES:
        return None
    old, new = (_counts([found[name] for name in same]) for found in (before, after))
    width = max(old.shape[1], new.shape[1])
    old, new = (_widened(counts, width) for counts in (old, new))
    whole = _miou(new.sum(0)) - _miou(old.sum(0))
    without = np.array([
        _miou(new.sum(0) - new[i]) - _miou(old.sum(0) - old[i]) for i in range(len(same))
    ])  # fmt: skip
    without = without[np.isfinite(without)]
    if not math.isfinite(whole) or len(without) < FEWEST_IMAGES:
        return None
    count = len(without)
    error = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    return Change(float(whole), error, len(same))


def _counts(images: list[str]) -> NDArray[np.int64]:
    """(images, classes, 3): right, true and predicted pixels."""
    rows = [[[int(v) for v in part.split()] for part in text.split(";") if part] for text in images]
    width = 1 + max((row[0] for image in rows for row in image), default=-1)
    counts = np.zeros((len(images), width, 3), np.int64)
    for number, image in enumerate(rows):
        for index, *pixels in image:
            counts[number, index] = pixels
    return counts


def _widened(counts: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    return np.pad(counts, ((0, 0), (0, width - counts.shape[1]), (0, 0)))


def _miou(counts: NDArray[np.int64]) -> float:
    """As `ConfusionMatrix.iou`: over the classes in the ground truth."""
    right, truth, found = counts.T.astype(float)
    present = truth > 0
    if not present.any():
        return math.nan
    return float((right[present] / (truth + found - right)[present]).mean())
