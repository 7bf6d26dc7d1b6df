"""Intersection over union from an exact confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError


@dataclass(frozen=True)
class IoU:
    """Per-class IoU in 0..1 (NaN where a class does not occur in the ground truth) and its mean."""

    per_class: tuple[float, ...]
    miou: float  # over the classes that occur; NaN if none does
    absent: tuple[int, ...]
    pixel_accuracy: float

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """By class name, null for NaN, absent classes named."""
        return {
            "miou": _number(self.miou),
            "pixel_accuracy": _number(self.pixel_accuracy),
            "per_class": {n: _number(v) for n, v in zip(classes, self.per_class, strict=True)},
            "absent": [classes[index] for index in self.absent],
        }


class ConfusionMatrix:
    """Counts (C, C) int64 of [ground truth, prediction]; void pixels do not count.

    counts[:, C] collects predictions outside 0..C-1, which are wrong and belong to no class.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts: NDArray[np.int64] = np.zeros((classes, classes + 1), np.int64)

    def add(self, predicted: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count one (H, W) pair of index masks; truth >= C is void. DataError if shapes differ."""
        if predicted.shape != truth.shape:
            raise DataError(
                f"A prediction of shape {predicted.shape} meets a mask of shape {truth.shape}.",
                hint="Image and mask must have the same size.",
            )
        valid = truth < self.classes
        columns = self.classes + 1
        column = np.minimum(predicted[valid].astype(np.int64), self.classes)
        keys = truth[valid].astype(np.int64) * columns + column
        self.counts += np.bincount(keys, minlength=self.counts.size).reshape(self.counts.shape)

    def per_class(self) -> str:
        """Right, true and predicted pixels of each class that occurs: "class right truth found;..."

        Enough for the IoU of any set of images, and short enough to keep for each of them.
        """
        right = np.diagonal(self.counts)
        truth, found = self.counts.sum(axis=1), self.counts[:, : self.classes].sum(axis=0)
        seen = np.flatnonzero((truth > 0) | (found > 0)).tolist()
        return ";".join(f"{c} {right[c]} {truth[c]} {found[c]}" for c in seen)

    def iou(self) -> IoU:
        """IoU_c = TP / (TP + FP + FN), mean over the classes in the ground truth.

        The reference gives an absent class 100 %; here it is NaN and left out of the mean.
        """
        right = np.diagonal(self.counts).astype(float)
        truth = self.counts.sum(axis=1).astype(float)
        union = truth + self.counts[:, : self.classes].sum(axis=0) - right
        present = truth > 0
        per_class = np.where(present, right / np.where(present, union, 1.0), np.nan)
        mean = float(per_class[present].mean()) if present.any() else float("nan")
        accuracy = float(right.sum() / truth.sum()) if present.any() else float("nan")
        absent = tuple(np.flatnonzero(~present).tolist())
        return IoU(tuple(per_class.tolist()), mean, absent, accuracy)


def _number(value: float) -> float | None:
    return None if value != value else value
