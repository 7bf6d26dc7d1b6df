"""Curves and bars as SVG. Colours are variables of the page's style, so that dark and light work.

What differs by colour also differs by marker, and from the ninth series on by dashes.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from training.report_html import Html, join, tag

COLOURS = 8
_DASHES = (None, "7 4", "2 3")
_WIDTH, _HEIGHT = 560, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 92, 14, 48
# The largest text that a page may ask for (the admin's page on a phone): everything must fit at it.
_TEXT_PX = 16
# Of the y axis, in its unit: finer ticks are noise, and their digits fit nowhere.
_LEAST_SPAN = 1.0


@dataclass(frozen=True)
class Dot:
    """A point of a curve; `spread` is drawn to both sides as a band; `title` shows on hovering."""

    x: float
    y: float
    spread: float | None
    title: str


@dataclass(frozen=True)
class Series:
    """A named curve; `style` picks colour, marker and dashes."""

    name: str
    dots: tuple[Dot, ...]
    style: int


@dataclass(frozen=True)
class Scale:
    """Linear map of low..high to start..end px."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    series: Sequence[Series], x_label: str, y_label: str, full: float | None = None
) -> Html:
    """Curves with bands of their spread; `full` adds a dashed line and an axis in % of it.

    Without any point: an empty Html.
    """
    dots = [dot for item in series for dot in item.dots]
    if not dots:
        return Html("")
    lows = [dot.y - (dot.spread or 0.0) for dot in dots]
    highs = [dot.y + (dot.spread or 0.0) for dot in dots] + ([] if full is None else [full])
    x_ticks = ticks(0.0, max(dot.x for dot in dots))
    y_ticks = ticks(*_span(min(lows), max(highs)))
    x = Scale(x_ticks[0], x_ticks[-1], _LEFT, _WIDTH - _RIGHT)
    y = Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(x, y, x_ticks, y_ticks), _labels(x_label, y_label)]
    if full is not None and full > 0:
        parts.append(_full_axis(y, full))
    parts += [_band(item, x, y) for item in series]
    parts += [_curve(item, x, y) for item in series]
    return tag(
        "svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
        aria_label=f"{y_label} against {x_label}",
    )  # fmt: skip


def bar_chart(
    classes: Sequence[str],
    series: Sequence[tuple[str, int, Sequence[float | None]]],
    full: Sequence[float | None] | None = None,
) -> Html:
    """A row of bars in 0..100 % for each class: (name, style, values); `full` adds a mark.

    Without classes or series: an empty Html.
    """
    if not classes or not series:
        return Html("")
    thick, left = 9, 240
    row = thick * len(series) + 10
    height = row * len(classes) + 30
    x = Scale(0, 100, left, _WIDTH - 20)
    parts = []
    for value in range(0, 101, 20):
        parts.append(_rule(x(value), 4, x(value), height - 22))
        parts.append(_text(x(value), height - 6, f"{value}", "middle"))
    for index, name in enumerate(classes):
        top = 6.0 + index * row
        shown = _shortened(name, (left - 8) / _TEXT_PX)
        parts.append(tag("g", _text(left - 8, top + row / 2, shown, "end"), tag("title", name)))
        for place, (title, style, values) in enumerate(series):
            parts.append(_bar(x, top + place * thick, thick, style, title, name, values[index]))
        mark = full[index] if full else None
        if mark is not None:
            at = x(100 * mark)
            said = tag("title", f"{name}, full supervision: {100 * mark:.1f}")
            parts.append(tag("g", _rule(at, top - 1, at, top + row - 8, "var(--text)", 2), said))
    return tag(
        "svg", *parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label="IoU by class"
    )


def legend(names: Sequence[tuple[str, int]], full: bool = False) -> Html:
    """Names of (method, style) with their line and marker."""
    items = []
    for name, style in names:
        sample = join((_path([(2.0, 8.0), (28.0, 8.0)], style), _marker(15, 8, style)))
        items.append(tag("li", tag("svg", sample, viewBox="0 0 30 16"), name))
    if full:
        sample = _rule(2, 8, 28, 8, "var(--text)", 1.5, "5 4")
        items.append(tag("li", tag("svg", sample, viewBox="0 0 30 16"), "full supervision"))
    return tag("ul", *items, class_="legend")


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers at equal steps (1, 2 or 5 times a power of ten) from below low to above high.

    At least two, also if low equals high.
    """
    if high <= low:
        high = low + (abs(low) * 0.1 or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def _span(low: float, high: float) -> tuple[float, float]:
    """Low and high, at least `_LEAST_SPAN` apart; nothing below zero that is not there."""
    if high - low >= _LEAST_SPAN:
        return low, high
    middle = (low + high) / 2
    least = middle - _LEAST_SPAN / 2
    start = max(least, 0.0) if low >= 0 else least
    return start, start + _LEAST_SPAN


def _shortened(text: str, room_em: float) -> str:
    """The text, or as much of its beginning as fits, and an ellipsis."""
    widths = [_width_em(char) for char in text]
    if sum(widths) <= room_em:
        return text
    room, shown = room_em - 1.0, ""
    for char, width in zip(text, widths, strict=True):
        room -= width
        if room < 0:
            break
        shown += char
    return f"{shown.rstrip()}…"


def _width_em(char: str) -> float:
    """No less than a character is wide in the sans-serif fonts that are common."""
    if unicodedata.east_asian_width(char) in "WF" or char in "WM@%mw":
        return 1.0
    if char in "iljft.,;:'|!I ":
        return 0.42
    return 0.77 if char.isupper() else 0.65


def _grid(x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Html:
    parts = []
    for value in x_ticks:
        parts.append(_rule(x(value), y.start, x(value), y.start + 5))
        parts.append(_text(x(value), y.start + 18, f"{value:,g}", "middle"))
    for value in y_ticks:
        parts.append(_rule(x.start, y(value), x.end, y(value)))
        parts.append(_text(x.start - 8, y(value) + 4, f"{value:g}", "end"))
    return join(parts)


def _labels(x_label: str, y_label: str) -> Html:
    across = _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_label, "middle")
    return join((across, _turned(_TEXT_PX, y_label)))


def _turned(x: float, text: str) -> Html:
    """Text upwards, beside the middle of the curves."""
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    place = f"translate({x:g} {middle:g}) rotate(-90)"
    return tag("text", text, transform=place, text_anchor="middle")


def _full_axis(y: Scale, full: float) -> Html:
    """The dashed line at full supervision, and the axis at the right in % of it."""
    right = _WIDTH - _RIGHT
    parts = [_rule(_LEFT, y(full), right, y(full), "var(--text)", 1.5, "5 4")]
    parts.append(_turned(_WIDTH - 6, "of full supervision"))
    for share in ticks(100 * y.low / full, 100 * y.high / full, 8):
        if y.low <= share * full / 100 <= y.high:
            at = y(share * full / 100)
            parts.append(_rule(right, at, right + 5, at))
            parts.append(_text(right + 8, at + 4, f"{share:g} %", "start"))
    return join(parts)


def _band(item: Series, x: Scale, y: Scale) -> Html:
    dots = [dot for dot in item.dots if dot.spread is not None]
    if len(dots) < 2:
        return Html("")
    above = [(x(d.x), y(d.y + (d.spread or 0.0))) for d in dots]
    below = [(x(d.x), y(d.y - (d.spread or 0.0))) for d in reversed(dots)]
    points = " ".join(f"{a:.2f},{b:.2f}" for a, b in above + below)
    return tag("polygon", points=points, fill=_colour(item.style), fill_opacity="0.12")


def _curve(item: Series, x: Scale, y: Scale) -> Html:
    places = [(x(dot.x), y(dot.y)) for dot in item.dots]
    marks = [
        tag("g", _marker(a, b, item.style), tag("title", dot.title))
        for (a, b), dot in zip(places, item.dots, strict=True)
    ]
    return join((_path(places, item.style), *marks))


def _path(places: Sequence[tuple[float, float]], style: int) -> Html:
    points = " ".join(f"{a:.2f},{b:.2f}" for a, b in places)
    dashes = _DASHES[style // COLOURS % len(_DASHES)]
    return tag("polyline", points=points, fill="none", stroke=_colour(style), stroke_width="2",
               stroke_dasharray=dashes)  # fmt: skip


def _marker(x: float, y: float, style: int) -> Html:
    """Circle, square, triangle or diamond."""
    shapes = (
        "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
        "M-3.5,-3.5h7v7h-7z",
        "M0,-4.5L4.5,3.5H-4.5z",
        "M0,-5L5,0L0,5L-5,0z",
    )
    shape = shapes[style % len(shapes)]
    return tag("path", d=shape, transform=f"translate({x:.2f} {y:.2f})", fill=_colour(style))


def _bar(
    x: Scale, top: float, thick: float, style: int, title: str, name: str, value: float | None
) -> Html:
    if value is None:
        return _text(x.start + 3, top + thick - 1, "-", "start")
    shape = tag("rect", x=f"{x.start:g}", y=f"{top:g}", width=f"{x(100 * value) - x.start:.2f}",
                height=f"{thick - 1:g}", fill=_colour(style))  # fmt: skip
    return tag("g", shape, tag("title", f"{name}, {title}: {100 * value:.1f}"))


def _rule(
    x0: float, y0: float, x1: float, y1: float,
    colour: str = "var(--line)", width: float = 1, dashes: str | None = None,
) -> Html:  # fmt: skip
    return tag("line", x1=f"{x0:.2f}", y1=f"{y0:.2f}", x2=f"{x1:.2f}", y2=f"{y1:.2f}",
               stroke=colour, stroke_width=f"{width:g}", stroke_dasharray=dashes)  # fmt: skip


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return tag("text", text, x=f"{x:.2f}", y=f"{y:.2f}", text_anchor=anchor)


def _colour(style: int) -> str:
    return f"var(--s{style % COLOURS})"
