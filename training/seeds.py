"""SEEDS superpixels by OpenCV contrib, asked for the right number and kept from crashing.

M. Van den Bergh et al., "SEEDS: Superpixels Extracted via Energy-Driven Sampling", ECCV 2012.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import SuperpixelError

REPAIR_OPENCV = (
    "Run `pip install --force-reinstall --no-deps opencv-contrib-python-headless==4.12.0.88`."
)

NO_SEEDS = (
    "OpenCV's SEEDS is missing here: either this is no contrib build, or opencv-python-headless "
    "was installed over it (the Label Studio SDK asks for that)."
)


def has_seeds() -> bool:
    """Whether this OpenCV has SEEDS (only the contrib builds do)."""
    try:
        import cv2
    except ImportError:
        return False
    return hasattr(getattr(cv2, "ximgproc", None), "createSuperpixelSEEDS")


def seeds_labels(
    image: NDArray[np.uint8], side_px: int, expected: int, options: Mapping[str, Any]
) -> tuple[NDArray[np.int32], int]:
    """SEEDS on 8-bit Lab; labels (H, W) int32, maybe in several pieces, and the number asked for.

    Raises: SuperpixelError where OpenCV lacks SEEDS.
    """
    if not has_seeds():
        raise SuperpixelError(
            "'seeds' needs cv2.ximgproc.createSuperpixelSEEDS, which this OpenCV lacks: either it "
            "is no contrib build, or another OpenCV package was installed over it.",
            hint=f"{REPAIR_OPENCV} Or choose method='slic' for a new project.",
        )
    import cv2

    height, width = image.shape[:2]
    if expected == 1:
        return np.zeros((height, width), np.int32), 1  # SEEDS makes at least four
    levels = options["levels"]
    asked, count = seeds_request(height, width, expected, levels)
    if abs(count - expected) > expected / 4:
        image, asked = _padded(image, side_px, expected, levels, asked, count)
    lab = _stretched_lab(image, options["chroma_gain"])
    seeds = cv2.ximgproc.createSuperpixelSEEDS(
        image.shape[1], image.shape[0], 3, asked, levels, options["prior"], options["bins"],
        options["double_step"],
    )  # fmt: skip
    seeds.iterate(lab, options["iterations"])
    labels: NDArray[np.int32] = seeds.getLabels()[:height, :width]
    return np.ascontiguousarray(labels), asked


def seeds_request(height: int, width: int, expected: int, levels: int) -> tuple[int, int]:
    """The number to ask OpenCV's SEEDS for so that it makes about `expected`, and what it makes.

    OpenCV lays blocks of whole pixels, doubles them level by level and drops what is left over, so
    only some counts exist: 165 instead of 169 at 360 x 480. This is its arithmetic, which also
    tells the requests on which it divides by zero or never returns. (0, 0) if no request is safe.
    """
    rows = np.arange(1, height // 2 ** (levels - 1) + 1)
    columns = rows * width // height
    rows, columns = rows[columns > 0], columns[columns > 0]
    # OpenCV takes the root of asked * height / width as rows; the smallest request that gives them.
    asked = np.maximum(np.ceil(rows.astype(np.float64) ** 2 * width / height).astype(np.int64), 10)
    asked += _opencv_rows(asked, height, width) < rows
    block_height = height / rows / 2 ** (levels - 1)
    block_width = width / columns / 2 ** (levels - 1)
    safe = (_opencv_rows(asked, height, width) == rows) & (block_height >= 1) & (block_width >= 1)
    down = height // np.ceil(block_height).astype(np.int64) >> (levels - 1)
    across = width // np.ceil(block_width).astype(np.int64) >> (levels - 1)
    count = np.where(safe, down * across, 0)
    if not count.any():
        return 0, 0
    best = int(np.where(count > 0, np.abs(count - expected), np.iinfo(np.int64).max).argmin())
    return int(asked[best]), int(count[best])


def _opencv_rows(asked: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    exact = asked.astype(np.float32) * np.float32(height) / np.float32(width)
    rows: NDArray[np.int64] = np.sqrt(exact).astype(np.int64)
    return rows


def _padded(
    image: NDArray[np.uint8], side_px: int, expected: int, levels: int, asked: int, count: int
) -> tuple[NDArray[np.uint8], int]:
    """The image with its last row and column repeated to whole superpixels, where that is nearer.

    Thin and small images need it: OpenCV drops the remainder of each side, here most of the image.
    """
    height, width = image.shape[:2]
    block = 2 ** (levels - 1)
    cell = max(1, round(side_px / block)) * block
    for least in (1, 4):  # OpenCV never aims at less than ten superpixels: 4 x 4 always works
        tall = max(-height % cell, least * cell - height)
        wide = max(-width % cell, least * cell - width)
        padded_asked, padded_count = seeds_request(height + tall, width + wide, expected, levels)
        nearer = abs(padded_count - expected) < abs(count - expected) or count == 0
        if padded_count > 0 and nearer:
            return np.pad(image, ((0, tall), (0, wide), (0, 0)), mode="edge"), padded_asked
        if count > 0:
            break
    return image, asked


def _stretched_lab(image: NDArray[np.uint8], chroma_gain: float) -> NDArray[np.uint8]:
    import cv2

    # Not the float path: it wants 0..1 in every channel, and saturates on hue.
    lab: NDArray[np.uint8] = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2LAB)
    values = np.arange(256)
    table = np.clip(np.rint((values - 128) * chroma_gain + 128), 0, 255).astype(np.uint8)
    lab[..., 1:] = table[lab[..., 1:]]
    return lab
