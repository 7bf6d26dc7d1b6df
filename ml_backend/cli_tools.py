"""Commands beside a project: doctor, demo, bench."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ml_backend import cli_common


@click.command(epilog="Example: pixbal doctor")
@click.option("--project", type=cli_common.ID, help="Label Studio project id.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def doctor(project: int | None, as_json: bool) -> None:
    """Check every connection and setting against the live Label Studio, and say what to do."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape

    from ml_backend.doctor import examine

    settings, store, ls = cli_common.open_all()
    checks = (
        examine(settings, store, ls) if project is None else examine(settings, store, ls, project)
    )
    if as_json:
        cli_common.echo_json([asdict(check) for check in checks])
    else:
        console = Console()
        marks = {True: "[green]ok  [/]", False: "[red]FAIL[/]", None: "[yellow]?   [/]"}
        for check in checks:
            console.print(f"{marks[check.ok]} {escape(check.name)}: {escape(check.detail)}")
            if check.ok is not True and check.advice:
                console.print(f"       -> {escape(check.advice)}")
    sys.exit(1 if any(check.ok is False for check in checks) else 0)


@click.command(epilog="Example: pixbal demo --keep")
@click.option("--keep", is_flag=True, help="Leave everything running.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("demo-data"), show_default=True
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("demo.json"), show_default=True
)
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1, 20))
@click.option("--budget", default=250.0, show_default=True, help="Clicks per round.")
@click.option("--seed", default=0, show_default=True)
def demo(keep: bool, folder: Path, out: Path, rounds: int, budget: float, seed: int) -> None:
    """Play whole rounds in a real Label Studio with a simulated annotator."""
    from ml_backend.demo.run import DemoOptions, run_demo

    run_demo(DemoOptions(folder.resolve(), out.resolve(), rounds, budget, seed, keep))


@click.command(epilog="Example: pixbal bench --json bench.json")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write it all."
)
@click.option("--only", multiple=True, metavar="NAME", help="A group of rows; may be repeated.")
@click.option("--quick", is_flag=True, help="Small sizes, few repeats: does it run?")
def bench(json_path: Path | None, only: tuple[str, ...], quick: bool) -> None:
    """Measure the speed of every part beside plain baselines, on this machine."""
    from rich.console import Console

    from ml_backend.bench import GROUPS, ON_REQUEST
    from ml_backend.bench_view import progress_bar, table
    from training.bench import Options, find_data, run
    from training.bench_report import markdown
    from training.files import write_json

    names = only or tuple(GROUPS)
    with progress_bar(names) as on_row:
        report = run(names, Options(quick, find_data()), {**GROUPS, **ON_REQUEST}, on_row)
    if json_path is not None:
        write_json(json_path, report.to_json())
    console = Console()
    if console.is_terminal:
        console.print(table(report))
    else:
        click.echo(markdown(report))


COMMANDS = (doctor, demo, bench)
