"""Curves of an experiment: mean and spread over seeds, areas under them, costs to reach a goal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from training.results import Results, Round, Run

Axis = Literal["clicks", "seconds"]
AXES: tuple[Axis, ...] = ("clicks", "seconds")
GOALS = (0.90, 0.95)  # of full supervision


@dataclass(frozen=True)
class Point:
    """One round of one method: means over its seeds; `std` is the sample's, None for one seed."""

    round: int
    seeds: tuple[int, ...]
    clicks: float
    questions: float
    seconds: float
    miou: float
    std: float | None
    stage1_miou: float | None
    pseudo_accuracy: float | None
    pseudo_coverage: float | None
    per_class: Mapping[str, float | None]


def curve(results: Results, method: str) -> tuple[Point, ...]:
    """The points of a method in order of rounds, each over the runs that are done and have it.

    Empty where no run is done.
    """
    runs = results.runs_of(method)
    numbers = sorted({item.round for run in runs for item in run.rounds})
    return tuple(_point(number, runs, results.classes) for number in numbers)


def full_miou(results: Results) -> float | None:
    """Mean mIoU of full supervision over its seeds; None where it was not trained."""
    return statistics.fmean(results.full.miou) if results.full else None


def share_of_full(results: Results, miou: float) -> float | None:
    """mIoU as a share of full supervision's mean; None where that was not trained."""
    full = full_miou(results)
    return None if full is None else miou / full


def common_range(results: Results, axis: Axis) -> tuple[float, float] | None:
    """The costs that every run which is done covers; None if there are none."""
    done = [run.rounds for run in results.runs if run.status == "done"]
    if not done:
        return None
    low = max(float(getattr(rounds[0], axis)) for rounds in done)
    high = min(float(getattr(rounds[-1], axis)) for rounds in done)
    return (low, high) if low < high else None


def areas(results: Results, method: str, axis: Axis) -> tuple[float, ...]:
    """Area under each seed's curve over the common range, divided by its length: mean mIoU in it.

    Straight lines between rounds. Empty if there is no common range or no run that is done.
    """
    limits = common_range(results, axis)
    if limits is None:
        return ()
    return tuple(_mean_height(_line(run.rounds, axis), *limits) for run in results.runs_of(method))


def cost_to_reach(points: Sequence[Point], axis: Axis, miou: float) -> float | None:
    """The cost at which the straight lines between points first reach `miou`; None if never.

    A curve that begins above has reached it with its first point.
    """
    return reach(_line(points, axis), miou)


def reach(line: Sequence[tuple[float, float]], goal: float) -> float | None:
    """The x at which the straight lines between (x, y) first reach y = `goal`; None if never."""
    if line and line[0][1] >= goal:
        return line[0][0]
    for (x0, y0), (x1, y1) in pairwise(line):
        if y0 < goal <= y1:
            return x0 + (x1 - x0) * (goal - y0) / (y1 - y0)
    return None


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of the sample (n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def mean_known(values: Iterable[float | None]) -> float | None:
    """Mean of those that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _point(number: int, runs: Sequence[Run], classes: Sequence[str]) -> Point:
    pairs = [(run.seed, item) for run in runs for item in run.rounds if item.round == number]
    seeds, items = tuple(seed for seed, _ in pairs), [item for _, item in pairs]
    mious = [item.miou for item in items]
    return Point(
        number,
        seeds,
        statistics.fmean(item.clicks for item in items),
        statistics.fmean(item.questions for item in items),
        statistics.fmean(item.seconds for item in items),
        statistics.fmean(mious),
        spread(mious),
        mean_known(item.stage1_miou for item in items),
        mean_known(item.pseudo_accuracy for item in items),
        mean_known(item.pseudo_coverage for item in items),
        {name: mean_known(item.per_class.get(name) for item in items) for name in classes},
    )


def _line(items: Sequence[Round] | Sequence[Point], axis: Axis) -> list[tuple[float, float]]:
    return [(float(getattr(item, axis)), item.miou) for item in items]


def height_at(line: Sequence[tuple[float, float]], x: float) -> float:
    """y at x on the straight lines between (x, y). Raises ValueError for an x outside."""
    if len(line) == 1 and line[0][0] == x:
        return line[0][1]
    for (x0, y0), (x1, y1) in pairwise(line):
        if x0 <= x <= x1 and x0 < x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    raise ValueError(f"{x} lies outside the curve")


def _mean_height(line: Sequence[tuple[float, float]], low: float, high: float) -> float:
    inner = [(x, y) for x, y in line if low < x < high]
    cut = [(low, height_at(line, low)), *inner, (high, height_at(line, high))]
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(cut))
    return area / (high - low)
