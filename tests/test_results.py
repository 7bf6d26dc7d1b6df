"""Results of experiments on disk: read back exactly, or refused with the place of the fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.results import FullSupervision, GalleryItem, Results, ResultsError, Round, Run


def a_round(number: int = 0, clicks: int = 10, miou: float = 0.5, **fields: Any) -> Round:
    return Round(number, clicks, clicks // 2, clicks * 1.5, miou, {"sky": miou, "<b>": None},
                 **fields)  # fmt: skip


def a_run(method: str = "pixbal", seed: int = 0, **fields: Any) -> Run:
    rounds = (a_round(), a_round(1, 20, 0.6, pseudo_accuracy=0.7))
    return Run(method, seed, **{"status": "done", "rounds": rounds, **fields})


def some_results(**fields: Any) -> Results:
    return Results(**{
        "experiment": "acquisitions", "dataset": "camvid", "size": "cpu", "command": "simulate",
        "commit": "abc", "machine": "two cores", "pool_regions": 100, "classes": ("sky", "<b>"),
        "full": FullSupervision((0.8, 0.7), {"sky": 0.75}), "notes": ("reduced images",),
        "runs": (a_run(), a_run("random", 1, status="failed", error="out of memory", rounds=()),
                 a_run(seed=2, gallery=(GalleryItem(1, "gallery/1.png", "before"),))),
        **fields,
    })  # fmt: skip


def test_saving_and_loading_is_the_identity(tmp_path: Path) -> None:
    results = some_results()
    results.save(tmp_path / "new" / "results.json")
    assert Results.load(tmp_path / "new" / "results.json") == results
    assert Results.from_json(some_results(full=None).to_json()).full is None


def test_methods_keep_their_order_and_failed_runs_do_not_count() -> None:
    results = some_results()
    assert results.methods == ("pixbal", "random")
    assert [run.seed for run in results.runs_of("pixbal")] == [0, 2]
    assert results.runs_of("random") == ()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("runs", 0, "rounds", 1, "miou"), 61.0, r"runs\[0\] rounds\[1\] miou must lie in 0\.\.1"),
        (("runs", 0, "rounds", 0, "clicks"), 1.5, "clicks must be a whole number"),
        (("runs", 0, "rounds", 0, "clicks"), 30, "clicks 20 follows round 0 with 30"),
        (("runs", 0, "rounds", 1, "round"), 0, "round 0 with clicks 20 follows round 0"),
        (("runs", 0, "rounds", 0, "seconds"), float("nan"), "seconds must lie"),
        (("runs", 0, "rounds", 0, "per_class"), {"tree": 0.1}, r"the classes \['tree'\]"),
        (("runs", 0, "rounds", 0, "per_class"), [0.1], "per_class must map"),
        (("runs", 0, "rounds"), [], "is done with 0 rounds"),
        (("runs", 0, "status"), "running", "status must be"),
        (("runs", 0, "seed"), 2, r"runs hold \[\('pixbal', 2\)\] more than once"),
        (("runs", 1, "error"), None, "failed without an error"),
        (("runs", 2, "gallery", 0, "image"), "../secret.png", "not below the results"),
        (("runs", 2, "gallery", 0, "image"), "http://x/y.png", "not below the results"),
        (("runs", 0, "colour"), 1, r"holds the unknown \['colour'\]"),
        (("runs",), {}, "runs: expected a list, got dict"),
        (("classes",), [], "known are"),
        (("size",), "huge", "size must be one of cpu, full"),
        (("pool_regions",), 0, "pool_regions must be a whole number >= 1"),
        (("full", "miou"), [], r"Full supervision has mIoU \[\]"),
        (("command",), " ", "command must be a text"),
    ],
)
def test_faults_are_named(path: tuple[Any, ...], value: Any, message: str) -> None:
    raw = some_results().to_json()
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ResultsError, match=message):
        Results.from_json(raw)


def test_files_that_are_no_results(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(ResultsError, match="There are no results at"):
        Results.load(path)
    path.write_text("{")
    with pytest.raises(ResultsError, match=r"results\.json cannot be read as JSON"):
        Results.load(path)
    raw = some_results().to_json()
    del raw["experiment"]
    path.write_text(json.dumps(raw))
    with pytest.raises(ResultsError, match=r"results\.json: Results lacks \['experiment'\]"):
        Results.load(path)
