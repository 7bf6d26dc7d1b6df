"""`pixbal bench` says everything it promises; how fast anything is, is not a test's business."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from ml_backend.bench import GROUPS, backend_rows
from ml_backend.cli import main
from ml_backend.store import Store
from training.bench import Options, run
from training.bench_core import BenchSize
from training.bench_memory import memory_row
from training.bench_report import (
    Report,
    Row,
    absent,
    cells,
    describe_machine,
    markdown,
    measured,
    number,
    timed,
)
from training.bench_timing import Stopwatch, Times, medians, take_turns
from training.bench_training import _bench_folder, count_calls, gpu_rows, small
from training.config import CONFIGS, AugmentConfig
from training.errors import ConfigError, DataError

NAMES = ("superpixels", "core", "training_step", "data_path", "scoring", "service")


@pytest.fixture(scope="module")
def report() -> Report:
    return run(options=Options(quick=True), groups=GROUPS)


def test_a_quick_run_fills_every_row(report: Report) -> None:
    assert tuple(dict.fromkeys(row.group for row in report.rows)) == NAMES
    for row in report.rows:
        assert row.what
        if row.value is None:
            assert "pixbal bench --only" in row.note
            continue
        numbers = [v for v in asdict(row).values() if isinstance(v, float)]
        assert all(math.isfinite(v) and v >= 0 for v in numbers), row
        assert (row.baseline is None) == (row.ratio is None)
        assert (row.target, row.met) == ("", None)  # small sizes are not judged
    assert report.options == {"quick": True, "repeats": 3}


def test_network_passes_and_reads_are_counted(report: Report) -> None:
    found = {row.what: row.value for row in report.rows}
    assert found["network passes per image"] == 1
    assert found["image and region map read, times per image in three epochs"] == 1


def test_json_and_back_is_the_same_report(report: Report) -> None:
    assert Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report
    assert set(report.to_json()["rows"][0]) == {field.name for field in fields(Row)}


@pytest.mark.parametrize("values", [None, [], {}, {"rows": [{"speed": 1}]}, {"rows": 3}])
def test_other_json_is_no_report(values: object) -> None:
    with pytest.raises(DataError, match="no result of a benchmark"):
        Report.from_json(values)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        run(["core", "warp"], groups=GROUPS)
    assert "'warp'" in str(caught.value)
    assert all(name in caught.value.hint for name in NAMES)


def test_the_command_writes_json_and_prints_markdown(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    words = ["bench", "--quick", "--only", "scoring", "--only", "scoring", "--json", str(out)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    found = Report.from_json(json.loads(out.read_text()))
    assert [row.group for row in found.rows] == ["scoring", "scoring"]
    assert markdown(found) in result.stdout
    refused = CliRunner().invoke(main, ["bench", "--only", "warp"])
    assert refused.exit_code == 1
    assert "Known: superpixels, core" in refused.output


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert len(machine["load"]) == 3
    assert machine["versions"]["torch"] == torch.__version__.split("+")[0]
    assert machine["versions"]["numpy"] == np.__version__


# Rows


def test_ratio_and_target_are_judged_by_cpu_time_of_one_thread() -> None:
    ours, plain = Times(90.0, 30.0), Times(20.0, 20.0)
    row = timed("g", "w", ours, plain, most_ratio=1.5)
    assert (row.ratio, row.met, row.target) == (1.5, True, "at most 1.5x")
    assert (row.value, row.cpu, row.baseline, row.cpu_baseline) == (90.0, 30.0, 20.0, 20.0)
    wall = timed("g", "w", ours, plain, most_ratio=1.5, one_thread=False)
    assert (wall.ratio, wall.met, wall.cpu, wall.cpu_baseline) == (4.5, False, None, None)
    assert timed("g", "w", ours, most_ms=29.0).met is False
    assert timed("g", "w", ours).met is None


def test_a_number_is_judged_from_either_side() -> None:
    assert measured("g", "w", 1.5, "GB", most=1.5).met is True
    assert measured("g", "w", 1.6, "GB", most=1.5).met is False
    assert measured("g", "w", 269.0, "images/s", least=270.0).met is False
    assert measured("g", "w", 269.0, "images/s").met is None


def test_missed_targets_and_absent_rows_stay_in_the_table() -> None:
    rows = (
        timed("a", "slow", Times(4000.0, 3000.0), Times(1.0, 1.0), most_ratio=2.0),
        absent("b", "elsewhere", "ms", "no GPU here", "at most 1 ms"),
    )
    machine = {**describe_machine(), "commit": "abc"}
    text = markdown(Report(machine, {"quick": False, "repeats": 20}, rows))
    assert "| slow | 4,000 ms | 3,000 | 1 | 3,000x | at most 2x | **missed** |" in text
    assert "| elsewhere (no GPU here) | - |  |  |  | at most 1 ms |  |" in text
    assert "commit `abc`" in text
    assert cells(replace(rows[0], met=True))[-1] == "yes"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0.0123, "0.0123"), (3.14159, "3.14"), (99.96, "100"),
                         (1234.5, "1,234")],
)  # fmt: skip
def test_numbers_are_short(value: float | None, shown: str) -> None:
    assert number(value) == shown


# Clocks


def test_functions_take_turns_and_the_first_turn_does_not_count() -> None:
    calls: list[str] = []
    found = take_turns([lambda: calls.append("a"), lambda: calls.append("b")], 2)
    assert calls == ["a", "b"] * 3
    assert len(found) == 2


def test_each_clock_has_its_own_median() -> None:
    assert medians([Times(1.0, 9.0), Times(2.0, 8.0), Times(3.0, 1.0)]) == Times(2.0, 8.0)


def test_a_stopwatch_reads_both_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", iter([1.0, 1.5]).__next__)
    monkeypatch.setattr("time.process_time", iter([7.0, 7.125]).__next__)
    with Stopwatch() as watch:
        pass
    assert watch.times == Times(500.0, 125.0)


def test_calls_are_counted_wherever_the_module_was_made() -> None:
    with count_calls((nn.ReLU,)) as calls:
        nn.Sequential(nn.ReLU(), nn.Identity(), nn.ReLU())(torch.zeros(1))
    nn.ReLU()(torch.zeros(1))
    assert calls == {nn.ReLU: 2}


def test_memory_grows_with_the_inputs() -> None:
    size = BenchSize(256, 256, 4, features=64, selected=4)
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process is known on Linux only")
    row = memory_row(size)
    assert row.value is not None
    assert 4 * 256 * 256 * 64 / 1e9 < row.value < 1.0


# Parts that need more than this machine may have


def test_the_rows_of_a_gpu_can_be_made_by_any_device() -> None:
    config = small(CONFIGS["cpu"])
    model = replace(config.model, frozen_encoder=False, short_side=None)
    config = replace(config, model=model, augment=AugmentConfig(crop=(32, 32)))
    config = replace(config, stage1=replace(config.stage1, steps_per_epoch=3), precision="bf16")
    with _bench_folder(quick=True) as (folder, snapshot):
        rate, peak, share = gpu_rows(snapshot, config, 2, "cpu", folder)
    assert (rate.unit, peak.unit, share.unit) == ("images/s", "%", "%")
    assert all(math.isfinite(row.value or math.nan) for row in (rate, peak, share))
    assert 0 < (share.value or 0) < 100
    assert share.target == "at most 15 %"


def test_the_backend_of_the_bench_stores_what_it_acknowledges(tmp_path: Path) -> None:
    rows = list(backend_rows(tmp_path, 9))
    assert [row.what.split(",")[0] for row in rows[::2]] == [
        "GET /health", "POST /setup", "POST /webhook",
    ]  # fmt: skip
    with Store.open(f"sqlite:///{tmp_path}/pixbal.db") as store:
        found = [e.payload["annotation"]["id"] for e in store.pending_events()]
    assert sorted(found) == list(range(1, 10))
