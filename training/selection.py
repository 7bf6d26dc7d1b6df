"""From scores to the next regions to ask about, under a click budget. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.errors import DataError

Order = NDArray[np.int64]


def select(
    scores: ArrayLike,
    cost: ArrayLike,
    budget: float,
    *,
    image_keys: Sequence[str] | None = None,
    seed: int | None = None,
    random_share: float = 0.0,
    min_distance: float = 0.0,
    centroids: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    noise: float = 0.0,
    noise_decay: float = 0.5,
    round_number: int = 0,
) -> Order:
    """Take regions in descending score, up to and including the one that exceeds the budget.

    The options after `image_keys` are off by default; then this is the rule of the authors' code:
    of equal scores the later image, then the later region goes first, and a total cost equal to the
    budget goes on.

    Args:
        scores: any shape, images along the first axis of a 2-D array; NaN = cannot be asked.
        cost: clicks for each region, not negative; the shape of `scores`, or one number.
        budget: clicks, not negative.
        image_keys: names that order the images for ties, one per row of 2-D scores.
        seed: break ties at random; also the seed of `random_share` and `noise` (0 if None).
        random_share: share of the budget for regions drawn uniformly, taken last.
        min_distance: px; skip a region nearer than this to a chosen one of its image.
        centroids: y, x of each region in px, the shape of `scores` and 2; for `min_distance`.
        strata: class of each region, integers of the shape of `scores`: the best of each class go
            first, then the second of each, and so on; a class that runs out leaves its turn.
        noise: Gumbel noise added to the scores, in standard deviations of the scores, times
            noise_decay ** round_number.

    Returns:
        Flat positions (C order) in the order of asking, int64; empty if nothing can be asked.

    Raises:
        DataError: shapes or values do not fit.
    """
    table = _numbers("scores", scores)
    price = np.broadcast_to(_like("cost", cost, table.shape), table.shape).reshape(-1)
    flat: NDArray[np.float64] = table.reshape(-1)
    askable = ~np.isnan(flat)
    _check(price[askable], budget, random_share, min_distance, noise)
    rng = np.random.default_rng(0 if seed is None else seed)
    tie = rng.permutation(flat.size) if seed is not None else _tie_rank(table.shape, image_keys)
    if noise > 0 and askable.any():
        spread = float(np.std(flat[askable])) * noise * noise_decay**round_number
        flat = flat + spread * rng.gumbel(size=flat.size)
    order = np.lexsort((tie, flat))[::-1]  # NaN sorts first here, but is dropped next
    order = order[askable[order]]
    if strata is not None:
        order = _round_robin(order, _like("strata", strata, table.shape).reshape(-1))
    spacing = _Spacing(table.shape, centroids, min_distance) if min_distance > 0 else None
    if random_share == 0:
        return _walk(order, price, budget, 0.0, spacing)[0]
    best, spent = _walk(order, price, budget * (1 - random_share), 0.0, spacing)
    if spent > budget:
        return best
    rest = rng.permutation(np.setdiff1d(order, best))
    return np.concatenate([best, _walk(rest, price, budget, spent, spacing)[0]])


def _numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Numbers of any array library, as float64 on the CPU."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers: {error}.", hint="Pass arrays.") from error


def _like(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = _numbers(name, values)
    if array.shape not in ((), shape):
        raise DataError(
            f"{name} must have the shape {shape} of scores, got {array.shape}.",
            hint="Give one value per region.",
        )
    return array


def _check(
    price: NDArray[np.float64], budget: float, share: float, distance: float, noise: float
) -> None:
    if not (budget >= 0):
        raise DataError(f"budget must be at least 0 clicks, got {budget}.", hint="Give clicks.")
    if price.size and not (np.isfinite(price).all() and price.min() >= 0):
        raise DataError("cost must be finite and not negative.", hint="Give clicks per region.")
    if not (0 <= share <= 1 and distance >= 0 and noise >= 0):
        raise DataError(
            f"random_share must lie in 0..1, min_distance and noise must not be negative; "
            f"got {share}, {distance}, {noise}.",
            hint="0 turns each of them off.",
        )


def _tie_rank(shape: tuple[int, ...], keys: Sequence[str] | None) -> NDArray[np.int64]:
    """Of equal scores the larger rank goes first: the later image, then the later region."""
    position = np.arange(int(np.prod(shape)), dtype=np.int64)
    if keys is None:
        return position
    if len(shape) != 2 or len(keys) != shape[0]:
        raise DataError(
            f"image_keys needs 2-D scores with one row per key, got {len(keys)} keys for the "
            f"shape {shape}.",
            hint="Pass scores as (images, regions).",
        )
    row_rank = np.empty(shape[0], dtype=np.int64)
    row_rank[sorted(range(shape[0]), key=lambda row: keys[row])] = np.arange(shape[0])
    return (row_rank[:, None] * shape[1] + np.arange(shape[1])).reshape(-1)


def _round_robin(order: Order, strata: NDArray[np.float64]) -> Order:
    """The first of each stratum in order, then the second of each, ..."""
    if strata.ndim == 0 or not order.size:
        return order
    label = strata[order]
    grouped = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(label[grouped]) != 0])
    sizes = np.diff(np.r_[starts, grouped.size])
    turn = np.empty(order.size, dtype=np.int64)
    turn[grouped] = np.arange(grouped.size) - np.repeat(starts, sizes)
    return order[np.argsort(turn, kind="stable")]


class _Spacing:
    """Whether a region keeps its distance from those chosen in the same image."""

    def __init__(
        self, shape: tuple[int, ...], centroids: ArrayLike | None, distance: float
    ) -> None:
        if len(shape) != 2 or centroids is None:
            raise DataError(
                "min_distance needs 2-D scores and centroids.",
                hint="Pass scores (images, regions) and centroids (images, regions, 2).",
            )
        places = _numbers("centroids", centroids)
        if places.shape != (*shape, 2):
            raise DataError(
                f"centroids must have the shape {(*shape, 2)}, got {places.shape}.",
                hint="Give y, x in px for each region.",
            )
        self.places = places.reshape(-1, 2)
        self.regions = shape[1]
        self.squared = distance**2
        self.chosen: dict[int, list[int]] = {}

    def take(self, position: int) -> bool:
        """Note the region and return True, unless it is too near to another."""
        taken = self.chosen.setdefault(position // self.regions, [])
        gaps = self.places[taken] - self.places[position]
        if taken and float((gaps**2).sum(1).min()) < self.squared:
            return False
        taken.append(position)
        return True


def _walk(
    order: Order,
    price: NDArray[np.float64],
    budget: float,
    spent: float,
    spacing: _Spacing | None,
) -> tuple[Order, float]:
    """The start of `order` up to the region that takes the sum over the budget; and the sum."""
    if spacing is None:
        total = spent + np.cumsum(price[order])
        number = min(order.size, int(np.searchsorted(total, budget, side="right")) + 1)
        return order[:number], float(total[number - 1]) if number else spent
    taken: list[int] = []
    for position in order.tolist():
        if not spacing.take(position):
            continue
        taken.append(position)
        spent += float(price[position])
        if spent > budget:
            break
    return np.array(taken, dtype=np.int64), spent
