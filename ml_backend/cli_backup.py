"""Commands that keep and bring back: backup, restore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_backend import cli_common

if TYPE_CHECKING:
    from ml_backend.backup import Progress

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog="Example: pixbal backup pixbal-monday.zip")
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Write over a file that exists.")
def backup(file: Path, force: bool) -> None:
    """Save database, images, regions, snapshots, versions and scores while all goes on.

    Secrets are not saved: keep secrets.env of PIXBAL_HOME elsewhere.
    """
    from ml_backend.backup import make_backup

    settings = cli_common.load_settings()
    with _progress() as progress:
        found = make_backup(settings, file, force=force, progress=progress)
    size = f"{found.size / 1e6:.1f} MB"
    click.echo(f"{found.path}: {found.rows} rows, {found.files} files, {size}")
    click.echo("Secrets are not in it: keep a copy of secrets.env elsewhere.")
    for name in found.missing:
        click.echo(f"missing, so not saved: {name}", err=True)


@click.command(epilog="Example: pixbal restore pixbal-monday.zip")
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Replace what is there; files are set aside.")
def restore(file: Path, force: bool) -> None:
    """Put a backup into PIXBAL_HOME and PIXBAL_DATABASE_URL; stop worker and backend before."""
    from ml_backend.backup_restore import restore_backup

    settings = cli_common.load_settings()
    with _progress() as progress:
        found = restore_backup(settings, file, force=force, progress=progress)
    click.echo(f"restored {found.rows} rows and {found.files} files of {found.made_at}")
    if found.set_aside is not None:
        click.echo(f"files that were there before: {found.set_aside}")
    click.echo("Next: pixbal doctor")


@contextmanager
def _progress() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    tasks: dict[str, TaskID] = {}
    with Bars(console=Console(stderr=True), transient=True) as bars:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


COMMANDS = (backup, restore)
