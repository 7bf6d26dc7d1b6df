"""Pictures of a question: the region close up, and where it lies in the image.

Pixels stay true: nothing is filled, brightened or hidden. The outline is a bright line between two
dark ones, so that it stands out on night and on snow, and runs outside the region.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import BackendError, NotFound
from training.regions import RegionMap

JPEG_QUALITY = 90
MIN_CONTEXT_PX = 96

_DARK = (16, 16, 16)
_LINE = (255, 64, 255)  # RGB; magenta is the hue that photographs hold least of
_BOX = (255, 224, 0)
_BEYOND = (112, 112, 112)  # beyond the border of the image
# Widths in px of the picture, from the region outwards.
_CROP_RINGS = ((1, _DARK), (3, _LINE), (2, _DARK))
# The locator is shown at little more than half its size, hence as wide.
_LOCATOR_RINGS = ((3, _LINE), (2, _DARK))


class Window(NamedTuple):
    """A part of an image in px, ends exclusive."""

    y0: int
    x0: int
    y1: int
    x1: int


def draw_crop(
    image: NDArray[np.uint8],
    region_map: RegionMap,
    index: int,
    *,
    zoom_context: float = 2.0,
    size_px: int = 768,
) -> bytes:
    """JPEG of a region and its surroundings, enlarged; the longer side is about `size_px`.

    The cut is a square of `zoom_context` times the region's longer side, at least 96 px of the
    image, moved inside the image where it fits. A region at the border of the image is closed by
    its outline on a grey strip beyond it.

    Args:
        image: (H, W, 3) uint8, RGB, the image of `region_map`.

    Raises: BackendError if image and map differ in size; NotFound for an unknown region.
    """
    inside = _region_mask(image, region_map, index)
    window = crop_window(inside, zoom_context)
    y0, x0, y1, x1 = window
    scale = size_px / max(y1 - y0, x1 - x0)
    picture, mask = _scaled(image[y0:y1, x0:x1], inside[y0:y1, x0:x1], scale)
    picture, mask = _with_margin(picture, mask, sum(width for width, _ in _CROP_RINGS))
    _draw_rings(picture, mask, _CROP_RINGS)
    return _jpeg(picture)


def draw_locator(
    image: NDArray[np.uint8],
    region_map: RegionMap,
    index: int,
    width_px: int = 640,
    *,
    zoom_context: float = 2.0,
) -> bytes:
    """JPEG of the whole image within `width_px` x `width_px`, the region outlined and boxed.

    The box is the part that `draw_crop` shows. Arguments and errors as there.
    """
    inside = _region_mask(image, region_map, index)
    window = crop_window(inside, zoom_context)
    scale = width_px / max(image.shape[:2])
    picture, mask = _scaled(image, inside, scale)
    _draw_rings(picture, mask, _LOCATOR_RINGS)
    _draw_box(picture, window, scale)
    return _jpeg(picture)


def crop_window(inside: NDArray[np.uint8], zoom_context: float = 2.0) -> Window:
    """The part of an image that `draw_crop` shows for a region mask (H, W), not empty."""
    height, width = inside.shape
    x, y, w, h = cv2.boundingRect(inside)
    side = max(round(zoom_context * max(w, h)), MIN_CONTEXT_PX)
    y0, y1 = _centred(y + h / 2, side, height)
    x0, x1 = _centred(x + w / 2, side, width)
    return Window(y0, x0, y1, x1)


def _centred(centre: float, side: int, length: int) -> tuple[int, int]:
    side = min(side, length)
    start = min(max(round(centre - side / 2), 0), length - side)
    return start, start + side


def _region_mask(image: NDArray[np.uint8], region_map: RegionMap, index: int) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.shape != (*region_map.ids.shape, 3):
        raise BackendError(
            f"Expected an image of shape {(*region_map.ids.shape, 3)} and uint8 for this region "
            f"map, got {image.shape} and {image.dtype}.",
            hint="Read the image with training.images.read_image and use its own region map.",
        )
    if not 0 <= index < region_map.count:
        raise NotFound(f"No region {index}; the map has the regions 0 to {region_map.count - 1}.")
    return np.equal(region_map.ids, index).view(np.uint8)


def _scaled(
    image: NDArray[np.uint8], inside: NDArray[np.uint8], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and mask enlarged or reduced; a region never vanishes."""
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale >= 1:
        picture = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        return picture, cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST_EXACT)
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(inside * np.uint8(255), size, interpolation=cv2.INTER_AREA)
    return picture, np.greater(share, 0).view(np.uint8)


def _with_margin(
    picture: NDArray[np.uint8], mask: NDArray[np.uint8], width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Add room for the outline on the sides where the region meets the border of the picture."""
    edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    top, bottom, left, right = (width if edge.any() else 0 for edge in edges)
    if not (top or bottom or left or right):
        return picture, mask
    kind = cv2.BORDER_CONSTANT
    return (
        cv2.copyMakeBorder(picture, top, bottom, left, right, kind, value=_BEYOND),
        cv2.copyMakeBorder(mask, top, bottom, left, right, kind, value=0),
    )


def _draw_rings(
    picture: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    rings: tuple[tuple[int, tuple[int, int, int]], ...],
) -> None:
    """Draw rings of (width, colour) around the mask, from its edge outwards, into `picture`."""
    reach = sum(width for width, _ in rings)
    x, y, w, h = cv2.boundingRect(mask)
    part = np.s_[max(0, y - reach) : y + h + reach, max(0, x - reach) : x + w + reach]
    picture, grown = picture[part], mask[part]
    for width, color in rings:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
        wider = cv2.dilate(grown, kernel)
        cv2.copyTo(np.full_like(picture, color), wider - grown, picture)
        grown = wider


def _draw_box(picture: NDArray[np.uint8], window: Window, scale: float) -> None:
    y0, x0, y1, x1 = (round(value * scale) for value in window)
    for color, grow, thickness in ((_DARK, 1, 4), (_BOX, 0, 2)):
        corners = (x0 - grow, y0 - grow), (x1 - 1 + grow, y1 - 1 + grow)
        cv2.rectangle(picture, *corners, color, thickness)


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    # 4:4:4: halved colour resolution would smear the outline into the region.
    options = [
        cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise BackendError("The picture of a region could not be written as JPEG.", status=500)
    return data.tobytes()
