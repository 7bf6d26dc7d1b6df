"""The command that plays whole experiments with a simulated annotator."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_backend import cli_common

if TYPE_CHECKING:
    from rich.console import Console

    from training.results import Results
    from training.simulate_config import Experiment


@click.command(epilog="Example: pixbal simulate --preset multi-vs-dominant --size cpu")
@click.option("--preset", help="A ready experiment; an unknown name lists them.")
@click.option("--config", type=click.Path(path_type=Path), help="An experiment as JSON instead.")
@click.option(
    "--size", default="cpu", show_default=True, help="cpu (minutes on two cores) or full (GPU)."
)
@click.option("--data", default="camvid", show_default=True, help="Data set, or scenes.")
@click.option("--root", type=click.Path(path_type=Path), help="Its folder [PIXBAL_DATA/DATA].")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--out", type=click.Path(path_type=Path), default=Path("simulations"),
              show_default=True, help="Results, and runs to go on with.")  # fmt: skip
@click.option("--lead-times", type=click.Path(path_type=Path),
              help="CSV or JSON of clicks and lead_time_s to take the seconds from.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Processes [one per core; GPU: one].")
@click.option("--publish", type=click.Path(path_type=Path, file_okay=False),
              help="Also put the figures into this folder's results.json and .md.")  # fmt: skip
@click.option("--print", "show", is_flag=True, help="Only print the experiment, for --config.")
def simulate(
    preset: str | None,
    config: Path | None,
    size: str,
    data: str,
    root: Path | None,
    seeds: int,
    out: Path,
    lead_times: Path | None,
    workers: int | None,
    publish: Path | None,
    show: bool,
) -> None:
    """Play whole experiments against masks: mIoU per click and per second, as a report."""
    from training.simulate_presets import preset_experiment

    if (preset is None) == (config is None):
        raise click.UsageError("Give either --preset NAME or --config FILE.json.")
    if preset is not None:
        place = str(root.resolve()) if root else _known_root(data)
        experiment = preset_experiment(
            preset, size, data=data, root=place, seeds=seeds, lead_times=lead_times
        )
    else:
        experiment = _from_file(Path(str(config)), root, lead_times)
    if show:
        cli_common.echo_json(experiment.to_json())
        return
    _simulate(experiment, out.resolve(), workers, publish)


def _simulate(experiment: Experiment, out: Path, workers: int | None, publish: Path | None) -> None:
    from rich.console import Console

    from training import result_rows
    from training.report import write_report
    from training.simulate import RESULTS, results_folder

    console = Console()
    results = _play(experiment, out, workers, console)
    folder = results_folder(experiment, out)
    report = folder / "report.html"
    write_report(folder / RESULTS, report)
    if publish is not None:
        result_rows.publish(publish, results)
    _summary(results, console)
    console.print(f"Report: {report}", soft_wrap=True)
    if any(run.status == "failed" for run in results.runs):
        console.print("Some runs failed; the same command tries them again where they stopped.")
        sys.exit(1)


def _known_root(data: str) -> str:
    """The folder of a data set below PIXBAL_DATA, or "" where that is not set."""
    folder = os.environ.get("PIXBAL_DATA")
    return str((Path(folder) / data).resolve()) if folder and data != "scenes" else ""


def _from_file(path: Path, root: Path | None, lead_times: Path | None) -> Experiment:
    from training.annotation_cost import fit_cost, read_lead_times
    from training.simulate_config import Experiment

    experiment = Experiment.load(path)
    folder = str(root.resolve()) if root else experiment.data.root
    data = replace(experiment.data, root=folder or _known_root(experiment.data.name))
    cost = fit_cost(read_lead_times(lead_times)) if lead_times else experiment.cost
    return replace(experiment, data=data, cost=cost)


def _play(experiment: Experiment, out: Path, workers: int | None, console: Console) -> Results:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from training.simulate import Origin, RunEvent, simulate

    runs = (len(experiment.methods) + experiment.full_supervision) * experiment.seeds
    shares: dict[str, float] = {}
    columns: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("preparing", total=None)

        def tick(what: str, step: int, steps: int) -> None:
            progress.update(bar, description=what, completed=step, total=steps)

        def watch(event: RunEvent) -> None:
            shares[event.title] = event.share
            progress.update(
                bar, description=f"{event.title}: {event.what}"[:70],
                completed=sum(shares.values()), total=runs,
            )  # fmt: skip
            if event.ended:
                console.print(f"{event.ended:>6}  {event.title}", highlight=False)
                if event.ended == "failed":
                    console.print(f"        {event.what}", markup=False)

        origin = Origin(shlex.join(["pixbal", *sys.argv[1:]]), _commit())
        return simulate(experiment, out, workers=workers, watch=watch, tick=tick, origin=origin)


def _commit() -> str:
    """The commit of this code, where it runs from a repository."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"


def _summary(results: Results, console: Console) -> None:
    """Mean and spread (n - 1) of mIoU over the seeds after the last round of each method."""
    from statistics import fmean

    from rich.table import Table

    table = Table("method", "clicks", "questions", "seconds", "mIoU", "share of full")
    full = fmean(results.full.miou) if results.full else None
    for method in results.methods:
        last = [run.rounds[-1] for run in results.runs_of(method) if run.rounds]
        if not last:
            continue
        mean = fmean(r.miou for r in last)
        table.add_row(
            method,
            *(f"{fmean(getattr(r, name) for r in last):.0f}"
              for name in ("clicks", "questions", "seconds")),
            with_spread([r.miou for r in last]),
            f"{mean / full:.1%}" if full else "-",
        )  # fmt: skip
    console.print(table)
    if results.full is not None:
        seeds = results.full.miou
        console.print(f"full supervision: {with_spread(seeds)}", highlight=False)


def with_spread(values: Sequence[float]) -> str:
    """Mean and, of several values, their standard deviation: one seed says nothing about it."""
    from statistics import fmean

    from training.result_curves import spread

    std = spread(values)
    return f"{fmean(values):.3f}" + ("" if std is None else f" ± {std:.3f}")


COMMANDS = (simulate,)
