"""Random scale, crop and flip of an image and its target map together (algorithm of Sec. 4.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.config import AugmentConfig

IMAGE_FILL = (124, 116, 104)  # RGB; the ImageNet mean, about zero after normalisation
STEP = 16  # px; working sizes are multiples, so that the network pads nothing

Uint8 = NDArray[np.uint8]
Target = NDArray[Any]


def working_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """The (height, width) an image is brought to: `short_side` px short, multiples of 16."""
    if short_side is None:
        return size
    factor = short_side / min(size)
    height, width = (max(STEP, round(side * factor / STEP) * STEP) for side in size)
    return height, width


def resize_image(image: Uint8, size: tuple[int, int]) -> Uint8:
    """Bilinear, antialiased when shrinking; (H, W, 3) uint8."""
    if image.shape[:2] == tuple(size):
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)


def resize_nearest(target: Target, size: tuple[int, int]) -> Target:
    """Nearest neighbour (pixel centres) for region ids and labels, (H, W) any integer type."""
    if target.shape == tuple(size):
        return target
    rows, cols = (
        np.minimum(((np.arange(n) + 0.5) * old / n).astype(np.int64), old - 1)
        for n, old in zip(size, target.shape, strict=True)
    )
    return np.ascontiguousarray(target[rows[:, None], cols[None, :]])


def pad_and_crop(
    array: NDArray[Any], crop: tuple[int, int], corner: tuple[float, float], fill: Any
) -> NDArray[Any]:
    """Pad (H, W, ...) centrally up to `crop`, then cut `crop` at `corner` (fractions in [0, 1))."""
    height, width = array.shape[:2]
    full = (max(height, crop[0]), max(width, crop[1]))
    if full != (height, width):
        padded = np.empty((*full, *array.shape[2:]), array.dtype)
        padded[:] = fill
        top, left = (full[0] - height) // 2, (full[1] - width) // 2
        padded[top : top + height, left : left + width] = array
        array = padded
    y, x = (int(c * (f - k + 1)) for c, f, k in zip(corner, full, crop, strict=True))
    return array[y : y + crop[0], x : x + crop[1]]


def augment(
    image: Uint8, target: Target, fill: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Uint8, Target]:
    """Scale uniformly in `config.scale`, pad, crop, flip; target pixels outside become `fill`.

    image (H, W, 3) uint8, target (H, W) integers -> the same of size `config.crop`.
    """
    factor = rng.uniform(*config.scale)
    corner = (rng.random(), rng.random())
    flip = rng.random() < config.hflip
    height, width = (max(1, round(side * factor)) for side in target.shape)
    image = pad_and_crop(resize_image(image, (height, width)), config.crop, corner, IMAGE_FILL)
    target = pad_and_crop(resize_nearest(target, (height, width)), config.crop, corner, fill)
    if flip:
        image, target = image[:, ::-1], target[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(target)
