"""The `pixbal` command. Commands import what they need when they run: --help stays quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ml_backend.label_studio import LabelStudio
    from ml_backend.settings import Settings
    from ml_backend.store import Store


def load_settings() -> Settings:
    """Settings of this process, with generated secrets where none were given."""
    from ml_backend.settings import Settings, ensure_secrets

    ensure_secrets(Path(os.environ.get("PIXBAL_HOME") or "./pixbal-data"))
    return Settings.from_env(os.environ)


def open_all() -> tuple[Settings, Store, LabelStudio]:
    """Settings, the store (migrated), and a client of Label Studio."""
    from ml_backend.label_studio import LabelStudio
    from ml_backend.store import Store

    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    store = Store.open(settings.database_url)
    return settings, store, LabelStudio(settings.label_studio_url, settings.label_studio_api_key)


def only_project(store: Store, project: int | None) -> int:
    """The region project that was named, or the only one there is."""
    from ml_backend.errors import NotFound
    from ml_backend.ingest import REGION_TEMPLATES

    known = [p.id for p in store.projects() if p.template in REGION_TEMPLATES]
    if project is not None and project in known:
        return project
    if project is None and len(known) == 1:
        return known[0]
    raise NotFound(
        f"project {project} is unknown here"
        if project
        else f"{len(known)} projects are known here",
        hint=f"Region projects: {known}. Name one with --project, or make one with `pixbal init`.",
    )


class _Group(click.Group):
    """Turns errors made for people into one line with a hint; --debug shows the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from ml_backend.errors import BackendError

        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            hint = getattr(error, "hint", "")
            known = isinstance(error, BackendError) or bool(hint)
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


def _register() -> None:
    from ml_backend import cli_project, cli_serve, cli_tools

    commands: list[Callable[..., Any]] = [
        *cli_project.COMMANDS,
        *cli_serve.COMMANDS,
        *cli_tools.COMMANDS,
    ]
    for command in commands:
        main.add_command(command)  # type: ignore[arg-type]


def echo_json(value: Any) -> None:
    """Print a value as JSON for scripts."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, default=str))


_register()

if __name__ == "__main__":
    main()
