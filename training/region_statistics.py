"""One network pass -> sums per region and class from which every acquisition score follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from training.errors import DataError
from training.tensor_checks import (
    expect_floating,
    expect_integer,
    expect_shape,
    expect_temperature,
    finite_probe,
    raise_if_non_finite,
)

# u(x) = p2 / p1 + 1e-8 in the authors' code, where the addend tells seen regions from empty slots.
_RATIO_FLOOR = 1e-8
# Sums are made in fixed point: exact in any order, so a GPU repeats itself and shards add up.
# 2^-36 is 1.5e-11, and 63 bits hold a region of 25 million pixels at the entropy of 200 classes.
_FIXED_POINT = 2.0**36
# Floats of one tile (2 MB): smaller ones pay more for calls, larger ones leave the cache.
_TILE_FLOATS = 1 << 19


@dataclass(frozen=True, eq=False)
class RegionStatistics:
    """Sums over the pixels of B images with up to R regions each, for K classes.

    With p the tempered softmax, c*(x) its largest class and
    u(x) = p_(2)(x) / p_(1)(x) + 1e-8, best against second best:

    Attributes:
        bvsb_sum: sum of u(x) over x in the region with c*(x) = k, (B, R, K), float64.
        pixels: number of x in the region with c*(x) = k, (B, R, K), int64.
        probability_sum: sum of p(x)_k over all pixels, (K,), float64.
        n_pixels: number of all pixels, those outside any region included.
        entropy_sum: sum of the entropy of p(x) over the region in nats, (B, R), float64.
        batch_mean_sum: sum over calls of the mean of p(x)_k over that call's pixels, (K,), float64.
        n_batches: number of calls.
    """

    bvsb_sum: Tensor
    pixels: Tensor
    probability_sum: Tensor
    n_pixels: int
    entropy_sum: Tensor | None = None
    batch_mean_sum: Tensor | None = None
    n_batches: int = 0

    def merge(self, other: RegionStatistics) -> RegionStatistics:
        """The statistics of both sets of images, this one's first; exact in any grouping.

        Images with fewer regions get empty ones at the end. DataError if the classes differ.
        """
        if self.bvsb_sum.shape[2] != other.bvsb_sum.shape[2]:
            raise DataError(
                f"Cannot merge statistics of {self.bvsb_sum.shape[2]} and "
                f"{other.bvsb_sum.shape[2]} classes.",
                hint="Score the whole pool with one model.",
            )
        entropy, batch_mean = None, None
        if self.entropy_sum is not None and other.entropy_sum is not None:
            entropy = _join(self.entropy_sum[..., None], other.entropy_sum[..., None])[..., 0]
        if self.batch_mean_sum is not None and other.batch_mean_sum is not None:
            batch_mean = self.batch_mean_sum + other.batch_mean_sum
        return RegionStatistics(
            bvsb_sum=_join(self.bvsb_sum, other.bvsb_sum),
            pixels=_join(self.pixels, other.pixels),
            probability_sum=self.probability_sum + other.probability_sum,
            n_pixels=self.n_pixels + other.n_pixels,
            entropy_sum=entropy,
            batch_mean_sum=batch_mean,
            n_batches=self.n_batches + other.n_batches,
        )

    @staticmethod
    def merge_all(parts: list[RegionStatistics]) -> RegionStatistics:
        """`merge` over a list, in its order; DataError if it is empty."""
        if not parts:
            raise DataError("There are no statistics to merge.", hint="Score at least one image.")
        return reduce(RegionStatistics.merge, parts)

    def to(self, device: torch.device | str) -> RegionStatistics:
        """The same on another device."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]

    @property
    def region_pixels(self) -> Tensor:
        """Pixels of each region, (B, R), int64."""
        return self.pixels.sum(2)

    def class_probability(self, batch_means: bool = False) -> Tensor:
        """P(k), the mean of p(x)_k over the pool, (K,); zeros if no pixel was seen.

        The mean is over pixels. `batch_means` takes the mean of the calls' means instead, as the
        authors' code does, in which a short last batch weighs too much.
        """
        if not batch_means:
            return self.probability_sum / max(1, self.n_pixels)
        if self.batch_mean_sum is None:
            raise DataError(
                "These statistics carry no batch means.", hint="Make them by region_statistics."
            )
        return self.batch_mean_sum / max(1, self.n_batches)


def _join(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate (B, R, K) tensors, filled up with zeros to the larger R."""
    regions = max(first.shape[1], second.shape[1])
    filled = [F.pad(t, (0, 0, 0, regions - t.shape[1])) for t in (first, second)]
    return torch.cat([filled[0], filled[1].to(filled[0].device)])


def region_statistics(
    logits: Tensor,
    region_ids: Tensor,
    n_regions: int,
    temperature: float = 0.1,
    *,
    entropy: bool = True,
) -> RegionStatistics:
    """Sums per region and top class of the best-vs-second-best ratio (arXiv 2309.09319, eq. 2).

    Args:
        logits: cosines z, (B, K, H, W), any floating type; p(x) = softmax(z(x) / temperature).
        region_ids: 0..n_regions-1, or -1 for a pixel of no region, (B, H, W), integers.
        entropy: also sum the entropy (about a fifth of the time); the score "entropy" needs it.

    Returns:
        Zeros for an empty batch and for regions without pixels.

    Raises:
        DataError: shapes, types or ids do not fit.
        NonFiniteError: NaN or infinity in the logits.
    """
    _check(logits, region_ids, n_regions, temperature)
    logits, region_ids = logits.detach(), region_ids.long()
    batch, classes = logits.shape[:2]
    rows = batch * (n_regions + 1)  # per image one more, for pixels of no region
    fixed = torch.zeros(2, rows * classes, dtype=torch.int64, device=logits.device)
    entropy_fixed = torch.zeros(rows, dtype=torch.int64, device=logits.device)
    probability = torch.zeros(classes, dtype=torch.float64, device=logits.device)
    one = torch.ones(1, dtype=torch.int64, device=logits.device)
    for part, row in _tiles(logits, region_ids, n_regions):
        top, second, winner = _best_two(part)
        # One pass for (z - top) / temperature.
        shifted = torch.add(top * (-1 / temperature), part, alpha=1 / temperature)
        weights = torch.exp(shifted)
        share = weights.sum(0).reciprocal_()  # p of the best class
        probability += weights @ share
        ratio = (second - top).div_(temperature).exp_().add_(_RATIO_FLOOR)
        key = torch.add(winner, row, alpha=classes)
        fixed[0].scatter_add_(0, key, ratio.mul_(_FIXED_POINT).long())
        fixed[1].scatter_add_(0, key, one.expand_as(key))
        if entropy:
            nats = shifted.mul_(weights).sum(0).mul_(share).add_(share.log()).neg_()
            entropy_fixed.scatter_add_(0, row, nats.mul_(_FIXED_POINT).long())
    sums = fixed.view(2, batch, n_regions + 1, classes)[:, :, 1:]
    entropies = entropy_fixed.view(batch, n_regions + 1)[:, 1:].double() / _FIXED_POINT
    n_pixels = region_ids.numel()
    return RegionStatistics(
        bvsb_sum=sums[0].double() / _FIXED_POINT,
        pixels=sums[1].clone(),
        probability_sum=probability,
        n_pixels=n_pixels,
        entropy_sum=entropies if entropy else None,
        batch_mean_sum=probability / max(1, n_pixels),
        n_batches=int(n_pixels > 0),
    )


def _check(logits: Tensor, region_ids: Tensor, n_regions: int, temperature: float) -> None:
    expect_floating("logits", logits)
    expect_shape("logits", logits, (None, None, None, None))
    batch, classes, height, width = logits.shape
    expect_shape("region_ids", region_ids, (batch, height, width))
    expect_integer("region_ids", region_ids)
    expect_temperature(temperature)
    if classes < 1 or n_regions < 0:
        raise DataError(
            f"There must be classes and a number of regions, got {classes} and {n_regions}.",
            hint="Pass the network's outputs and RegionMap.count.",
        )
    if not region_ids.numel():
        return
    low, high = region_ids.aminmax()
    numbers = torch.stack([finite_probe(logits).double(), low.double(), high.double()]).tolist()
    raise_if_non_finite("logits", logits, numbers[0])
    if numbers[1] < -1 or numbers[2] >= n_regions:
        raise DataError(
            f"region_ids must lie in -1..{n_regions - 1}, got {numbers[1]:.0f}..{numbers[2]:.0f}.",
            hint="Pass the largest RegionMap.count of the batch as n_regions.",
        )


def _one_tile(device: torch.device) -> bool:
    """A GPU has no cache to stay in, and each call costs it a launch."""
    return device.type != "cpu"


def _tiles(logits: Tensor, region_ids: Tensor, n_regions: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (K, T) in float32 or wider, and the row of each pixel's region, (T,)."""
    batch, classes = logits.shape[:2]
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    first = 1 + (n_regions + 1) * torch.arange(batch, device=logits.device)
    ids = region_ids.flatten(1)
    if _one_tile(logits.device):
        yield logits.movedim(1, 0).reshape(classes, -1).to(wide), (ids + first[:, None]).view(-1)
        return
    step = max(1024, _TILE_FLOATS // classes)
    planes = logits.reshape(batch, classes, ids.shape[1])
    for image in range(batch):
        for low in range(0, ids.shape[1], step):
            part = planes[image, :, low : low + step].to(wide)
            yield part, ids[image, low : low + step] + first[image]


def _best_two(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest and second largest value of each column of (K, T), and the row of the largest.

    Among equal values torch chooses the row. The second of one row is as good as minus infinity.
    """
    if _one_tile(part.device):
        top, winner = part.max(0)
        return top, part.scatter(0, winner[None], -torch.inf).amax(0), winner
    # Comparing into floats, and a product, is ten times faster on a CPU than topk, argmax or masks.
    top = part.amax(0)
    equal = torch.empty(part.shape, dtype=part.dtype)
    torch.eq(part, top, out=equal)
    rows = torch.arange(part.shape[0], dtype=part.dtype)
    total, number = torch.stack([rows, torch.ones_like(rows)]) @ equal
    winner = total.long()
    several = float(number.amax()) > 1
    if several:  # the total is wrong where several rows are equal
        tied = (number > 1).nonzero().squeeze(1)
        # topk is what the authors' scores come from, and its choice among equals is its own.
        winner[tied] = part.index_select(1, tied).T.topk(2).indices[:, 0]
    second = torch.add(part, equal, alpha=-torch.finfo(part.dtype).max, out=equal).amax(0)
    return top, torch.where(number > 1, top, second) if several else second, winner
