"""A whole image segmented: what pre-annotations and held-out scores are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import ImageError
from training.features_cache import FeatureCache
from training.images import ACCEPTED_PIXELS, read_mask
from training.inference import bounded_size, encode_array, encode_file, model_size
from training.metrics import ConfusionMatrix, IoU
from training.model import SegmentationModel
from training.one_image import OneImage
from training.snapshot import HeldoutItem
from training.transforms import resize_nearest

VOID = 255  # in a mask: no class, since "something else" is there
MAX_PIXELS = 4_000_000  # larger images: the arg max is taken at this size, K float maps of it fit


def predict_mask(model: SegmentationModel, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Most probable class of each pixel, (H, W) uint8, for an RGB image (H, W, 3) uint8.

    VOID where the undefined output is the most probable one. Raises ImageError for another shape
    or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(
            f"Expected an RGB image (H, W, 3) uint8, got {image.shape} {image.dtype}.",
            hint="Read it with training.images.read_image.",
        )

    def predicted(model: SegmentationModel, maps: torch.device) -> NDArray[np.uint8]:
        native = (image.shape[0], image.shape[1])
        with torch.inference_mode():
            return _mask(model, encode_array(model, image), native, model.num_outputs, maps)

    mask: NDArray[np.uint8] = OneImage(model).run(predicted)
    mask[mask >= model.num_classes] = VOID
    return mask


def evaluate(
    model: SegmentationModel,
    heldout: Sequence[HeldoutItem],
    hash_of: Callable[[HeldoutItem], str],
    cache: FeatureCache | None = None,
    each: Callable[[HeldoutItem, ConfusionMatrix], None] | None = None,
) -> IoU:
    """IoU at native size over held-out images; every mean is NaN where there are none.

    Each pixel counts as its most probable class, the undefined output left aside: as in the paper,
    whose masks hold classes and void only, and void does not count. `each` is told what was found
    on every image.
    """
    matrix, one = ConfusionMatrix(model.num_classes), OneImage(model)
    for item in heldout:

        def predicted(
            model: SegmentationModel, maps: torch.device, item: HeldoutItem = item
        ) -> NDArray[np.uint8]:
            with torch.inference_mode():
                features, native = encode_file(model, item.image, hash_of(item), cache)
                return _mask(model, features, native, model.num_classes, maps)

        found = ConfusionMatrix(model.num_classes)
        found.add(one.run(predicted), read_mask(item.mask, ACCEPTED_PIXELS))
        matrix.counts += found.counts
        if each is not None:
            each(item, found)
    return matrix.iou()


def _mask(
    model: SegmentationModel,
    features: Sequence[Tensor],
    native: tuple[int, int],
    outputs: int,
    maps: torch.device,
) -> NDArray[np.uint8]:
    """The most probable of the first `outputs` outputs at each pixel."""
    size = bounded_size(native, MAX_PIXELS)
    logits = model.logits(features, size, model_size(model, native), maps)[0, :outputs]
    mask = logits.argmax(0).to(torch.uint8).cpu().numpy()
    return resize_nearest(mask, native)
