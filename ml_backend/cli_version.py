"""`pixbal version list` and `pixbal version activate`: which model version is in use."""

from __future__ import annotations

import click

from ml_backend import cli_common

project_option = click.option("--project", type=cli_common.ID, help="Label Studio project id.")


@click.group(epilog="Examples: pixbal version list  |  pixbal version activate p4-r2 --project 4")
def version() -> None:
    """List the model versions, or put an older or newer one in use."""


@version.command("list", epilog="Example: pixbal version list --project 4")
@project_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def list_versions(project: int | None, as_json: bool) -> None:
    """Every version with its mIoU, and which one is in use."""
    from rich.console import Console
    from rich.table import Table

    from ml_backend.dashboard.view import percent, score
    from ml_backend.version_use import version_warning

    _, store, _ = cli_common.open_all()
    project_id = cli_common.only_project(store, project)
    row = store.project(project_id)
    rows = store.versions(project_id)
    in_use = None if row is None else row.current_version
    if as_json:
        cli_common.echo_json([
            {"version": v.name, "round": v.round, "miou": score(v), "in_use": v.name == in_use,
             "published": v.created_at}
            for v in rows
        ])  # fmt: skip
        return
    if not rows:
        click.echo("no version yet; one appears when a round is done")
        return
    table = Table("version", "round", "mIoU, %", "published", "")
    for item in rows:
        made = item.created_at.strftime("%Y-%m-%d %H:%M UTC")
        mark = "in use" if item.name == in_use else ""
        table.add_row(item.name, str(item.round), percent(score(item)) or "-", made, mark)
    Console().print(table)
    said = None if row is None else version_warning(store, row)
    if said:
        click.echo(said)


@version.command(epilog="Example: pixbal version activate p4-r2 --project 4")
@click.argument("name")
@project_option
def activate(name: str, project: int | None) -> None:
    """Put a version in use: open questions get its scores and ticks; a round ends this."""
    from ml_backend import version_use

    _, store, _ = cli_common.open_all()
    click.echo(version_use.activate(store, cli_common.only_project(store, project), name))


COMMANDS = (version,)
