"""What several commands need: settings, the store, a client, the project that is meant."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ml_backend.label_studio import LabelStudio
    from ml_backend.settings import Settings
    from ml_backend.store import Store


def load_settings() -> Settings:
    """Settings of this process, with generated secrets where none were given."""
    from ml_backend.settings import Settings, ensure_secrets, home_of

    ensure_secrets(home_of(os.environ))
    return Settings.from_env(os.environ)


# An id of Label Studio's: nothing larger fits a database.
ID = click.IntRange(1, 2**63 - 1)


def open_all() -> tuple[Settings, Store, LabelStudio]:
    """Settings, the store (migrated), and a client of Label Studio."""
    from ml_backend.label_studio import LabelStudio
    from ml_backend.store import Store

    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    store = Store.open(settings.database_url)
    return settings, store, LabelStudio.of(settings)


def only_project(store: Store, project: int | None) -> int:
    """The region project that was named, or the only one there is."""
    from ml_backend.errors import NotFound
    from ml_backend.ingest import REGION_TEMPLATES

    rows = [p for p in store.projects() if p.template in REGION_TEMPLATES]
    known = [p.id for p in rows]
    if project is not None and project in known:
        return project
    shown = [p.id for p in rows if p.state != "archived"]
    if project is None and len(shown or known) == 1:
        return (shown or known)[0]
    if project is not None:
        said = f"project {project} is unknown here"
    else:
        said = f"{len(known) or 'no'} project{'s are' if known else ' is'} known here"
    names = ", ".join(map(str, shown or known))
    raise NotFound(
        said,
        hint=f"Name one with --project: {names}." if known
        else "Make one: `pixbal init --images ... --classes ...`.",
    )  # fmt: skip


def refuse_idle(store: Store, project: int) -> None:
    """Raise Conflict where a request would lead to nothing, since the project is paused."""
    from ml_backend.errors import Conflict
    from ml_backend.project_states import why_nothing_is_asked

    row = store.project(project)
    reason = None if row is None else why_nothing_is_asked(row)
    if reason is not None:
        raise Conflict(reason, f"`pixbal project resume --project {project}` first.")


def echo_json(value: Any) -> None:
    """Print a value as JSON for scripts."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, default=str))
