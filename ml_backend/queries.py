"""Scores of the pool and a click budget -> the next region queries. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from label_config import ClassSchema
from ml_backend.agreement import drawn_as_control
from ml_backend.store import Image, Project, Query
from training.regions import RegionId
from training.selection import select

if TYPE_CHECKING:
    from training.pool_scores import PoolScores

# A class is ticked in advance where it is predicted on at least this share of the region. On the
# regions that PixBal asks about after two small rounds on CamVid, .2 took fewer corrections (1.33 a
# region) than .1 (1.60) or .05 (1.76).
PRETICK_SHARE = 0.20


def plan_queries(
    project: Project,
    images: Sequence[Image],
    asked: Collection[RegionId],
    scores: PoolScores,
    names: Sequence[str],
    *,
    round_number: int,
    model_version: str,
    budget_clicks: float,
    ticks_shown: bool = True,
) -> list[Query]:
    """The regions to ask next, best first.

    Regions are taken in descending score until their expected clicks exceed the budget
    (algorithm: the region that crosses it is still taken); those asked before, and those that no
    score was given, are left out. Equal scores fall in the order of `RegionId`, so that equal
    input gives an equal queue.

    An image gives at most `per_image_cap` of them, its best. Every question knows its ticks; those
    that are drawn as controls do not show them, and none does without `ticks_shown`.

    Returns:
        Queries with status "planned"; empty where the pool or the budget is used up.
    """
    rows = _pool_rows(images, asked, scores)
    if not rows or budget_clicks <= 0:
        return []
    values = np.array([scores.images[i.image_id].score[r] for i, r in rows], dtype=np.float64)
    cost = np.array(
        [scores.images[i.image_id].expected_clicks[r] for i, r in rows], dtype=np.float64
    )
    most = per_image_cap(project, len(images), len(select(values, cost, budget_clicks)))
    if most is not None:
        values = _capped(values, [image.image_id for image, _ in rows], most)
    chosen = select(values, cost, budget_clicks)
    queries = []
    for position in chosen.tolist():
        image, region = rows[position]
        presence = scores.images[image.image_id].presence[region]
        queries.append(
            Query(
                id=0,
                project_id=project.id,
                image_id=image.image_id,
                region_index=region,
                regions_hash=image.regions_hash,
                round=round_number,
                status="planned",
                task_id=None,
                score=float(values[position]),
                expected_clicks=float(cost[position]),
                preticks=pretick(presence, names, project.smallest_share),
                model_version=model_version,
                control=not ticks_shown
                or drawn_as_control(project.seed, RegionId(image.image_id, region), 1),
            )
        )
    return queries


def scored(
    query: Query,
    project: Project,
    names: Sequence[str],
    version: str,
    scores: PoolScores,
    ticks_shown: bool,
) -> Query:
    """A question with the score and ticks of a version; one that it gave no score keeps its own."""
    row, region = scores.images[query.image_id], RegionId(query.image_id, query.region_index)
    score = float(row.score[region.index])
    return replace(
        query,
        score=score if math.isfinite(score) else query.score,
        expected_clicks=float(row.expected_clicks[region.index]),
        preticks=pretick(row.presence[region.index], names, project.smallest_share),
        model_version=version,
        control=not ticks_shown or drawn_as_control(project.seed, region, query.asking),
    )


def per_image_cap(project: Project, images: int, batch: int) -> int | None:
    """Most questions about one image in a batch; None where there is no limit.

    By itself it is max(3, twice the batch / images): near copies of one view teach little, and a
    batch from two images of two hundred tells nothing about the rest.
    """
    if project.per_image is None:
        return max(3, math.ceil(2 * batch / max(1, images)))
    return project.per_image or None


def _capped(values: NDArray[np.float64], images: Sequence[str], most: int) -> NDArray[np.float64]:
    """The scores, NaN beyond the best `most` of each image."""
    kept = np.full_like(values, np.nan)
    taken: Counter[str] = Counter()
    for position in select(values, 1.0, math.inf).tolist():
        taken[images[position]] += 1
        if taken[images[position]] <= most:
            kept[position] = values[position]
    return kept


def _pool_rows(
    images: Sequence[Image], asked: Collection[RegionId], scores: PoolScores
) -> list[tuple[Image, int]]:
    """Regions that can be asked, in the order of their `RegionId`."""
    return [
        (image, region)
        for image in sorted(images, key=lambda i: i.image_id)
        if image.image_id in scores.images
        for region in range(image.region_count)
        if RegionId(image.image_id, region) not in asked
        and np.isfinite(scores.images[image.image_id].score[region])
    ]


def scored_names(schema: ClassSchema, scores: PoolScores) -> tuple[str, ...]:
    """The classes that the scoring model knew, in the order of `presence`.

    Those appended since then have no column, and must not be given that of the undefined class.
    """
    widths = {row.presence.shape[1] for row in scores.images.values()} - {0}
    return schema.names[: max(widths, default=schema.num_outputs) - schema.undefined]


def pretick(
    presence: NDArray[np.floating[Any]], names: Sequence[str], smallest_share: float = 0.0
) -> tuple[str, ...]:
    """Names of the classes predicted on enough of a region.

    Args:
        presence: share of the region's pixels per class, (K,); an undefined class comes last and is
            never ticked in advance: a class can be looked for in the picture, but "Something else"
            is only right where every class was looked for first, and a tick that is there already
            invites to skip that. Leaving it out costs one key where it is right.
        names: the real classes, K or K - 1 of them.
        smallest_share: classes under it are left out by annotators, so they are not ticked either.
    """
    least = max(PRETICK_SHARE, smallest_share)
    return tuple(name for name, share in zip(names, presence, strict=False) if share >= least)
