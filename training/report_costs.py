"""What the comparison by seconds would be under other assumptions about annotators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.annotation_cost import AnnotationCost
from training.report_html import Cell, Html, join, table, tag
from training.result_curves import Point, height_at

LOOKS_S = (0.75, 1.5, 3.0)
KEYS_S = (0.3, 0.6, 1.2)
COSTS = tuple(AnnotationCost(look_s=look, key_s=key) for look in LOOKS_S for key in KEYS_S)


def cost_table(curves: Mapping[str, Sequence[Point]]) -> Html:
    """mIoU of each method at equal seconds, for several looks and keys; empty for one method."""
    known = {method: points for method, points in curves.items() if points}
    if len(known) < 2:
        return Html("")
    rows = [row for cost in COSTS if (row := _row(cost, known)) is not None]
    if not rows:
        return Html("")
    text = (
        f"Page turn {AnnotationCost().page_turn_s:g} s. Each row compares at the largest number of "
        "seconds that all methods reach, by straight lines between the rounds of the mean curves, "
        "in %; rows without such a number are left out."
    )
    header = ("look, s", "key, s", "seconds", *known)
    return join((tag("p", text, class_="soft"), table(header, rows, id="costs")))


def _row(cost: AnnotationCost, curves: Mapping[str, Sequence[Point]]) -> list[Cell] | None:
    lines = {
        method: [(_seconds(cost, point), point.miou) for point in points]
        for method, points in curves.items()
    }
    budget = min(line[-1][0] for line in lines.values())
    if any(line[0][0] > budget for line in lines.values()):
        return None
    heights = [height_at(line, budget) for line in lines.values()]
    numbers = (cost.look_s, cost.key_s, budget)
    cells = [Cell(f"{number:g}", number) for number in (*numbers[:2], round(budget))]
    return [*cells, *(Cell(f"{100 * height:.1f}", height) for height in heights)]


def _seconds(cost: AnnotationCost, point: Point) -> float:
    return point.questions * (cost.page_turn_s + cost.look_s) + point.clicks * cost.key_s
