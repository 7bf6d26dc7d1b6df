"""Acquisition functions: which regions to ask about first.

One contract for all: scores of shape (B, R), higher = ask sooner, NaN = cannot be asked (a region
without pixels). The statistics are not changed, and an equal seed gives equal scores.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from training.errors import DataError
from training.region_statistics import RegionStatistics, region_statistics
from training.selection import select

__all__ = [
    "ACQUISITIONS", "Acquisition", "RegionStatistics", "acquisition", "bvsb",
    "class_balanced_random", "classbal", "dominant_class", "entropy", "expected_clicks", "pixbal",
    "presence", "random", "region_statistics", "select",
]  # fmt: skip


class Acquisition(Protocol):
    """A score per region from the statistics of the pool, (B, R), float64."""

    def __call__(
        self,
        statistics: RegionStatistics,
        nu: float = 6.0,
        undefined: int | None = None,
        *,
        seed: int = 0,
    ) -> Tensor: ...


def pixbal(
    statistics: RegionStatistics,
    nu: float = 6.0,
    undefined: int | None = None,
    *,
    seed: int = 0,
    class_probability: Tensor | None = None,
    batch_means: bool = False,
) -> Tensor:
    """Pixel-wise class-balanced uncertainty: mean over x in s of u(x) w_{c*(x)}.

    w_c = (1 + nu P(c))^-2, with P(c) the mean probability of class c over the pool
    (arXiv 2309.09319, section 3.3; nu = 6 for Cityscapes, 12 for VOC).

    Args:
        undefined: index of the "undefined" output, if there is one: regions where it is the most
            frequent top class score 0.
        seed: not used; part of the contract.
        class_probability: P of a larger pool, (K,), to score part of it.
        batch_means: P as the mean of the calls' means, as in the authors' code.
    """
    probability = class_probability
    if probability is None:
        probability = statistics.class_probability(batch_means)
    weight = (1 + nu * probability.to(statistics.bvsb_sum)) ** -2
    score = (statistics.bvsb_sum @ weight) / statistics.region_pixels
    return _without_undefined(score, statistics, undefined)


def bvsb(
    statistics: RegionStatistics,
    nu: float = 6.0,
    undefined: int | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """Best versus second best: mean over x in s of u(x), brought to 0..1 over the pool.

    U - min over all regions, then divided by the maximum; all zero where all are equal.
    `nu` and `seed` are not used.
    """
    mean = statistics.bvsb_sum.sum(2) / statistics.region_pixels
    infinity = torch.full_like(mean, torch.inf)
    if mean.numel():
        mean = mean - torch.where(mean.isnan(), infinity, mean).amin()
        largest = torch.where(mean.isnan(), -infinity, mean).amax()
        mean = mean / torch.where(largest > 0, largest, torch.ones_like(largest))
    return _without_undefined(mean, statistics, undefined)


def classbal(
    statistics: RegionStatistics,
    nu: float = 6.0,
    undefined: int | None = None,
    *,
    seed: int = 0,
    count_empty: bool = True,
) -> Tensor:
    """Region-wise class balance: exp(-q_d) U(s), with U as in `bvsb` and d the region's main class.

    q_c is the share of regions with main class c. (Cai et al., CVPR 2021.) `nu` and `seed` are not
    used.

    Args:
        count_empty: regions without pixels count as class 0, as in the authors' code.
    """
    main, pixels = dominant_class(statistics), statistics.region_pixels
    counted = main if count_empty else main[pixels > 0]
    number = torch.zeros(statistics.pixels.shape[2], dtype=torch.float64, device=main.device)
    number.scatter_add_(0, counted.reshape(-1), number.new_ones(counted.numel()))
    share = number / max(1, counted.numel())
    return torch.exp(-share)[main] * bvsb(statistics, undefined=undefined)


def entropy(
    statistics: RegionStatistics,
    nu: float = 6.0,
    undefined: int | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """Mean over x in s of the entropy of p(x), in nats. `nu` and `seed` are not used.

    Raises: DataError if the statistics were made without entropies.
    """
    if statistics.entropy_sum is None:
        raise DataError(
            "These statistics carry no entropies.", hint="Use region_statistics(..., entropy=True)."
        )
    mean = statistics.entropy_sum / statistics.region_pixels
    return _without_undefined(mean, statistics, undefined)


def random(
    statistics: RegionStatistics,
    nu: float = 6.0,
    undefined: int | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """Uniform in [0, 1). `nu` and `undefined` are not used."""
    return _askable(_uniform(statistics, seed), statistics)


def class_balanced_random(
    statistics: RegionStatistics,
    nu: float = 6.0,
    undefined: int | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """At random, but each main class as often as any other while it lasts.

    Weighted sampling without replacement by exponential clocks: 1 / (1 + n_d E), E ~ Exp(1), where
    n_d regions have the main class d. Regions of the undefined class score 0. `nu` is not used.
    """
    main, seen = dominant_class(statistics), statistics.region_pixels > 0
    number = torch.zeros(statistics.pixels.shape[2], dtype=torch.float64, device=main.device)
    number.scatter_add_(0, main.reshape(-1), seen.reshape(-1).double())
    clock = -torch.log1p(-_uniform(statistics, seed)) * number[main]
    return _without_undefined(_askable(1 / (1 + clock), statistics), statistics, undefined)


ACQUISITIONS: dict[str, Acquisition] = {
    "pixbal": pixbal,
    "bvsb": bvsb,
    "classbal": classbal,
    "entropy": entropy,
    "random": random,
    "class_balanced_random": class_balanced_random,
}


def acquisition(name: str) -> Acquisition:
    """An entry of `ACQUISITIONS`; DataError lists the known names."""
    if name not in ACQUISITIONS:
        raise DataError(
            f"There is no acquisition named {name!r}.", hint=f"Known: {', '.join(ACQUISITIONS)}."
        )
    return ACQUISITIONS[name]


def presence(statistics: RegionStatistics) -> Tensor:
    """Share of the region's pixels with each top class, (B, R, K), float64; 0 without pixels."""
    return statistics.pixels.double() / statistics.region_pixels.clamp(min=1)[..., None]


def expected_clicks(statistics: RegionStatistics, min_share: float = 0.05) -> Tensor:
    """Classes that hold at least `min_share` of the region, (B, R), int64; at least 1."""
    if not 0 < min_share <= 1:
        raise DataError(f"min_share must lie in (0, 1], got {min_share}.", hint="0.05 is usual.")
    return (presence(statistics) >= min_share).sum(2).clamp(min=1)


def dominant_class(statistics: RegionStatistics) -> Tensor:
    """The most frequent top class of each region, the lowest of equals, (B, R); 0 if empty."""
    most = statistics.pixels.amax(2, keepdim=True)
    return (statistics.pixels == most).to(torch.uint8).argmax(2)


def _without_undefined(score: Tensor, statistics: RegionStatistics, index: int | None) -> Tensor:
    """Score 0 where the undefined class dominates; NaN stays NaN."""
    if index is None:
        return score
    classes = statistics.pixels.shape[2]
    if not 0 <= index < classes:
        raise DataError(
            f"undefined must be a class index in 0..{classes - 1}, got {index}.",
            hint="Pass None if the model has no undefined output.",
        )
    return torch.where((dominant_class(statistics) == index) & ~score.isnan(), 0.0, score)


def _askable(score: Tensor, statistics: RegionStatistics) -> Tensor:
    return torch.where(statistics.region_pixels > 0, score, torch.nan)


def _uniform(statistics: RegionStatistics, seed: int) -> Tensor:
    """Uniform in [0, 1), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    shape = statistics.pixels.shape[:2]
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
    return drawn.to(statistics.pixels.device)
