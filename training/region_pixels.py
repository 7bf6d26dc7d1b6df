"""Pixels of a region map in the order of their regions, and which regions touch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RegionPixels:
    """The pixels of each region, in raster order, as slices of one list.

    Attributes:
        order: positions in the flattened image, region after region, int64.
        start, length: slice of each region in `order`, (R,), int64.
    """

    order: Tensor
    start: Tensor
    length: Tensor

    def of(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """For each pixel of some regions (n,): which of the n it is in, and its position."""
        owner, place = ragged(self.length.index_select(0, regions))
        place += self.start.index_select(0, regions).index_select(0, owner)
        return owner, self.order.index_select(0, place)


def pixels_by_region(region_ids: Tensor, regions: int) -> RegionPixels:
    """Sort the pixels of a map (H, W) with ids -1..R-1; those with -1 are in no slice."""
    ids, order = torch.sort(region_ids.reshape(-1), stable=True)
    bounds = torch.searchsorted(ids, torch.arange(regions + 1, device=ids.device))
    return RegionPixels(order, bounds[:-1], bounds[1:] - bounds[:-1])


def ragged(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of different length laid end to end: row number and place in the row, (sum,) each."""
    total = int(lengths.sum())
    row = torch.repeat_interleave(lengths, output_size=total)
    place = torch.arange(total, device=lengths.device)
    return row, place - (lengths.cumsum(0) - lengths).index_select(0, row)


def touching_pairs(region_ids: Tensor, inside: Tensor) -> Tensor:
    """Pairs (s, u) of a region with inside[s] and an 8-connected neighbour without, (2, P), sorted.

    Args:
        region_ids: -1..R-1, (H, W); pixels with -1 belong to no region.
        inside: (R,), bool.
    """
    regions = inside.shape[0]
    rows = region_ids.reshape(-1) + 1
    outer = torch.cat([inside.new_zeros(1), ~inside]).index_select(0, rows).view_as(region_ids)
    inner = torch.cat([inside.new_zeros(1), inside]).index_select(0, rows).view_as(region_ids)
    found = []
    whole, ahead, behind = slice(None), slice(1, None), slice(None, -1)
    for first, second in (
        ((whole, ahead), (whole, behind)),
        ((ahead, whole), (behind, whole)),
        ((ahead, ahead), (behind, behind)),
        ((ahead, behind), (behind, ahead)),
    ):
        for a, b in ((first, second), (second, first)):
            where = (inner[a] & outer[b]).nonzero(as_tuple=True)
            found.append(region_ids[a][where] * regions + region_ids[b][where])
    key = torch.unique(torch.cat(found))
    return torch.stack([key // max(1, regions), key % max(1, regions)])
