"""Whole tiny experiments: every kind of question, resumed, failed, repeated."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from simulate_helpers import TINY, tiny_experiment, tiny_method, tiny_scenes

from ml_backend.cli import main
from training import simulate_run
from training.errors import NonFiniteError, TrainingError
from training.oracle_noise import OracleNoise
from training.results import Results
from training.rounds import run_round
from training.simulate import RESULTS, Origin, budgets_in_clicks, results_folder, simulate
from training.simulate_config import Experiment
from training.simulate_pool import RunEvent
from training.simulate_presets import preset_experiment


class Stop(BaseException):
    """As Ctrl+C: no failure of a run, an end of the sweep."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def rounds_trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that rounds were trained in, and were not whole before."""
    trained: list[str] = []

    def counted(snapshot: Path, config: Any, out: Path, **options: Any) -> Any:
        if not out.exists():
            trained.append(out.parent.name)
        return run_round(snapshot, config, out, **options)

    monkeypatch.setattr(simulate_run, "run_round", counted)
    return trained


EVERY_QUERY = (
    tiny_method(),
    tiny_method("dominant", query="dominant", stages=1),
    tiny_method("mask", query="mask", stages=1, acquisition="random"),
    tiny_method("pixels", query="pixels", stages=1, acquisition="class_balanced_random"),
)


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Results, Path]:
    """Four methods and full supervision, played once."""
    experiment = tiny_experiment(
        root, methods=EVERY_QUERY, full_supervision=True, gallery_images=1, notes=("a note",)
    )
    out = tmp_path_factory.mktemp("whole")
    return experiment, simulate(experiment, out, workers=1, origin=Origin("the command", "c0")), out


def test_every_method_is_played_to_its_budgets(whole: tuple[Experiment, Results, Path]) -> None:
    experiment, results, _ = whole
    assert results.methods == ("paper", "dominant", "mask", "pixels")
    assert (results.command, results.commit, results.notes[0]) == ("the command", "c0", "a note")
    assert results.pool_regions == 4 * 24
    for run in results.runs:
        assert (run.status, len(run.rounds)) == ("done", 2)
        for budget, point in zip(experiment.budgets, run.rounds, strict=True):
            # Up to the region that passes the budget; no region here costs more than 12 clicks.
            assert budget < point.clicks <= budget + 12
            assert point.seconds == pytest.approx(
                experiment.cost.seconds(point.questions, point.clicks), abs=0.1
            )
    one_click = [run for run in results.runs if run.method in ("dominant", "pixels")]
    assert all(point.clicks == point.questions for run in one_click for point in run.rounds)
    assert results.full is not None
    assert len(results.full.miou) == 1


def test_pseudo_labels_only_where_there_is_a_second_stage(
    whole: tuple[Experiment, Results, Path],
) -> None:
    for run in whole[1].runs:
        for point in run.rounds:
            assert (point.pseudo_accuracy is not None) == (run.method == "paper")
            assert run.method == "paper" or point.miou == point.stage1_miou


def test_results_and_pictures_lie_together(whole: tuple[Experiment, Results, Path]) -> None:
    experiment, results, out = whole
    folder = results_folder(experiment, out)
    assert Results.load(folder / RESULTS) == results
    shown = [item for run in results.runs for item in run.gallery]
    assert len(shown) == 8  # one per method and round
    assert all((folder / item.image).is_file() for item in shown)


def test_weights_are_removed_at_the_end(whole: tuple[Experiment, Results, Path]) -> None:
    assert not list(whole[2].rglob("*.safetensors"))


def test_nothing_is_done_twice(
    whole: tuple[Experiment, Results, Path], rounds_trained: list[str]
) -> None:
    experiment, results, out = whole
    events: list[RunEvent] = []
    # Costs and names are no part of what was computed.
    cheaper = replace(experiment, name="other", cost=replace(experiment.cost, look_s=0.0))
    again = simulate(cheaper, out, workers=1, watch=events.append)
    assert rounds_trained == []
    assert {event.ended for event in events} == {"cached"}
    assert again.runs[0].rounds[0].miou == results.runs[0].rounds[0].miou
    assert again.runs[0].rounds[0].seconds < results.runs[0].rounds[0].seconds


def test_a_damaged_record_is_made_again_from_its_rounds(
    root: Path, tmp_path: Path, rounds_trained: list[str]
) -> None:
    experiment = tiny_experiment(root)
    expected = simulate(experiment, tmp_path, workers=1)
    (record,) = (tmp_path / "runs").glob("*/run.json")
    record.write_text(record.read_text()[:-9])
    rounds_trained.clear()
    assert simulate(experiment, tmp_path, workers=1) == expected
    assert rounds_trained == []


def test_same_seed_same_results(root: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(root, seeds=2, budgets=(8.0,))
    one, two = (simulate(experiment, tmp_path / n, workers=1) for n in ("one", "two"))
    assert one == two
    assert one.runs[0].rounds[0].miou != one.runs[1].rounds[0].miou


def test_first_rounds_are_shared_between_acquisitions(
    root: Path, tmp_path: Path, rounds_trained: list[str]
) -> None:
    methods = tuple(tiny_method(name, acquisition=name, stages=1) for name in ("pixbal", "bvsb"))
    results = simulate(tiny_experiment(root, methods=methods), tmp_path, workers=1)
    assert len(rounds_trained) == 3
    first = [run.rounds[0] for run in results.runs]
    assert first[0] == first[1]


@pytest.mark.parametrize("stop_at", [3, 8])
def test_interrupted_runs_go_on(
    root: Path, tmp_path: Path, rounds_trained: list[str], stop_at: int
) -> None:
    experiment = tiny_experiment(root, budgets=(8.0, 16.0, 24.0))
    expected = simulate(experiment, tmp_path / "whole", workers=1)
    assert len(rounds_trained) == 3
    rounds_trained.clear()
    stages = stop_after_stages(stop_at)
    with pytest.raises(Stop):
        simulate(experiment, tmp_path / "cut", workers=1, watch=stages)
    assert simulate(experiment, tmp_path / "cut", workers=1) == expected
    # At most the round that was cut short is called again; those before it are not.
    assert len(rounds_trained) in (3, 4)


def stop_after_stages(number: int) -> Callable[[RunEvent], None]:
    """Raise Stop when a run says for the n-th time that it does something else."""
    seen: list[str] = []

    def watch(event: RunEvent) -> None:
        if not seen or seen[-1] != event.what:
            seen.append(event.what)
        if len(seen) > number:
            raise Stop

    return watch


def test_a_failed_run_is_kept_and_resumed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = (tiny_method(), tiny_method("dominant", query="dominant", stages=1))
    experiment = tiny_experiment(root, methods=methods)

    def broken(snapshot: Path, config: Any, out: Path, **options: Any) -> Any:
        if out.parent.name == "round-2" and config.stages == 2:
            raise NonFiniteError("The loss became nan.", hint="Lower stage1.lr.")
        return run_round(snapshot, config, out, **options)

    monkeypatch.setattr(simulate_run, "run_round", broken)
    events: list[RunEvent] = []
    results = simulate(experiment, tmp_path, workers=1, watch=events.append)
    failed, done = results.runs
    assert (failed.status, len(failed.rounds), done.status) == ("failed", 1, "done")
    assert failed.error == "The loss became nan. Lower stage1.lr."
    assert any("paper, seed 0: The loss became nan" in note for note in results.notes)
    assert [event.ended for event in events if event.ended] == ["failed", "done"]

    monkeypatch.setattr(simulate_run, "run_round", run_round)
    mended = simulate(experiment, tmp_path, workers=1)
    assert [run.status for run in mended.runs] == ["done", "done"]
    assert mended.runs[0].rounds[0] == failed.rounds[0]


def test_a_pool_that_runs_dry_ends_the_curve(root: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(
        root, budgets=(1000.0, 2000.0),
        methods=(tiny_method(query="dominant", stages=1, side_px=32),),
    )  # fmt: skip
    (run,) = simulate(experiment, tmp_path, workers=1).runs
    assert [point.questions for point in run.rounds] == [4 * 6]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"missed": 0.0}, False),
        ({"missed": 1.0}, True),
    ],
)
def test_noise_changes_the_answers(
    root: Path, tmp_path: Path, changes: dict[str, float], differs: bool
) -> None:
    methods = (tiny_method("a"), tiny_method("b", noise=OracleNoise(**changes)))
    experiment = tiny_experiment(root, methods=methods, budgets=(40.0,))
    a, b = simulate(experiment, tmp_path, workers=1).runs
    assert (a.rounds != b.rounds) == differs
    if differs:  # one class per region is left: more questions for the same clicks
        assert b.rounds[0].questions > a.rounds[0].questions


def test_shares_are_of_the_regions_of_the_first_method(root: Path) -> None:
    experiment = tiny_experiment(root, budgets=(0.02, 0.5), budget_unit="share")
    assert budgets_in_clicks(experiment, 96) == (2, 48)
    assert budgets_in_clicks(replace(experiment, budget_unit="clicks"), 96) == (1, 1)


def test_one_simulation_at_a_time(root: Path, tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="Another process simulates"):
            simulate(tiny_experiment(root), tmp_path, workers=1)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(root: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(root, seeds=2)
    one = simulate(experiment, tmp_path / "one", workers=1)
    events: list[RunEvent] = []
    two = simulate(experiment, tmp_path / "two", workers=2, watch=events.append)
    assert one == two
    assert [event.ended for event in events].count("done") == 2


@pytest.mark.slow
def test_a_sweep_that_is_cut_short_stops_its_processes(root: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(root, seeds=3, budgets=tuple(8.0 * n for n in range(1, 9)))

    def cut(event: RunEvent) -> None:
        if "round 2" in event.what:
            raise Stop

    with pytest.raises(Stop):
        simulate(experiment, tmp_path, workers=2, watch=cut)
    assert not list((tmp_path / "runs").glob("*/run.json"))
    assert not multiprocessing.active_children()


def test_command_writes_a_report(root: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(root, budgets=(8.0,), full_supervision=True, overrides=TINY)
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(experiment.to_json()))
    out = tmp_path / "out"
    arguments = ["simulate", "--config", str(config), "--out", str(out), "--workers", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "done  paper, seed 0" in result.output
    assert (out / "tiny-camvid-cpu" / "report.html").is_file()
    assert Results.load(out / "tiny-camvid-cpu" / RESULTS).command.startswith("pixbal")


def test_a_preset_is_printed_to_be_edited(tmp_path: Path) -> None:
    arguments = ["simulate", "--preset", "noise", "--root", str(tmp_path), "--print"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    expected = preset_experiment("noise", root=str(tmp_path.resolve()))
    assert Experiment.from_json(json.loads(result.output)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give either --preset NAME or --config"),
        (("--preset", "nonsense"), "no preset 'nonsense'"),
        (("--preset", "stages", "--data", "mnist", "--root", "."), "no data set 'mnist'"),
        (("--config", "nothing.json"), "nothing.json cannot be read"),
    ],
)
def test_wrong_calls_are_named(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(main, ["simulate", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code != 0
    assert message in result.output
