"""The tables of a report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from training.report_html import Cell, Html, join, table, tag
from training.result_curves import (
    AXES,
    GOALS,
    Axis,
    Point,
    areas,
    common_range,
    cost_to_reach,
    full_miou,
    share_of_full,
    spread,
)
from training.results import Results

_POINTS = (
    "method", "round", "clicks", "budget, %", "questions", "seconds", "mIoU, %", "std, %",
    "of full, %", "stage 1, %", "pseudo labels right, %", "coverage, %", "seeds",
)  # fmt: skip
NONE = Cell("-")


def points_table(results: Results, curves: Mapping[str, Sequence[Point]]) -> Html:
    """A row for each method and round; empty without any."""
    rows = [_point_row(results, method, p) for method, points in curves.items() for p in points]
    return table(_POINTS, rows, id="points") if rows else Html("")


def area_table(results: Results, curves: Mapping[str, Sequence[Point]]) -> Html:
    """Area under each curve by clicks and by seconds, and the cost of 90 and 95 % of full."""
    header = ["method", *(f"area by {axis}, %" for axis in AXES)]
    header += [f"{axis} to {100 * goal:.0f} % of full" for goal in GOALS for axis in AXES]
    rows = []
    for method, points in curves.items():
        if points:
            reached = [_goal(results, points, axis, goal) for goal in GOALS for axis in AXES]
            rows.append([Cell(method), *(_area(results, method, a) for a in AXES), *reached])
    if not rows:
        return Html("")
    return join((_area_note(results), table(header, rows, id="areas")))


def class_table(results: Results, curves: Mapping[str, Sequence[Point]]) -> Html:
    """IoU of each class after each method's last round, and with full supervision."""
    last = {method: points[-1] for method, points in curves.items() if points}
    header = ["class", *last]
    rows = []
    for name in results.classes:
        row = [Cell(name), *(percent(point.per_class[name]) for point in last.values())]
        if results.full:
            row.append(percent(results.full.per_class.get(name)))
        rows.append(row)
    if results.full:
        header.append("full supervision")
    return table(header, rows, id="classes") if last else Html("")


def failed_runs(results: Results) -> Html:
    """Method, seed, finished rounds and error of each failed run; empty without any."""
    rows = [
        (Cell(run.method), Cell(str(run.seed)), Cell(str(len(run.rounds))), Cell(run.error or ""))
        for run in results.runs
        if run.status == "failed"
    ]
    if not rows:
        return Html("")
    text = "These runs count nowhere above. The same command takes them up again."
    header = ("method", "seed", "rounds done", "error")
    return join((tag("p", text, class_="bad"), table(header, rows, id="failed")))


def percent(value: float | None) -> Cell:
    """A share in % with one decimal; a dash for None."""
    return NONE if value is None else Cell(f"{100 * value:.1f}", value)


def amount(value: float | None) -> Cell:
    """A whole number with commas; a dash for None."""
    return NONE if value is None else Cell(f"{value:,.0f}", value)


def _point_row(results: Results, method: str, point: Point) -> tuple[Cell, ...]:
    budget = point.clicks / results.pool_regions
    return (
        Cell(method),
        Cell(str(point.round)),
        amount(point.clicks),
        Cell(f"{100 * budget:.2f}", budget),
        amount(point.questions),
        amount(point.seconds),
        percent(point.miou),
        percent(point.std),
        percent(share_of_full(results, point.miou)),
        percent(point.stage1_miou),
        percent(point.pseudo_accuracy),
        percent(point.pseudo_coverage),
        Cell(", ".join(map(str, point.seeds))),
    )


def _area(results: Results, method: str, axis: Axis) -> Cell:
    values = areas(results, method, axis)
    if not values:
        return NONE
    mean, std = statistics.fmean(values), spread(values)
    return Cell(f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}"), mean)


def _goal(results: Results, points: Sequence[Point], axis: Axis, goal: float) -> Cell:
    full = full_miou(results)
    if full is None:
        return NONE
    cost = cost_to_reach(points, axis, goal * full)
    return Cell("not reached") if cost is None else amount(cost)


def _area_note(results: Results) -> Html:
    limits = {axis: common_range(results, axis) for axis in AXES}
    ranges = [f"{low:,.0f} to {high:,.0f} {axis}" for axis, found in limits.items() if found
              for low, high in (found,)]  # fmt: skip
    where = f"here {' and '.join(ranges)}" if ranges else "here there is none"
    text = (
        "Area: mean mIoU over the range of costs that every run covers "
        f"({where}), mean and standard deviation over seeds. Costs to a goal are read off the mean "
        "curve, by straight lines between rounds; a curve that starts above has reached it there."
    )
    return tag("p", text, class_="soft")
