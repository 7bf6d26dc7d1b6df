"""One image through a model in eval mode, at the size the model works at."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.features_cache import FeatureCache
from training.images import ACCEPTED_PIXELS, image_size, read_image
from training.model import SegmentationModel
from training.transforms import resize_image, working_size


def encode_array(model: SegmentationModel, image: NDArray[np.uint8]) -> list[Tensor]:
    """Encoder features of one (H, W, 3) uint8 RGB image, each with a batch axis of 1."""
    small = resize_image(image, model_size(model, (image.shape[0], image.shape[1])))
    pixels = torch.tensor(small).permute(2, 0, 1)[None].to(model.mean.device)
    return model.encode(pixels)


def encode_file(
    model: SegmentationModel,
    path: Path,
    sha256: str | None = None,
    cache: FeatureCache | None = None,
) -> tuple[list[Tensor], tuple[int, int]]:
    """Encoder features of an image file and its native size; from `cache` where there is one."""
    if cache is None or sha256 is None:
        image = read_image(path, ACCEPTED_PIXELS)
        return encode_array(model, image), (image.shape[0], image.shape[1])
    features = cache.get(path, sha256)
    device = model.mean.device
    return [f[None].float().to(device) for f in features], image_size(path, ACCEPTED_PIXELS)


def model_size(model: SegmentationModel, native: tuple[int, int]) -> tuple[int, int]:
    """The size an image of `native` size has inside the model."""
    return working_size(native, model.config.short_side)


def bounded_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """`size`, shrunk in proportion to at most about `max_pixels`."""
    factor = math.sqrt(max_pixels / (size[0] * size[1]))
    if factor >= 1:
        return size
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))
