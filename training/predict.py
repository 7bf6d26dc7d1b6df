"""A whole image segmented: what pre-annotations and held-out scores are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import ImageError
from training.features_cache import FeatureCache
from training.images import read_mask
from training.inference import bounded_size, encode_array, encode_file, model_size
from training.metrics import ConfusionMatrix, IoU
from training.model import SegmentationModel
from training.snapshot import HeldoutItem
from training.transforms import resize_nearest

MAX_PIXELS = 4_000_000  # larger images: the arg max is taken at this size, K float maps of it fit


def predict_mask(model: SegmentationModel, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Most probable class of each pixel, (H, W) uint8, for an RGB image (H, W, 3) uint8.

    The undefined output is never predicted. Raises ImageError for another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(
            f"Expected an RGB image (H, W, 3) uint8, got {image.shape} {image.dtype}.",
            hint="Read it with training.images.read_image.",
        )
    with torch.inference_mode():
        return _mask(model, encode_array(model, image), (image.shape[0], image.shape[1]))


def evaluate(
    model: SegmentationModel,
    heldout: Sequence[HeldoutItem],
    hash_of: Callable[[HeldoutItem], str],
    cache: FeatureCache | None = None,
    each: Callable[[HeldoutItem, ConfusionMatrix], None] | None = None,
) -> IoU:
    """IoU at native size over held-out images; every mean is NaN where there are none.

    `each` is told what was found on every image.
    """
    matrix = ConfusionMatrix(model.num_classes)
    for item in heldout:
        one = ConfusionMatrix(model.num_classes)
        with torch.inference_mode():
            features, native = encode_file(model, item.image, hash_of(item), cache)
            one.add(_mask(model, features, native), read_mask(item.mask))
        matrix.counts += one.counts
        if each is not None:
            each(item, one)
    return matrix.iou()


def _mask(
    model: SegmentationModel, features: Sequence[Tensor], native: tuple[int, int]
) -> NDArray[np.uint8]:
    size = bounded_size(native, MAX_PIXELS)
    logits = model.logits(features, size, model_size(model, native))[0, : model.num_classes]
    mask = logits.argmax(0).to(torch.uint8).cpu().numpy()
    return resize_nearest(mask, native)
