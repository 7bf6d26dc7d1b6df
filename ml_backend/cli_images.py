"""`pixbal images`: what is labelled, and what measures the model, may change at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ml_backend import cli_common

if TYPE_CHECKING:
    from ml_backend.store import Project, Store

project_option = click.option("--project", type=cli_common.ID, help="Label Studio project id.")
json_option = click.option("--json", "as_json", is_flag=True, help="For scripts.")


@click.group(
    epilog="Examples: pixbal images add more/  |  pixbal images remove blurred.jpg  |  "
    "pixbal images heldout replace heldout/"
)
def images() -> None:
    """Add, list and remove images of a project, and those that measure the model."""


@images.command("add", epilog="Example: pixbal images add 'more/*.jpg'")
@click.argument("what", nargs=-1)
@click.option(
    "--from-project", type=cli_common.ID, help="The image tasks of this Label Studio project."
)
@project_option
def add(what: tuple[str, ...], from_project: int | None, project: int | None) -> None:
    """Add folders, globs or lists of images; removed ones come back with their answers."""
    from ml_backend.images import add_images
    from ml_backend.pool import import_lines

    if not what and from_project is None:
        raise click.UsageError("Give a folder, a glob or a list, or --from-project N.")
    settings, store, ls = cli_common.open_all()
    row = _row(store, project)
    with _bar() as progress:
        report = add_images(
            settings, store, ls, row, what, from_project=from_project, progress=progress
        )
    _echo([*import_lines(report), *_counts(store, row.id)])


@images.command("list", epilog="Example: pixbal images list --json")
@project_option
@json_option
def list_(project: int | None, as_json: bool) -> None:
    """List the images to label: id, size, regions, questions, state."""
    _show(project, "pool", as_json)


@images.command(
    "remove", epilog="Example: pixbal images remove blurred.jpg 4f1c0d2e6a7b8c9d0e1f2a3b"
)
@click.argument("names", nargs=-1, required=True)
@project_option
def remove(names: tuple[str, ...], project: int | None) -> None:
    """Remove images by name or id: no more questions; answers are kept and train no longer."""
    from ml_backend.images import find_images, remove_images

    _, store, ls = cli_common.open_all()
    row = _row(store, project)
    found = find_images(store, row.id, names, "pool")
    _echo([*remove_images(store, ls, row.id, found).lines(), *_counts(store, row.id)])


@images.group("heldout")
def heldout() -> None:
    """List, add, replace and remove the images that only measure the model."""


@heldout.command("list", epilog="Example: pixbal images heldout list")
@project_option
@json_option
def heldout_list(project: int | None, as_json: bool) -> None:
    """List the held-out images."""
    _show(project, "heldout", as_json)


@heldout.command("add", epilog="Example: pixbal images heldout add heldout/")
@click.argument("folder")
@project_option
def heldout_add(folder: str, project: int | None) -> None:
    """Add a folder of images/ and masks/, or take corrected files of it."""
    _heldout(folder, project, alone=False)


@heldout.command("replace", epilog="Example: pixbal images heldout replace heldout/")
@click.argument("folder")
@project_option
def heldout_replace(folder: str, project: int | None) -> None:
    """Replace all held-out images by those of a folder of images/ and masks/."""
    _heldout(folder, project, alone=True)


@heldout.command("remove", epilog="Example: pixbal images heldout remove --all")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@project_option
def heldout_remove(names: tuple[str, ...], everything: bool, project: int | None) -> None:
    """Remove held-out images by name or id."""
    from ml_backend.images import find_images, remove_heldout

    if bool(names) == everything:
        raise click.UsageError("Name held-out images, or give --all.")
    _, store, _ = cli_common.open_all()
    row = _row(store, project)
    found = (
        store.images(row.id, split="heldout", status="ready")
        if everything
        else find_images(store, row.id, names, "heldout")
    )
    removed = remove_heldout(store, found)
    _echo([f"{removed} held-out images removed", *_counts(store, row.id)])


def _heldout(folder: str, project: int | None, alone: bool) -> None:
    from ml_backend.images import add_heldout
    from ml_backend.pool import import_lines

    settings, store, ls = cli_common.open_all()
    row = _row(store, project)
    with _bar() as progress:
        report, gone = add_heldout(settings, store, ls, row, folder, alone=alone, progress=progress)
    lines = import_lines(report)
    if gone:
        lines.append(f"  {len(gone)} held out before are removed")
    _echo([*lines, *_counts(store, row.id)])


def _row(store: Store, project: int | None) -> Project:
    from ml_backend.errors import NotFound

    row = store.project(cli_common.only_project(store, project))
    if row is None:
        raise NotFound(f"project {project} is unknown here")
    return row


def _counts(store: Store, project_id: int) -> list[str]:
    pool = store.images(project_id, split="pool", status="ready")
    held = store.images(project_id, split="heldout", status="ready")
    return [
        f"{len(pool)} images to label, {len(held)} held out; this counts from the next questions "
        "and the next round on"
    ]


def _show(project: int | None, split: str, as_json: bool) -> None:
    from ml_backend.images import image_table

    _, store, _ = cli_common.open_all()
    rows = image_table(store, _row(store, project).id, split)
    if as_json:
        cli_common.echo_json(rows)
        return
    for row in rows:
        size = f"{row['width']}x{row['height']}"
        asked = f"{row['answered']}/{row['asked']} of {row['regions']} answered"
        more = f"  {asked}" if split == "pool" and row["status"] != "refused" else ""
        reason = f"  {row['reason']}" if row["reason"] else ""
        click.echo(f"{row['id']}  {row['status']:8}  {size:>11}{more}  {row['name']}{reason}")
    if not rows:
        click.echo("none")


def _bar() -> Any:
    from contextlib import contextmanager

    @contextmanager
    def shown() -> Any:
        from rich.progress import Progress

        with Progress(transient=True) as bar:
            task = bar.add_task("Reading images", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    return shown()


def _echo(lines: list[str]) -> None:
    for line in lines:
        click.echo(line)


COMMANDS = (images,)
