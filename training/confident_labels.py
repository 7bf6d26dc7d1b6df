"""Self-training: the surest predictions of a model become labels of pixels without one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.dataset import IGNORE

BINS = 1000  # of confidences between 0 and 1


def confidences(logits: Tensor, temperature: float) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Top class (H, W) uint8 and its probability in 0..BINS, of logits (K, H, W)."""
    probability, top = torch.softmax(logits.float() / temperature, 0).max(0)
    bins = (probability * BINS).round().to(torch.int16)
    return (
        np.asarray(top.to(torch.uint8).cpu().numpy(), np.uint8),
        np.asarray(bins.cpu().numpy(), np.uint16),
    )


class Confidence:
    """How sure a model is of each class over a set of images: a threshold for each class.

    Class-balanced self-training (Zou et al., ECCV 2018): the same share of each class is kept, so
    that classes which a model is never very sure of are not left out.
    """

    def __init__(self, outputs: int) -> None:
        self._counts = np.zeros((outputs, BINS + 1), np.int64)

    def add(self, top: NDArray[np.uint8], bins: NDArray[np.uint16]) -> None:
        """Count the pixels of an image, as `confidences` gives them."""
        keys = top.astype(np.int64).ravel() * (BINS + 1) + bins.ravel()
        self._counts += np.bincount(keys, minlength=self._counts.size).reshape(self._counts.shape)

    def thresholds(self, share: float) -> NDArray[np.int64]:
        """The lowest bin of the surest `share` of each class, (K,); BINS + 1 where it is none.

        At least that share is kept, more where many are equally sure.
        """
        surer = self._counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # pixels at least this sure
        wanted = np.ceil(share * surer[:, :1])
        enough = (surer >= wanted) & (wanted > 0)
        lowest: NDArray[np.int64] = np.where(enough.any(1), enough.sum(1) - 1, BINS + 1)
        return lowest


def fill(
    labels: NDArray[np.uint8],
    top: NDArray[np.uint8],
    bins: NDArray[np.uint16],
    thresholds: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """`labels` with the sure predictions where they are IGNORE."""
    sure = bins >= thresholds[top]
    return np.where((labels == IGNORE) & sure, top, labels).astype(np.uint8)
