"""`pixbal bench` on a terminal: what is measured now, and the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from training.bench_report import HEADER, Report, Row, cells, machine_lines

OnRow = Callable[[str, Row | None], None]


@contextmanager
def progress_bar(groups: Sequence[str]) -> Iterator[OnRow]:
    """Groups done of all, and the row found last; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=len(groups))

        def on_row(group: str, row: Row | None) -> None:
            what = "" if row is None else f": {row.what[:60]}"
            done = list(groups).index(group)
            bar.update(task, description=escape(f"{group}{what}"), completed=done)

        yield on_row
        bar.update(task, description="measured", completed=len(groups))


def table(report: Report) -> Table:
    """The rows by group; missed targets in red."""
    caption = "\n".join(line for line in machine_lines(report) if line)
    found = Table(*HEADER, caption=caption, caption_justify="left")
    colours = {True: "green", False: "bold red", None: ""}
    group = ""
    for row in report.rows:
        if row.group != group:
            group = row.group
            found.add_section()
            found.add_row(f"[bold]{escape(group)}[/]")
        *words, met = (escape(cell) for cell in cells(row))
        style = colours[row.met]
        found.add_row(*words, f"[{style}]{met.strip('*')}[/]" if style else met)
    return found
