"""Dense labels from multi-class region labels (arXiv 2309.09319, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from training.errors import DataError
from training.prototypes import Prototypes, Similarities, find_prototypes, similarities
from training.region_pixels import RegionPixels, pixels_by_region, touching_pairs
from training.tensor_checks import (
    expect_finite,
    expect_floating,
    expect_integer,
    expect_shape,
    expect_temperature,
)

UNLABELLED = 255
T = TypeVar("T")


def localise(
    features: Tensor,
    logits: Tensor,
    region_ids: Tensor,
    candidates: Tensor,
    selected: Tensor,
    *,
    temperature: float = 1.0,
    normalise: bool = False,
) -> Tensor:
    """Give each pixel of a labelled region s one of its classes Y_s, by prototypes.

        v_sc = f(argmax_{x in s} q(x)_c),   label(x) = argmax_{c in Y_s} <v_sc, f(x)>

    with q = softmax(z / temperature). Of equals the first pixel in raster order and the lowest
    class win.

    Args:
        features: f, (F, H, W), any floating type; computed in float32 or wider.
        logits: z, (K, H, W).
        region_ids: 0..R-1, -1 = no region, (H, W), integers.
        candidates: True where the class was chosen, (R, K), bool.
        selected: labelled regions, (R,), bool; those without any candidate count as not selected.
        temperature: 1 as in the authors' code, although training divides by 0.1.
        normalise: bring features to unit length first.

    Returns:
        Labels (H, W), uint8, 255 outside labelled regions.

    Raises:
        DataError: shapes, types or ids do not fit.
        NonFiniteError: NaN or infinity in the logits, or in the features that are used.
    """
    work = _prepare(features, logits, region_ids, candidates, selected, temperature, normalise)
    return _inside(work).label.view(region_ids.shape)


def expand(
    features: Tensor,
    logits: Tensor,
    region_ids: Tensor,
    candidates: Tensor,
    selected: Tensor,
    *,
    temperature: float = 1.0,
    normalise: bool = False,
    threshold: str = "median",
    passing_only: bool = False,
    conflicts: str = "later",
    undefined: int | None = None,
) -> Tensor:
    """`localise`, then carry labels into the ring of regions that touch a labelled one.

        theta_sc = lower median of <v_sc, f(x)> over the x in s labelled c (1 if there is none)
        x in a neighbour u of s:  label(x) = argmax_{c in Y_s} <v_sc, f(x)>
                                  if <v_sc, f(x)> > theta_sc for any c in Y_s

    Neighbours are 8-connected, whole regions, and never labelled ones. The defaults are those of
    the authors' code; arguments as in `localise`, and:

    Args:
        threshold: theta by "median" or "min".
        passing_only: choose among the classes that passed their own threshold only.
        conflicts: of several labelled neighbours, "later" = the one with the larger id wins,
            "similarity" = the larger similarity, "margin" = the larger similarity minus theta.
        undefined: class whose prototypes do not expand.

    Returns:
        Labels (H, W), uint8, 255 where none reaches.
    """
    work = _prepare(features, logits, region_ids, candidates, selected, temperature, normalise)
    rule = _lookup("conflicts", conflicts, CONFLICTS)
    inner = _inside(work)
    theta = _lookup("threshold", threshold, THRESHOLDS)(inner, work.prototypes.valid.shape)
    valid = work.prototypes.valid
    if undefined is not None:
        valid = valid & (work.prototypes.classes != undefined)
    inside = torch.zeros_like(selected, dtype=torch.bool)
    inside[work.prototypes.regions] = True
    pairs = touching_pairs(region_ids.long(), inside)
    owners = torch.searchsorted(work.prototypes.regions, pairs[0].contiguous())
    label = inner.label
    for found in work.compare(owners, pairs[1]):
        choice = _choose(found, work.prototypes, valid, theta, passing_only)
        winner = _settle(found, choice, rule(found, choice))
        label[found.position[found.column[winner]]] = choice.label[winner].to(torch.uint8)
    return label.view(region_ids.shape)


def naive(logits: Tensor, region_ids: Tensor, candidates: Tensor, selected: Tensor) -> Tensor:
    """Without prototypes: label(x) = argmax_{c in Y_s} z(x)_c in labelled regions, (H, W)."""
    _check(logits, logits, region_ids, candidates, selected)
    kept = selected.bool() & candidates.bool().any(1)
    out = torch.full_like(region_ids, UNLABELLED, dtype=torch.uint8).reshape(-1)
    ids = region_ids.reshape(-1)
    position = ((ids >= 0) & kept[ids.clamp(min=0)]).nonzero().squeeze(1) if len(kept) else ids[:0]
    allowed = candidates[ids[position]].bool().T
    scores = logits.reshape(logits.shape[0], -1)[:, position].masked_fill(~allowed, -torch.inf)
    if position.numel():
        out[position] = scores.argmax(0).to(torch.uint8)
    return out.view(region_ids.shape)


@dataclass(frozen=True, eq=False)
class _Work:
    """What both steps share for one image."""

    features: Tensor
    pixels: RegionPixels
    prototypes: Prototypes
    normalise: bool

    def compare(self, owners: Tensor, others: Tensor) -> Iterator[Similarities]:
        return similarities(
            self.features, self.pixels, self.prototypes, owners, others, self.normalise
        )


@dataclass(frozen=True, eq=False)
class _Inside:
    """Labels of the image, and for each pixel of labelled regions whose, which and how similar."""

    label: Tensor
    owner: Tensor
    slot: Tensor
    similarity: Tensor


@dataclass(frozen=True, eq=False)
class _Choice:
    label: Tensor
    slot: Tensor
    similarity: Tensor
    margin: Tensor
    passed: Tensor


def _prepare(
    features: Tensor, logits: Tensor, region_ids: Tensor, candidates: Tensor, selected: Tensor,
    temperature: float, normalise: bool,
) -> _Work:  # fmt: skip
    _check(features, logits, region_ids, candidates, selected)
    expect_temperature(temperature)
    features, logits = features.detach(), logits.detach()
    pixels = pixels_by_region(region_ids.long(), candidates.shape[0])
    chosen = candidates.bool()
    present = pixels.length > 0
    regions = (selected.bool() & chosen.any(1) & present).nonzero().squeeze(1)
    prototypes = find_prototypes(features, logits, pixels, chosen, regions, temperature, normalise)
    return _Work(features, pixels, prototypes, normalise)


def _inside(work: _Work) -> _Inside:
    """Label the pixels of each labelled region by its own prototypes."""
    prototypes = work.prototypes
    own = torch.arange(len(prototypes.regions), device=prototypes.regions.device)
    label = torch.full_like(work.pixels.order, UNLABELLED, dtype=torch.uint8)
    below = prototypes.vector.new_full(prototypes.valid.shape, -torch.inf)
    parts = []
    for found in work.compare(own, prototypes.regions):
        choice = _choose(found, prototypes, prototypes.valid, below, passing_only=False)
        label[found.position[found.column]] = choice.label.to(torch.uint8)
        parts.append((found.owner, choice.slot, choice.similarity))
    if not parts:
        return _Inside(label, own[:0], own[:0], prototypes.vector.new_zeros(0))
    owner, slot, similarity = (torch.cat(part) for part in zip(*parts, strict=True))
    return _Inside(label, owner, slot, similarity)


def _choose(
    found: Similarities, prototypes: Prototypes, valid: Tensor, theta: Tensor, passing_only: bool
) -> _Choice:
    """For each entry the most similar class, the lowest of equals, and whether any passed."""
    infinity = found.products.new_tensor(-torch.inf)
    best = infinity.expand(found.owner.shape)
    slot = torch.zeros_like(found.owner)
    passed = torch.zeros_like(found.owner, dtype=torch.bool)
    for index in range(prototypes.classes.shape[1]):
        allowed = valid[:, index].index_select(0, found.owner)
        value = torch.where(allowed, found.of_slot(index), infinity)
        above = value > theta[:, index].index_select(0, found.owner)
        passed |= above
        if passing_only:
            value = torch.where(above, value, infinity)
        slot = torch.where(value > best, index, slot)
        best = torch.maximum(best, value)
    at = found.owner * prototypes.classes.shape[1] + slot
    label = prototypes.classes.reshape(-1).index_select(0, at)
    margin = best - theta.reshape(-1).index_select(0, at)
    return _Choice(label, slot, best, margin, passed)


def _settle(found: Similarities, choice: _Choice, priority: Tensor) -> Tensor:
    """Entries that label their pixel: of those that passed, by priority, then the later id."""
    entry = choice.passed.nonzero().squeeze(1)
    for key in (priority, found.owner):
        column, value = found.column.index_select(0, entry), key.index_select(0, entry)
        best = value.new_zeros(found.position.shape)
        best.scatter_reduce_(0, column, value, "amax", include_self=False)
        entry = entry[value == best.index_select(0, column)]
    return entry


CONFLICTS: dict[str, Callable[[Similarities, _Choice], Tensor]] = {
    "later": lambda found, choice: found.owner,
    "similarity": lambda found, choice: choice.similarity,
    "margin": lambda found, choice: choice.margin,
}


def _median(inner: _Inside, shape: torch.Size) -> Tensor:
    """Lower median of the similarities of each region and class; 1 where there are none."""
    group = inner.owner * shape[1] + inner.slot
    by_value = torch.argsort(inner.similarity, stable=True)
    group_order = torch.argsort(group.index_select(0, by_value), stable=True)
    order = by_value.index_select(0, group_order)
    number = torch.zeros(shape.numel(), dtype=torch.int64, device=group.device)
    number.scatter_add_(0, group, torch.ones_like(group))
    middle = number.cumsum(0) - number + (number - 1).clamp(min=0) // 2
    theta = inner.similarity.new_ones(shape.numel())
    if order.numel():
        value = inner.similarity.index_select(0, order)
        theta = torch.where(number > 0, value[middle.clamp(max=len(value) - 1)], theta)
    return theta.view(shape)


def _minimum(inner: _Inside, shape: torch.Size) -> Tensor:
    """Smallest similarity of each region and class; 1 where there are none."""
    group = inner.owner * shape[1] + inner.slot
    theta = inner.similarity.new_ones(shape.numel())
    return theta.scatter_reduce_(0, group, inner.similarity, "amin", include_self=False).view(shape)


THRESHOLDS: dict[str, Callable[[_Inside, torch.Size], Tensor]] = {
    "median": _median,
    "min": _minimum,
}


def _lookup(name: str, value: str, known: dict[str, T]) -> T:
    if value not in known:
        raise DataError(f"There is no {name} {value!r}.", hint=f"Known: {', '.join(known)}.")
    return known[value]


def _check(
    features: Tensor, logits: Tensor, region_ids: Tensor, candidates: Tensor, selected: Tensor
) -> None:
    expect_floating("features", features)
    expect_floating("logits", logits)
    expect_shape("logits", logits, (None, None, None))
    classes, height, width = logits.shape
    expect_shape("features", features, (None, height, width))
    expect_shape("region_ids", region_ids, (height, width))
    expect_integer("region_ids", region_ids)
    expect_shape("candidates", candidates, (None, classes))
    expect_shape("selected", selected, (candidates.shape[0],))
    expect_finite("logits", logits)
    if not 1 <= classes < UNLABELLED:
        raise DataError(f"There must be 1 to 254 classes, got {classes}.", hint="255 = unlabelled.")
    if region_ids.numel():
        low, high = (int(bound) for bound in torch.stack(region_ids.aminmax()).tolist())
        if low < -1 or high >= candidates.shape[0]:
            raise DataError(
                f"region_ids must lie in -1..{candidates.shape[0] - 1}, the rows of candidates; "
                f"got {low}..{high}.",
                hint="Give candidates and selected one row per region of the map.",
            )
