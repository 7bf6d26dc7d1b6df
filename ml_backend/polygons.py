"""Class masks as polygons that Label Studio can show and people can edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from label_config.mask_control import MaskControl

TOLERANCE_PX = 1.0
# 5 x 5 px: less than a person would outline, and most of the noise of a segmentation.
MIN_AREA_PX = 25.0
# A simplified ring may not gain or lose more: what is 1 px wide would vanish.
_MAX_AREA_CHANGE = 0.05

Ring = NDArray[np.float64]


def mask_polygons(
    mask: NDArray[np.bool_], tolerance_px: float = TOLERANCE_PX, min_area_px: float = MIN_AREA_PX
) -> list[Ring]:
    """Outlines of the 8-connected components of a mask, in percent of its width and height.

    A Label Studio polygon has no holes. A hole becomes part of its component's one ring: a cut of
    no width leads to it and back, and the ring runs around it the other way, so that the hole
    stays empty by either rule of filling (even-odd or nonzero).

    Args:
        mask: (H, W).
        tolerance_px: an outline keeps within this of the edges of the pixels (Douglas-Peucker).
        min_area_px: smaller components are left out, smaller holes filled.

    Returns:
        Per component (N, 2) float64 of x, y in 0..100, not closed; [] where nothing is set.
    """
    height, width = mask.shape
    scale = np.array([100.0 / width, 100.0 / height])
    return [ring * scale for ring in _components(mask, tolerance_px, min_area_px)]


def polygon_result(
    masks: Mapping[str, bytes], width: int, height: int, control: MaskControl
) -> list[dict[str, Any]]:
    """Label Studio's `result` of one polygon per class and component, for a polygon control.

    A mask is one byte per pixel, set where not 0; classes that the control has no label for are
    left out.
    """
    found = []
    for number, (name, stored) in enumerate(control.stored.items()):
        mask = np.frombuffer(masks.get(name, bytes(width * height)), np.uint8)
        rings = mask_polygons(mask.reshape(height, width) != 0)
        found += [
            {
                "id": f"mask-{number}-{part}",
                "from_name": control.from_name,
                "to_name": control.to_name,
                "type": "polygonlabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "points": ring.round(4).tolist(),
                    "closed": True,
                    "polygonlabels": [stored],
                },
            }
            for part, ring in enumerate(rings)
        ]
    return found


def _components(mask: NDArray[np.bool_], tolerance_px: float, min_area_px: float) -> Iterator[Ring]:
    """Rings in px from the upper left corner of the image, largest component first."""
    # Twice the size: then each side of a pixel has points of its own to round to its corners,
    # where the centres of the pixels would make every shape 1 px too narrow.
    doubled = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [(contour[:, 0, :] + 1) // 2 for contour in contours]
    areas = [abs(_area(ring)) for ring in rings]
    holes: dict[int, list[Ring]] = {}
    parents = [] if hierarchy is None else hierarchy[0, :, 3]
    for index, parent in enumerate(parents):
        if parent >= 0 and areas[index] >= min_area_px:
            holes.setdefault(int(parent), []).append(_simplified(rings[index], tolerance_px))
    outer = [i for i, parent in enumerate(parents) if parent < 0 and areas[i] >= min_area_px]
    for index in sorted(outer, key=lambda i: -areas[i]):
        ring = _simplified(rings[index], tolerance_px)
        for hole in holes.get(index, ()):
            ring = _joined(ring, hole)
        yield ring


def _simplified(ring: NDArray[np.int32], tolerance_px: float) -> Ring:
    exact = cv2.approxPolyDP(ring.astype(np.int32), 0.0, True)[:, 0, :]
    simple = cv2.approxPolyDP(exact, tolerance_px, True)[:, 0, :]
    area = _area(exact)
    changed = len(simple) < 3 or abs(_area(simple) - area) > _MAX_AREA_CHANGE * abs(area)
    return np.asarray(exact if changed else simple, np.float64)


def _joined(ring: Ring, hole: Ring) -> Ring:
    """One ring around both, cut open where they are near each other."""
    here = _nearest(ring, hole[0])
    there = _nearest(hole, ring[here])
    around = np.roll(hole, -there, axis=0)
    return np.concatenate([ring[: here + 1], around, around[:1], ring[here:]])


def _nearest(ring: Ring, point: NDArray[np.float64]) -> int:
    return int(np.square(ring - point).sum(axis=1).argmin())


def _area(ring: NDArray[Any]) -> float:
    """Shoelace; the sign says which way the ring runs."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2.0
