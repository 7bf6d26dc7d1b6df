"""The `pixbal` command. Commands import what they need when they run: --help stays quick."""

from __future__ import annotations

import sys
from typing import Any

import click

from label_config import LabelConfigError
from ml_backend import (
    cli_ask_again,
    cli_backup,
    cli_classes,
    cli_images,
    cli_project,
    cli_serve,
    cli_settings,
    cli_simulate,
    cli_tools,
    cli_version,
)
from ml_backend.errors import BackendError
from training.errors import TrainingError

# Their text says what to do, or there is nothing more to say; a traceback helps nobody there.
FOR_PEOPLE = (BackendError, LabelConfigError, TrainingError)


class _Group(click.Group):
    """Turns errors made for people into one line with a hint; --debug shows the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            hint = getattr(error, "hint", "")
            known = isinstance(error, FOR_PEOPLE) or bool(hint)
            message = getattr(error, "message", None) or str(error) or type(error).__name__
            if not known:
                message = f"{type(error).__name__}: {message}"
                hint = "Run again with `pixbal --debug ...` for the traceback."
            click.echo(f"pixbal: {message}", err=True)
            if hint:
                click.echo(f"  hint: {hint}", err=True)
            sys.exit(1)


@click.group(cls=_Group, epilog="Example: pixbal init --images photos/ --classes camvid")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="label-studio-pixbal")
def main(debug: bool) -> None:
    """Active learning for semantic segmentation inside Label Studio."""


for command in (
    *cli_ask_again.COMMANDS,
    *cli_backup.COMMANDS,
    *cli_classes.COMMANDS,
    *cli_images.COMMANDS,
    *cli_project.COMMANDS,
    *cli_serve.COMMANDS,
    *cli_settings.COMMANDS,
    *cli_simulate.COMMANDS,
    *cli_tools.COMMANDS,
    *cli_version.COMMANDS,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
