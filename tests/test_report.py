"""The report: self-contained, escaped, complete, and its numbers are those of the results."""

from __future__ import annotations

import base64
import json
import math
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.files import write_json
from training.report import report_html, write_report
from training.report_costs import cost_table
from training.report_figures import Dot, Scale, Series, line_chart, ticks
from training.report_gallery import MAX_SIDE_PX, gallery
from training.report_html import Html, join, tag
from training.result_curves import Point, areas, common_range, cost_to_reach, curve
from training.result_rows import (
    BEGIN,
    END,
    KEYS,
    merge_results,
    publish,
    read_rows,
    results_markdown,
    results_rows,
    write_markdown,
)
from training.results import FullSupervision, GalleryItem, Results, ResultsError, Round, Run

EVIL = "<img src=x onerror=alert(1)>\"'&"
FETCHING = ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "background")


class Page(HTMLParser):
    """What a page holds: elements, addresses, text, and the rows of its tables by id."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.tables: dict[str, list[list[tuple[str, float | None]]]] = {}
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.names.append(tag)
        self.attributes |= values.keys()
        self.addresses += [value or "" for key, value in attrs if key in FETCHING]
        if tag == "table":
            self.tables[values["id"] or ""] = []
        elif tag == "tr":
            next(reversed(self.tables.values())).append([])
        elif tag in ("td", "th"):
            exact = values.get("data-value")
            row = next(reversed(self.tables.values()))[-1]
            row.append(("", None if exact is None else float(exact)))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.lasttag in ("td", "th") and data.strip():
            row = next(reversed(self.tables.values()))[-1]
            row[-1] = (row[-1][0] + data, row[-1][1])


def a_run(method: str, seed: int, mious: list[float], step: int = 100, **fields: Any) -> Run:
    rounds = tuple(
        Round(i + 1, step * (i + 1), 10 * (i + 1), 60.0 * (i + 1), miou,
              {"sky": miou, EVIL: None}, stage1_miou=miou / 2, pseudo_accuracy=0.7)
        for i, miou in enumerate(mious)
    )  # fmt: skip
    return Run(method, seed, **{"status": "done", "rounds": rounds, **fields})


def some_results(**fields: Any) -> Results:
    return Results(**{
        "experiment": f"acquisitions {EVIL}", "dataset": EVIL, "size": "cpu", "command": EVIL,
        "commit": "abc", "machine": EVIL, "pool_regions": 1000, "classes": ("sky", EVIL),
        "full": FullSupervision((0.8, 0.6), {"sky": 0.75}), "notes": (EVIL,),
        "runs": (
            a_run("pixbal", 0, [0.2, 0.4, 0.6]), a_run("pixbal", 1, [0.3, 0.5, 0.7]),
            a_run(EVIL, 0, [0.1, 0.2, 0.3]),
            a_run("broken", 0, [0.1], status="failed", error=EVIL),
        ),
        **fields,
    })  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> tuple[Results, Page]:
    results = some_results()
    results.save(tmp_path / "in" / "results.json")
    write_report(tmp_path / "in" / "results.json", tmp_path / "out" / "report.html")
    return results, Page((tmp_path / "out" / "report.html").read_bytes())


@pytest.mark.guarantee(21)
def test_nothing_comes_from_outside(written: tuple[Results, Page]) -> None:
    _, page = written
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "use", "image"} & set(page.names)
    assert "@import" not in page.text
    assert "url(" not in page.text


@pytest.mark.guarantee(21)
def test_text_stays_text(written: tuple[Results, Page]) -> None:
    _, page = written
    assert "img" not in page.names  # there is no gallery, so each would be the evil one
    assert not {name for name in page.attributes if name.startswith("on")}
    assert page.text.count(EVIL) > 10


def test_every_method_and_the_failed_run_are_there(written: tuple[Results, Page]) -> None:
    results, page = written
    shown = {row[0][0] for row in page.tables["points"][1:]}
    assert shown == {"pixbal", EVIL}
    assert shown == {row[0][0] for row in page.tables["areas"][1:]}
    assert page.tables["classes"][0] == [
        (text, None) for text in ("class", "pixbal", EVIL, "full supervision")
    ]
    assert page.tables["failed"][1] == [(t, None) for t in ("broken", "0", "1", EVIL)]
    assert set(results.methods) == {*shown, "broken"}


def test_numbers_are_those_of_the_results(written: tuple[Results, Page]) -> None:
    results, page = written
    rows = [row for row in page.tables["points"][1:] if row[0][0] == "pixbal"]
    for index, row in enumerate(rows):
        both = [run.rounds[index] for run in results.runs_of("pixbal")]
        miou = statistics.fmean(item.miou for item in both)
        std = statistics.stdev(item.miou for item in both)
        expected = (both[0].clicks, both[0].clicks / 1000, both[0].questions, both[0].seconds,
                    miou, std, miou / 0.7, miou / 2, 0.7)  # fmt: skip
        assert [exact for _, exact in row[2:11]] == pytest.approx(expected)
        assert row[6][0] == f"{100 * miou:.1f}"
        assert row[11] == ("-", None)  # no coverage is known
        assert row[12][0] == "0, 1"
    assert len(rows) == 3
    sky, other = page.tables["classes"][1:]
    assert [exact for _, exact in sky[1:]] == pytest.approx([0.65, 0.3, 0.75])
    assert [text for text, _ in other] == [EVIL, "-", "-", "-"]


def test_the_download_is_the_results(written: tuple[Results, Page]) -> None:
    results, page = written
    data = next(a for a in page.addresses if a.startswith("data:application/json;base64,"))
    raw = json.loads(base64.b64decode(data.partition(",")[2]))
    assert Results.from_json(raw) == results


def test_without_any_run_that_is_done(tmp_path: Path) -> None:
    failed = Run("pixbal", 0, "failed", (), "no memory")
    page = Page(report_html(some_results(runs=(failed,), full=None), tmp_path))
    assert "No run is done yet." in page.text
    assert "svg" not in page.names
    assert page.tables.keys() == {"failed"}


def test_one_seed_without_full_supervision(tmp_path: Path) -> None:
    page = Page(report_html(some_results(runs=(a_run("a", 3, [0.5]),), full=None), tmp_path))
    assert [text for text, _ in page.tables["points"][1][6:10]] == ["50.0", "-", "-", "25.0"]
    assert [text for text, _ in page.tables["areas"][1]] == ["a", *["-"] * 6]
    assert "polygon" not in page.names  # no band


def test_missing_results(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="There are no results at"):
        write_report(tmp_path / "results.json", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


# Curves


def test_means_and_spread_over_seeds() -> None:
    points = curve(some_results(), "pixbal")
    assert [p.miou for p in points] == pytest.approx([0.25, 0.45, 0.65])
    assert [p.std for p in points] == pytest.approx([math.sqrt(0.005)] * 3)
    assert points[0].per_class == {"sky": pytest.approx(0.25), EVIL: None}
    assert curve(some_results(), "broken") == ()


def test_a_round_that_a_seed_lacks_counts_the_others() -> None:
    runs = (a_run("a", 0, [0.2, 0.4]), a_run("a", 1, [0.4]))
    points = curve(some_results(runs=runs), "a")
    assert [(p.seeds, p.miou, p.std is None) for p in points] == [
        ((0, 1), pytest.approx(0.3), False), ((0,), 0.4, True),
    ]  # fmt: skip


def test_area_of_straight_curves() -> None:
    # From .2 at 100 to .6 at 300 clicks: mean height .4; over 150..300, where both lie, .45.
    one = some_results(runs=(a_run("a", 0, [0.2, 0.4, 0.6]),))
    assert areas(one, "a", "clicks") == pytest.approx((0.4,))
    two = some_results(
        runs=(a_run("a", 0, [0.2, 0.4, 0.6]), a_run("b", 0, [0.5, 0.5, 0.5], step=150))
    )
    assert common_range(two, "clicks") == (150, 300)
    assert areas(two, "a", "clicks") == pytest.approx((0.45,))
    assert areas(two, "b", "clicks") == pytest.approx((0.5,))
    far = (a_run("a", 0, [0.2, 0.3]), a_run("b", 0, [0.2, 0.3], step=1000))
    assert common_range(some_results(runs=far), "clicks") is None
    assert areas(some_results(runs=far), "a", "clicks") == ()


def test_cost_to_reach() -> None:
    points = curve(some_results(runs=(a_run("a", 0, [0.2, 0.4, 0.3, 0.6]),)), "a")
    assert cost_to_reach(points, "clicks", 0.3) == pytest.approx(150)
    assert cost_to_reach(points, "seconds", 0.3) == pytest.approx(90)
    assert cost_to_reach(points, "clicks", 0.5) == pytest.approx(300 + 100 * 2 / 3)
    assert cost_to_reach(points, "clicks", 0.1) == 100
    assert cost_to_reach(points, "clicks", 0.7) is None
    assert cost_to_reach((), "clicks", 0.1) is None


# Figures


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 3026, [0, 1000, 2000, 3000, 4000]),
        (41.3, 47.9, [40, 42, 44, 46, 48]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.5, 0.5, [0.5, 0.51, 0.52, 0.53, 0.54, 0.55]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_points_lie_where_the_numbers_say() -> None:
    dots = (Dot(0, 10, 5, ""), Dot(50, 20, 5, ""), Dot(100, 30, 5, ""))
    svg = line_chart([Series("a", dots, 0)], "x", "y")
    curve_points = svg.partition('<polyline points="')[2].partition('"')[0].split()
    places = [tuple(map(float, place.split(","))) for place in curve_points]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 - y1 == pytest.approx(y1 - y2)
    assert x0 < x2
    assert y2 < y0  # up is more
    band = svg.partition('<polygon points="')[2].partition('"')[0].split()
    heights = [float(place.partition(",")[2]) for place in band]
    assert y0 == pytest.approx((heights[0] + heights[-1]) / 2, abs=0.02)
    assert line_chart([], "x", "y") == ""
    assert Scale(0, 10, 100, 0)(2.5) == 75


def test_markup_is_escaped_unless_it_is_markup_already() -> None:
    assert tag("b", "<i>", Html("<i></i>"), None, class_='"', data_x=None) == (
        '<b class="&quot;">&lt;i&gt;<i></i></b>'
    )
    assert tag("img", alt="") == '<img alt="">'
    assert join(["<", Html("<")]) == "&lt;<"


# Gallery


def with_pictures(folder: Path, number: int = 2) -> Results:
    for index in range(number):
        noise = np.random.default_rng(index).integers(0, 255, (300, 1200, 3), np.uint8)
        (folder / "gallery").mkdir(exist_ok=True)
        Image.fromarray(noise).save(folder / "gallery" / f"{index}.png")
    items = tuple(GalleryItem(i + 1, f"gallery/{i}.png", EVIL) for i in range(number))
    return some_results(runs=(a_run("pixbal", 0, [0.2], gallery=items),))


def test_pictures_are_embedded_small(tmp_path: Path) -> None:
    page = Page(report_html(with_pictures(tmp_path), tmp_path))
    pictures = [a for a in page.addresses if a.startswith("data:image/jpeg;base64,")]
    assert len(pictures) == 2
    data = base64.b64decode(pictures[0].partition(",")[2])
    (tmp_path / "0.jpg").write_bytes(data)
    with Image.open(tmp_path / "0.jpg") as picture:
        assert picture.size == (MAX_SIDE_PX, MAX_SIDE_PX // 4)
    assert "pixbal, seed 0, round 2" in page.text
    assert not {name for name in page.attributes if name.startswith("on")}


def test_pictures_over_the_cap_are_counted(tmp_path: Path) -> None:
    results = with_pictures(tmp_path, 3)
    one = len(base64.b64decode(Page(gallery(results, tmp_path).encode()).addresses[0][23:]))
    page = Page(gallery(results, tmp_path, max_bytes=one).encode())
    assert len(page.addresses) == 1
    assert "2 pictures are left out" in page.text


def test_pictures_that_are_missing_or_elsewhere(tmp_path: Path) -> None:
    results = with_pictures(tmp_path)
    (tmp_path / "gallery" / "1.png").write_bytes(b"text")
    with pytest.raises(ResultsError, match=r"lacks a picture: .*1\.png is not an image"):
        report_html(results, tmp_path)
    (tmp_path / "gallery" / "1.png").unlink()
    with pytest.raises(ResultsError, match=r"There is no image at .*1\.png"):
        report_html(results, tmp_path)
    outside = tmp_path.parent / f"{tmp_path.name}.png"
    Image.new("RGB", (2, 2)).save(outside)
    (tmp_path / "gallery" / "1.png").symlink_to(outside)
    with pytest.raises(ResultsError, match="lies outside"):
        report_html(results, tmp_path)


# docs/results.json and docs/results.md


def test_rows() -> None:
    rows = results_rows(some_results())
    assert [(r["method"], r["clicks"]) for r in rows] == [
        *(("pixbal", c) for c in (100, 200, 300)), *((EVIL, c) for c in (100, 200, 300)),
    ]  # fmt: skip
    assert all(tuple(row) == KEYS for row in rows)
    last = rows[2]
    assert (last["budget_share"], last["seeds"]) == (0.3, [0, 1])
    assert last["miou_mean"] == pytest.approx(0.65)
    assert last["share_of_full"] == pytest.approx(0.65 / 0.7)
    assert rows[3]["miou_std"] is None
    assert results_rows(some_results(full=None))[0]["share_of_full"] is None


def test_merging_replaces_the_same_experiment_only(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "results.json"
    first = some_results(experiment="b")
    merge_results(path, first)
    merge_results(path, some_results(experiment="a"))
    again = merge_results(path, some_results(experiment="b", runs=(a_run("new", 0, [0.9]),)))
    assert [(r["experiment"], r["method"]) for r in again] == [
        *[("a", "pixbal")] * 3, *[("a", EVIL)] * 3, ("b", "new"),
    ]  # fmt: skip
    assert read_rows(path) == again
    assert len(merge_results(path, some_results(experiment="b", size="full"))) == 13


@pytest.mark.parametrize("content", ["{", "{}", '[{"experiment": "a"}]'])
def test_a_list_that_is_none(content: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ResultsError, match=r"results\.json"):
        merge_results(path, some_results())
    assert path.read_text() == content


def test_markdown_tables() -> None:
    named = some_results(experiment="a|b", dataset="camvid", command="run `x`", machine="2 cores")
    lines = results_markdown(results_rows(named)).splitlines()
    assert lines[0] == r"### a\|b: camvid, size cpu"
    assert lines[2] == "`` run `x` `` at commit `abc`; 2 cores."
    assert lines[6] == "| pixbal | 100 | 10.00 % | 10 | 60 | 25.0 ± 7.1 | 35.7 % | 0, 1 |"
    assert lines[9].startswith(r"| \<img src=x onerror=alert(1)\>")
    assert all(line.count(" | ") == 7 for line in lines[6:12])
    # Means .25, .45, .65 of .70 at 100, 200, 300 clicks and 60, 120, 180 s; .63 lies at 9/10.
    assert lines[13] == "90% of full supervision: pixbal 290 clicks, 174 s.  "
    assert lines[14] == "95% of full supervision: not reached.  "
    without = results_markdown(results_rows(some_results(full=None)))
    assert "of full supervision:" not in without


def test_other_assumptions_about_annotators() -> None:
    """One method asks 10 questions for 100 clicks, the other a question for each click."""
    curves = {
        name: [_cost_point(100.0, per_100, low), _cost_point(200.0, 2 * per_100, high)]
        for name, per_100, low, high in (("multi", 10.0, 0.2, 0.4), ("single", 100.0, 0.3, 0.5))
    }
    text = str(cost_table(curves))
    # look .75, key .3: multi 46.5 and 93 s, single 195 and 390 s: no number of seconds is common.
    assert text == ""
    curves["multi"][1] = _cost_point(2000.0, 200.0, 0.4)
    # Now 930 s are reached by multi, 390 s by both: (390 - 46.5) / (930 - 46.5) of the way.
    text = str(cost_table(curves))
    assert f"{100 * (0.2 + 0.2 * (390 - 46.5) / (930 - 46.5)):.1f}" in text
    assert text.count("<tr") == 1 + 9
    assert str(cost_table({"multi": curves["multi"]})) == ""


def _cost_point(clicks: float, questions: float, miou: float) -> Point:
    return Point(1, (0,), clicks, questions, 0.0, miou, None, None, None, None, {})


def test_publishing_writes_both_files(tmp_path: Path) -> None:
    publish(tmp_path / "docs", some_results())
    assert len(read_rows(tmp_path / "docs" / "results.json")) == 6
    assert "pixbal 290 clicks" in (tmp_path / "docs" / "results.md").read_text()


def test_markdown_keeps_the_text_around(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    rows = results_rows(some_results())
    write_markdown(path, rows)
    once = path.read_text()
    path.write_text(f"Before.\n{once}After.\n")
    write_markdown(path, rows)
    assert path.read_text() == f"Before.\n{once}After.\n"
    assert results_markdown(rows) in once
    for broken in ("text", f"{END}\n{BEGIN}\n"):
        path.write_text(broken)
        with pytest.raises(ResultsError, match=r"results\.md lacks the lines"):
            write_markdown(path, rows)
        assert path.read_text() == broken


def test_results_json_is_readable_by_anyone(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", results_rows(some_results()))
    assert read_rows(tmp_path / "x.json") == results_rows(some_results())
