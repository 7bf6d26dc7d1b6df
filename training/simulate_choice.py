"""Scores and real clicks -> the regions of a simulated round."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.pool_scores import PoolScores
from training.regions import RegionId, RegionMap
from training.selection import select
from training.simulate_config import SelectionConfig


def choose(
    scores: PoolScores,
    clicks: Mapping[str, NDArray[np.int64]],
    asked: Collection[RegionId],
    budget: float,
    config: SelectionConfig,
    regions: Mapping[str, Path],
    *,
    seed: int,
    round_number: int,
) -> list[RegionId]:
    """The regions an annotator answers, best first, until the clicks of the answers pass `budget`.

    As in the paper the clicks counted are those of the answers; a project, which does not know
    them in advance, plans with expected ones. `asked` are left out. Empty if nothing is left.
    """
    names = sorted(scores.images)
    width = max(len(scores.images[name].score) for name in names)
    table = np.full((len(names), width), np.nan)
    cost = np.zeros((len(names), width))
    for row, name in enumerate(names):
        own = scores.images[name].score
        table[row, : len(own)] = own
        cost[row, : len(own)] = clicks[name]
    rows = {name: row for row, name in enumerate(names)}
    for region in asked:
        table[rows[region.image_id], region.index] = np.nan
    drawn = config.noise > 0 or config.random_share > 0
    chosen = select(
        table, cost, budget, image_keys=names, seed=seed * 1009 + round_number if drawn else None,
        random_share=config.random_share, min_distance=config.min_distance, noise=config.noise,
        noise_decay=config.noise_decay, round_number=round_number,
        centroids=_centroids(names, regions, width) if config.min_distance > 0 else None,
        strata=_main_classes(names, scores, width) if config.by_class else None,
    )  # fmt: skip
    return [RegionId(names[place // width], place % width) for place in chosen.tolist()]


def _centroids(names: list[str], regions: Mapping[str, Path], width: int) -> NDArray[np.float64]:
    """y, x of each region, (images, regions, 2) px; 0 where there is none."""
    places = np.zeros((len(names), width, 2))
    for row, name in enumerate(names):
        found = RegionMap.load(regions[name])
        areas, ids = found.areas(), found.ids.ravel()
        for axis, values in enumerate(np.indices(found.ids.shape)):
            sums = np.bincount(ids, weights=values.ravel().astype(np.float64))
            places[row, : found.count, axis] = sums / areas
    return places


def _main_classes(names: list[str], scores: PoolScores, width: int) -> NDArray[np.float64]:
    """Predicted main class of each region, (images, regions); 0 before there is a model."""
    classes = np.zeros((len(names), width))
    for row, name in enumerate(names):
        presence = scores.images[name].presence
        if presence.shape[1]:
            classes[row, : len(presence)] = presence.argmax(axis=1)
    return classes
