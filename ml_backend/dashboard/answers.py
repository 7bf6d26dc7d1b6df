"""The part of the page about answers: ask flagged ones again, put another version in use."""

from __future__ import annotations

from flask import flash, redirect
from werkzeug.wrappers import Response as AnyResponse

from ml_backend import ask_again, version_use
from ml_backend.dashboard.guard import dashboard, link
from ml_backend.dashboard.routes import PROJECT, VERSION_NAME, known_project, pages
from ml_backend.errors import Conflict, NotFound
from ml_backend.label_studio import LabelStudio
from ml_backend.runtime import Runtime


@pages.post(f"/projects/{PROJECT}/versions/<name>/activate")
def activate(project_id: int, name: str) -> AnyResponse:
    """Put a version in use, as `pixbal version activate` does."""
    row = known_project(project_id)
    if not VERSION_NAME.fullmatch(name):
        raise NotFound(f"Project {project_id} has no version {name[:80]!r}.")
    try:
        flash(version_use.activate(dashboard().services.store, row.id, name))
    except Conflict as error:
        flash(f"{error.message} {error.hint}")
    return redirect(link("dashboard.project", project_id=project_id), 303)


@pages.post(f"/projects/{PROJECT}/ask-again")
def flagged_again(project_id: int) -> AnyResponse:
    """Ask the flagged answers again, as `pixbal ask-again --flagged` does."""
    services, row = dashboard().services, known_project(project_id)
    settings = services.settings
    # Nothing is asked of Label Studio here.
    runtime = Runtime(settings, services.store, LabelStudio.of(settings))
    wanted = ask_again.by_flags(services.store, row)
    asked = str(ask_again.ask_again(runtime, row, wanted)) if wanted else "No answer is flagged."
    flash(asked)
    return redirect(link("dashboard.project", project_id=project_id), 303)
