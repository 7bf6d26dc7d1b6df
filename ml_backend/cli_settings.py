"""`pixbal project ...`: see and change a project's settings, pause it, put it away, forget it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_backend import cli_common

if TYPE_CHECKING:
    from ml_backend.forget import ForgetPlan
    from ml_backend.settings import Settings

project_option = click.option("--project", type=cli_common.ID, help="Label Studio project id.")


@click.group(epilog="Example: pixbal project set --project 3 --budget 300 --set stage1.lr=1e-4")
def project() -> None:
    """Settings and life of a project: show, set, pause, resume, archive, forget."""


@project.command(epilog="Example: pixbal project show --project 3")
@project_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def show(project: int | None, as_json: bool) -> None:
    """Show every setting: its value, and when a change takes effect, or why there is none."""
    from ml_backend.change_project import region_project
    from ml_backend.project_settings import (
        SETTINGS,
        TRAINING_WHEN,
        fixed_settings,
        training_shown,
    )

    _, store, _ = cli_common.open_all()
    row = region_project(store, cli_common.only_project(store, project))
    preset, changed = training_shown(row)
    fixed = fixed_settings(row)
    if as_json:
        values: dict[str, Any] = {name: setting.shown(row) for name, setting in SETTINGS.items()}
        values |= {f.name: f.value for f in fixed}
        values |= {"state": row.state, "trouble": row.trouble, "train_config": row.train_config}
        cli_common.echo_json({"project": row.id, **values})
        return
    click.echo(f"project {row.id}: {row.title} ({row.state})")
    if row.trouble:
        click.echo(f"  trouble: {row.trouble}")
    click.echo("\nChanged by `pixbal project set`:")
    for setting in SETTINGS.values():
        _echo_setting(f"--{setting.name} {setting.shown(row)}", setting.help, setting.when)
    _echo_setting(f"--config {preset}", "a preset, or a JSON file", TRAINING_WHEN)
    for text in changed:
        click.echo(f"  --set {text}")
    click.echo("\nFixed:")
    for item in fixed:
        _echo_setting(f"{item.name}: {item.value}", item.why)


def _echo_setting(head: str, *lines: str) -> None:
    click.echo(f"  {head}")
    for line in lines:
        click.echo(click.wrap_text(line, 79, "      ", "      "))


@project.command("set", epilog="Examples: pixbal project set --budget 300 --train-every 50  |  "
                 "pixbal project set --config gpu --set stage1.lr=1e-4")  # fmt: skip
@project_option
@click.option("--title", help="Title, also in Label Studio.")
@click.option("--budget", help="Clicks of a batch.")
@click.option("--train-every", help="Also train after this many new labels; batch: never before.")
@click.option("--per-image", help="Most questions about one image in a batch; 0: no limit; auto.")
@click.option("--preticks", help="Ticks in advance: auto, always or never.")
@click.option("--smallest-share", help="A class under this share of the outline is left out.")
@click.option("--config", help="Training preset, or a JSON file.")
@click.option("--set", "overrides", multiple=True, help="Override, such as stage1.lr=1e-4.")
def set_(
    project: int | None, config: str | None, overrides: tuple[str, ...], **options: str | None
) -> None:
    """Change settings. All of them are checked before any is written."""
    from ml_backend.change_project import change_project
    from training.model_check import check_model

    wanted = {name.replace("_", "-"): text for name, text in options.items() if text is not None}
    if not (wanted or config or overrides):
        raise click.UsageError("Nothing to set; `pixbal project show` lists the settings.")
    settings, store, ls = cli_common.open_all()
    number = cli_common.only_project(store, project)
    for line in change_project(
        settings, store, lambda: ls, number, wanted,
        config=config, overrides=overrides, check_model=check_model,
    ):  # fmt: skip
        click.echo(line)


@project.command(epilog="Example: pixbal project pause --project 3")
@project_option
def pause(project: int | None) -> None:
    """Start no training and push nothing until `resume`; answers are taken in meanwhile."""
    from ml_backend import project_states

    _, store, _ = cli_common.open_all()
    click.echo(project_states.pause(store, cli_common.only_project(store, project)))


@project.command(epilog="Example: pixbal project resume --project 3")
@project_option
def resume(project: int | None) -> None:
    """Go on with a paused or archived project."""
    from ml_backend import project_states

    _, store, _ = cli_common.open_all()
    click.echo(project_states.resume(store, cli_common.only_project(store, project)))


@project.command(epilog="Example: pixbal project archive --project 3")
@project_option
def archive(project: int | None) -> None:
    """Pause, and hide from `pixbal status` and the admin's page; nothing is deleted."""
    from ml_backend import project_states

    _, store, _ = cli_common.open_all()
    click.echo(project_states.archive(store, cli_common.only_project(store, project)))


@project.command(epilog="Example: pixbal project forget --project 3 --backup before.zip")
@click.option(
    "--project", type=cli_common.ID, required=True, help="Its id; also one gone in Label Studio."
)
@click.option("--yes", is_flag=True, help="For scripts: do not ask.")
@click.option(
    "--backup", "archive_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Back everything up to this file first.",
)  # fmt: skip
def forget(project: int, yes: bool, archive_file: Path | None) -> None:
    """Remove all that PixBal keeps of a project. Label Studio keeps its project and its answers."""
    from ml_backend import forget as forgetting

    settings, store, ls = cli_common.open_all()
    plan = forgetting.plan_forgetting(settings, store, project)
    _tell(plan)
    title = plan.project.title
    if not yes:
        click.confirm("Forget it?", abort=True)
        if archive_file is None and click.confirm("Make a backup first?", default=True):
            archive_file = Path(click.prompt("File of the backup"))
    if archive_file is not None:
        _back_up(settings, archive_file)
    if not yes:
        title = click.prompt("Type the title of the project to forget it")
    for line in forgetting.forget(settings, store, lambda: ls, project, title):
        click.echo(line)


def _tell(plan: ForgetPlan) -> None:
    click.echo(f"project {plan.project.id}: {plan.project.title}")
    for head, lines in (("deleted:", plan.deleted()), ("kept:", plan.kept())):
        click.echo(head)
        for line in lines:
            click.echo(click.wrap_text(line, 79, "  - ", "    "))


def _back_up(settings: Settings, file: Path) -> None:
    from ml_backend.backup import make_backup
    from ml_backend.errors import Conflict

    if file.exists():  # `pixbal backup` would advise its own --force
        raise Conflict(f"{file} exists, so nothing was forgotten.", hint="Choose another name.")
    made: Any = make_backup(settings, file)
    click.echo(f"backup: {made.path}, {made.rows} rows, {made.files} files")


COMMANDS = (project,)
