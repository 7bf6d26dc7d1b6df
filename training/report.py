"""The report of a simulated experiment: one HTML file that needs nothing from outside."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from training.atomic import write_atomically
from training.files import json_bytes
from training.report_costs import cost_table
from training.report_figures import Dot, Series, bar_chart, legend, line_chart
from training.report_gallery import gallery
from training.report_html import Html, data_uri, join, page, tag
from training.report_tables import area_table, class_table, failed_runs, points_table
from training.result_curves import Point, curve, full_miou
from training.results import Results

Curves = dict[str, tuple[Point, ...]]
MANY_CLASSES = 40


def write_report(results: Path, out: Path) -> None:
    """Write the report of the results file `results` to `out`, atomically.

    Raises: ResultsError for results, or pictures they name, that are missing or damaged.
    """
    html = report_html(Results.load(results), results.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: file.write(html))


def report_html(results: Results, folder: Path) -> bytes:
    """The whole page in UTF-8; pictures are read below `folder`. Raises ResultsError."""
    curves = {method: curve(results, method) for method in results.methods}
    title = f"{results.experiment} on {results.dataset}"
    sections = (
        ("mIoU against cost", _curve_section(results, curves)),
        ("Area and cost to a goal", area_table(results, curves)),
        ("Other assumptions about annotators", cost_table(curves)),
        ("Every point", points_table(results, curves)),
        ("Pseudo labels", _pseudo_label_section(curves)),
        ("Classes", _class_section(results, curves)),
        ("Runs that failed", failed_runs(results)),
        ("Queried regions and pseudo labels", gallery(results, folder)),
        ("Data behind this page", _download(results)),
    )
    body = [part for heading, html in sections if html for part in (tag("h2", heading), html)]
    return page(title, tag("h1", title), _origin(results), *body)


def _origin(results: Results) -> Html:
    """Command, commit, machine, pool, seeds and what the experiment says about itself."""
    seeds = sorted({run.seed for run in results.runs if run.status == "done"})
    full = full_miou(results)
    lines = [
        tag("p", tag("code", results.command), " at commit ", tag("code", results.commit)),
        tag("p", f"Size {results.size}; {results.machine}.", class_="soft"),
        tag("p", f"The pool has {results.pool_regions:,} regions; a budget of 1 % is "
            f"{results.pool_regions / 100:,.0f} clicks. Seeds: "
            f"{', '.join(map(str, seeds)) or 'none'}. Bands and ± are the standard deviation over "
            "seeds (n - 1); seconds are estimated annotator seconds.", class_="soft"),
    ]  # fmt: skip
    if results.full and full is not None:
        count = len(results.full.miou)
        lines.append(
            tag("p", f"Full supervision of the same network and schedule: {100 * full:.1f} % mIoU "
                f"({count} {'seed' if count == 1 else 'seeds'}).", class_="soft")
        )  # fmt: skip
    return join([*lines, *(tag("p", note) for note in results.notes)])


def _curve_section(results: Results, curves: Curves) -> Html:
    full = full_miou(results)
    seconds = [point.seconds for points in curves.values() for point in points]
    if not seconds:
        return tag("p", "No run is done yet.", class_="bad")
    unit, length = ("hours", 3600.0) if max(seconds) > 7200 else ("minutes", 60.0)
    percent = None if full is None else 100 * full
    charts = (
        line_chart(_miou_series(curves, "clicks", 1.0), "clicks", "mIoU, %", percent),
        line_chart(_miou_series(curves, "seconds", length),
                   f"estimated annotator {unit}", "mIoU, %", percent),
    )  # fmt: skip
    key = legend(_styles(curves), full is not None)
    return join((key, tag("div", *(_panel(chart) for chart in charts), class_="charts")))


def _pseudo_label_section(curves: Curves) -> Html:
    charts = []
    for name in ("accuracy", "coverage"):
        series = [
            Series(method, tuple(
                Dot(point.clicks, 100 * value, None, f"{method}: {100 * value:.1f} %")
                for point in points
                if (value := getattr(point, f"pseudo_{name}")) is not None
            ), style)
            for (method, points), style in zip(curves.items(), range(len(curves)), strict=True)
        ]  # fmt: skip
        charts.append(line_chart(series, "clicks", f"{name} of pseudo labels, %"))
    if not any(charts):
        return Html("")
    return tag("div", *(_panel(chart) for chart in charts if chart), class_="charts")


def _class_section(results: Results, curves: Curves) -> Html:
    """IoU by class after each method's last round."""
    last = [(method, style, curves[method][-1]) for method, style in _styles(curves)]
    if not last:
        return Html("")
    series = [
        (name, style, [point.per_class[c] for c in results.classes]) for name, style, point in last
    ]
    full = None
    if results.full:
        full = [results.full.per_class.get(name) for name in results.classes]
    clicks = statistics.fmean(point.clicks for _, _, point in last)
    text = tag("p", f"IoU in %, mean over seeds, after the last round of each method (on average "
               f"{clicks:,.0f} clicks).", class_="soft")  # fmt: skip
    bars = _panel(bar_chart(results.classes, series, full))
    if len(results.classes) > MANY_CLASSES:
        bars = tag("details", tag("summary", f"Bars of {len(results.classes)} classes"), bars)
    key = legend(_styles(curves), full is not None)
    return join((text, key, bars, class_table(results, curves)))


def _download(results: Results) -> Html:
    name = "".join(c if c.isalnum() else "-" for c in results.experiment)
    link = tag("a", "The results as JSON", download=f"{name}.json",
               href=data_uri(json_bytes(results.to_json()), "application/json"))  # fmt: skip
    return tag("p", link)


def _miou_series(curves: Curves, axis: str, unit: float) -> list[Series]:
    return [
        Series(method, tuple(_dot(method, point, getattr(point, axis) / unit)
                             for point in curves[method]), style)
        for method, style in _styles(curves)
    ]  # fmt: skip


def _dot(method: str, point: Point, x: float) -> Dot:
    std = None if point.std is None else 100 * point.std
    spread = "" if std is None else f" ± {std:.1f}"
    title = f"{method}, round {point.round}: {100 * point.miou:.1f}{spread} % after "
    title += f"{point.clicks:,.0f} clicks, {point.questions:,.0f} questions"
    return Dot(x, 100 * point.miou, std, title)


def _styles(curves: Curves) -> Sequence[tuple[str, int]]:
    """Methods that have points, with a style that stays the same in every figure."""
    return [(method, i) for i, (method, points) in enumerate(curves.items()) if points]


def _panel(chart: Html) -> Html:
    return tag("figure", chart, class_="panel")
