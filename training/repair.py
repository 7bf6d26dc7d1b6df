"""Make any labelling of pixels into regions of one 4-connected piece each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label


def keep_largest_pieces(labels: NDArray[Any], image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Keep each label's largest 4-connected piece; the other pixels go to neighbours by colour.

    labels (H, W) whole numbers >= 0; image (H, W, 3). Returns ids (H, W), one per label that
    occurs, 0..count-1 in the order of the labels. Equal pieces: the first in raster order stays.
    """
    pieces, owner, areas = _pieces(labels)
    order = np.lexsort((np.arange(len(areas)), -areas, owner))
    first = np.flatnonzero(np.diff(owner[order], prepend=-1))
    ids = np.full(len(areas), -1, np.int32)
    ids[order[first]] = np.arange(len(first))
    return flood(ids[pieces], image)


def merge_small_pieces(
    labels: NDArray[Any], image: NDArray[np.uint8], min_px: int
) -> NDArray[np.int32]:
    """Make every 4-connected piece a region; pieces under `min_px` go to neighbours by colour.

    If all pieces are smaller the largest stays, so the result is never empty.
    """
    pieces, _, areas = _pieces(labels)
    kept = areas >= min_px
    kept[areas.argmax()] = True
    ids = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    return flood(ids[pieces], image)


def flood(ids: NDArray[np.int32], image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Give pixels with id -1 to neighbours: a marker watershed in rounds, one ring per round.

    A pixel joins the 4-neighbour that already has a region and is nearest in colour (sum of
    absolute differences; ties: up, left, right, down). So a region only ever grows by pixels that
    touch it, and stays one piece. Needs at least one id >= 0.
    """
    todo = np.flatnonzero(np.pad(ids < 0, 1))
    if todo.size == 0:
        return ids
    padded = np.pad(ids, 1, constant_values=-1).ravel()
    colours = np.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, 3)
    row = ids.shape[1] + 2
    near = todo[:, None] + np.array([-row, -1, 1, row])
    difference = colours[near].astype(np.int16) - colours[todo][:, None].astype(np.int16)
    distance = np.abs(difference).sum(axis=2, dtype=np.int32)
    while todo.size:
        owners = padded[near]
        best = np.where(owners >= 0, distance, np.iinfo(np.int32).max).argmin(axis=1)
        chosen = owners[np.arange(todo.size), best]
        done = chosen >= 0
        padded[todo[done]] = chosen[done]
        todo, near, distance = todo[~done], near[~done], distance[~done]
    filled: NDArray[np.int32] = padded.reshape(-1, row)[1:-1, 1:-1]
    return np.ascontiguousarray(filled)


def _pieces(
    labels: NDArray[Any],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """4-connected pieces numbered in raster order (H, W), and the label and area of each."""
    pieces = label(labels, background=-1, connectivity=1) - 1
    areas = np.bincount(pieces.ravel())
    owner = np.empty(len(areas), np.int64)
    owner[pieces.ravel()] = labels.ravel()
    return pieces, owner, areas
