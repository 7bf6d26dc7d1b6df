"""The most certain pixel of each class of a labelled region, and how similar other pixels are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.region_pixels import RegionPixels, ragged
from training.tensor_checks import raise_if_non_finite

# Pixels whose labels are decided together: bounds the memory.
_GROUP_PIXELS = 1 << 17
# Pixels of one product on a CPU: their features, gathered, are still in the cache.
_BLOCK_PIXELS = 1 << 11


@dataclass(frozen=True, eq=False)
class Prototypes:
    """For n labelled regions, each with pixels and up to M classes.

    Attributes:
        regions: their ids, ascending, (n,).
        classes: candidates, ascending, then zeros, (n, M).
        valid: whether there is such a candidate, (n, M).
        pixel: position of the prototype in the flattened image, 0 where not valid, (n, M).
        vector: its feature, (n * M, F), float32 or wider.
    """

    regions: Tensor
    classes: Tensor
    valid: Tensor
    pixel: Tensor
    vector: Tensor


def find_prototypes(
    features: Tensor,
    logits: Tensor,
    pixels: RegionPixels,
    candidates: Tensor,
    regions: Tensor,
    temperature: float,
    normalise: bool,
) -> Prototypes:
    """x_sc = argmax_{x in s} q(x)_c, first in raster order, with q = softmax(z / temperature)."""
    chosen = candidates.index_select(0, regions)
    size = chosen.sum(1)
    slots = max(1, int(size.max())) if size.numel() else 1
    place = torch.where(chosen, chosen.cumsum(1) - 1, slots)
    names = torch.arange(chosen.shape[1], device=chosen.device).expand_as(place)
    classes = torch.zeros(len(regions), slots + 1, dtype=torch.int64, device=chosen.device)
    classes = classes.scatter_(1, place, names)[:, :slots]
    owner, position = pixels.of(regions)
    scores = widen(columns(logits, position)) / temperature
    probability = torch.softmax(scores, 0)
    number = position.shape[0]
    far = torch.full_like(position, torch.iinfo(torch.int64).max)
    found = torch.zeros_like(classes)
    for slot in range(slots):
        name = classes[:, slot].index_select(0, owner)
        value = probability.gather(0, name[None])[0] if number else scores.new_zeros(0)
        best = value.new_full((len(regions),), -1.0).scatter_reduce_(0, owner, value, "amax")
        first = torch.where(value == best.index_select(0, owner), position, far)
        found[:, slot].scatter_reduce_(0, owner, first, "amin", include_self=False)
    valid = torch.arange(slots, device=size.device) < size[:, None]
    found = torch.where(valid, found, 0)
    vector = widen(columns(features, found.reshape(-1))).T
    return Prototypes(
        regions, classes, valid, found, F.normalize(vector, dim=1) if normalise else vector
    )


@dataclass(frozen=True, eq=False)
class Similarities:
    """Prototypes of some regions against pixels of some regions, pair by pair.

    Attributes:
        position: pixels of the group, positions in the flattened image, (g,).
        column: for each entry its pixel, an index of `position`, (E,).
        pair: for each entry the pair it belongs to, (E,).
        owner: for each entry which of the n labelled regions it is compared with, (E,).
        products: inner products of the prototypes and pixels that have a pair, flat.
        base: for each pair and slot, where in `products` column 0 would be, (pairs, M).
    """

    position: Tensor
    column: Tensor
    pair: Tensor
    owner: Tensor
    products: Tensor
    base: Tensor

    def of_slot(self, slot: int) -> Tensor:
        """Similarity of each entry to its region's prototype in that slot, (E,)."""
        place = self.base[:, slot].index_select(0, self.pair).add_(self.column)
        return self.products.index_select(0, place)


def similarities(
    features: Tensor,
    pixels: RegionPixels,
    prototypes: Prototypes,
    owners: Tensor,
    others: Tensor,
    normalise: bool,
) -> Iterator[Similarities]:
    """Compare prototypes of region regions[owners[i]] with all pixels of region others[i].

    Pixels come in groups of near regions; the pairs of one pixel are always in one group.
    """
    if not owners.numel():
        return
    regions, index = torch.unique(others, return_inverse=True)
    regions, rank = _along_the_image(pixels, regions)
    index = rank.index_select(0, index)
    order = torch.argsort(index, stable=True)
    owners, index = owners.index_select(0, order), index.index_select(0, order)
    length = pixels.length.index_select(0, regions)
    gather = _Gather(features, normalise)
    for first, last in _runs((length.cumsum(0) - length) // _GROUP_PIXELS):
        low, high = torch.searchsorted(index, index.new_tensor([first, last])).tolist()
        yield _compare(
            gather, pixels, prototypes, regions[first:last], owners[low:high],
            index[low:high] - first,
        )  # fmt: skip


def _runs(ascending: Tensor) -> list[tuple[int, int]]:
    """First and last + 1 place of each run of equal values."""
    _, number = torch.unique_consecutive(ascending, return_counts=True)
    ends = number.cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _along_the_image(pixels: RegionPixels, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Regions in the order of their first pixels, so that groups are near; and each one's rank."""
    start = pixels.start.index_select(0, regions).clamp(max=max(0, pixels.order.numel() - 1))
    order = torch.argsort(pixels.order.index_select(0, start), stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel(), device=order.device)
    return regions.index_select(0, order), rank


def _compare(
    gather: _Gather,
    pixels: RegionPixels,
    prototypes: Prototypes,
    regions: Tensor,
    owners: Tensor,
    index: Tensor,
) -> Similarities:
    """One group: pairs (owners[i], regions[index[i]]), by ascending index."""
    _, position = pixels.of(regions)
    length = pixels.length.index_select(0, regions)
    start = length.cumsum(0) - length
    pair, place = ragged(length.index_select(0, index))
    column = place.add_(start.index_select(0, index).index_select(0, pair))
    # On a CPU a product spans few regions, which have few prototypes near them.
    block = start // (_BLOCK_PIXELS if position.device.type == "cpu" else _GROUP_PIXELS)
    parts, bases, done = [], [], 0
    bounds = [*start.tolist(), position.numel()]
    for first, last in _runs(block):
        low, high = torch.searchsorted(index, index.new_tensor([first, last])).tolist()
        vector, row = _distinct(prototypes, owners[low:high])
        found = gather(position[bounds[first] : bounds[last]])
        parts.append((vector @ found).reshape(-1))
        bases.append(row.mul_(found.shape[1]).add_(done - bounds[first]))
        done += parts[-1].numel()
    products = torch.cat(parts)
    raise_if_non_finite("features", products, float(products.sum()))
    return Similarities(
        position, column, pair, owners.index_select(0, pair), products, torch.cat(bases)
    )


def _distinct(prototypes: Prototypes, owners: Tensor) -> tuple[Tensor, Tensor]:
    """The different prototypes of some regions, (P, F), and each slot's row of them, (n, M).

    Classes that share a pixel share a row: equal similarities must be equal to the last bit.
    """
    slots = prototypes.classes.shape[1]
    distinct, row = torch.unique(prototypes.pixel.index_select(0, owners), return_inverse=True)
    source = owners[:, None] * slots + torch.arange(slots, device=owners.device)
    chosen = torch.zeros_like(distinct).scatter_(0, row.reshape(-1), source.reshape(-1))
    return prototypes.vector.index_select(0, chosen), row


class _Gather:
    """Collects features of pixels, (F, n), into memory that it uses again."""

    def __init__(self, features: Tensor, normalise: bool) -> None:
        self.features = features
        self.normalise = normalise
        self.scratch = features.new_empty(0)

    def __call__(self, position: Tensor) -> Tensor:
        """Valid until the next call."""
        channels, number = self.features.shape[0], position.numel()
        if self.features.is_contiguous():
            # Fresh memory of this size costs several times the copy, in page faults.
            if self.scratch.numel() < channels * number:
                self.scratch = self.features.new_empty(channels * number)
            found = self.scratch[: channels * number].view(channels, number)
            torch.index_select(self.features.view(channels, -1), 1, position, out=found)
        else:
            found = columns(self.features, position)
        found = widen(found)
        return F.normalize(found, dim=0) if self.normalise else found


def columns(image: Tensor, position: Tensor) -> Tensor:
    """Some pixels of (C, H, W), (C, n), without copying an image that is stored pixel by pixel."""
    if image.stride(0) == 1 and image.shape[0] > 1:
        by_pixel = image.permute(1, 2, 0)
        if by_pixel.is_contiguous():
            return by_pixel.reshape(-1, image.shape[0]).index_select(0, position).T
    flat = image.flatten(1)
    return flat.index_select(1, position) if position.numel() else flat[:, :0]


def widen(values: Tensor) -> Tensor:
    """Half precision to float32."""
    return values if values.dtype == torch.float64 else values.float()
