"""`pixbal classes`: what there is, and more at the end of the list."""

from __future__ import annotations

import click

from ml_backend import cli_common

project_option = click.option("--project", type=cli_common.ID, help="Label Studio project id.")


@click.group(epilog="Example: pixbal classes append Scooter,Tram")
def classes() -> None:
    """List the classes of a project, and append new ones."""


@classes.command("append", epilog="Example: pixbal classes append Scooter,Tram")
@click.argument("names", nargs=-1, required=True)
@click.option("--color", "colors", multiple=True, help="#rrggbb, one for each class in order.")
@project_option
def append(names: tuple[str, ...], colors: tuple[str, ...], project: int | None) -> None:
    """Append classes NAME[,NAME]; index, key and colour of the others stay as they are."""
    from ml_backend.classes import append_classes
    from ml_backend.errors import NotFound

    settings, store, ls = cli_common.open_all()
    row = store.project(cli_common.only_project(store, project))
    if row is None:
        raise NotFound(f"project {project} is unknown here")
    split = [name.strip() for text in names for name in text.split(",")]
    report = append_classes(settings, store, ls, row, split, [c.lower() for c in colors])
    for line in report.lines():
        click.echo(line)


@classes.command("list", epilog="Example: pixbal classes list")
@project_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def list_(project: int | None, as_json: bool) -> None:
    """List the classes with keys and colours, and when one was appended."""
    from label_config import ClassSchema

    _, store, _ = cli_common.open_all()
    row = store.project(cli_common.only_project(store, project))
    if row is None:
        return
    rows = [
        {"index": index, "name": c.name, "key": c.hotkey, "color": c.color,
         "appended": row.classes_added.get(c.name)}
        for index, c in enumerate(ClassSchema.from_json(row.schema_json).classes)
    ]  # fmt: skip
    if as_json:
        cli_common.echo_json(rows)
        return
    for entry in rows:
        since = f"  appended {entry['appended']}" if entry["appended"] else ""
        click.echo(
            f"{entry['index']:3}  {entry['key'] or '-'}  {entry['color']}  {entry['name']}{since}"
        )


COMMANDS = (classes,)
