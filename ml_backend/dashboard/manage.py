"""What the admin changes about a project on the page: settings, its state, forgetting it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import flash, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from ml_backend import project_states
from ml_backend.backoff import Backoff
from ml_backend.change_project import change_project
from ml_backend.dashboard.guard import dashboard, link
from ml_backend.dashboard.routes import OVERVIEW, PROJECT, known_project, pages
from ml_backend.errors import BackendError, Conflict
from ml_backend.forget import forget, plan_forgetting
from ml_backend.label_studio import LabelStudio
from ml_backend.project_settings import (
    PRESETS,
    SETTINGS,
    TRAINING_WHEN,
    WrongSettings,
    fixed_settings,
    training_shown,
)
from ml_backend.store import Project
from ml_backend.train_settings import check_model_aside

PAGE = "dashboard.project"
SETTINGS_PAGE = "dashboard.settings"
# The browser waits: one try, and not for long.
TIMEOUT_S = 10.0


def label_studio() -> LabelStudio:
    """A client for one request of the page."""
    settings = dashboard().services.settings
    return LabelStudio(
        settings.label_studio_url,
        settings.label_studio_api_key,
        backoff=Backoff(attempts=1),
        timeout_s=TIMEOUT_S,
    )


@pages.get(f"/projects/{PROJECT}/settings")
def settings(project_id: int) -> str:
    """The form, filled in with what is."""
    return _form(known_project(project_id))


@pages.post(f"/projects/{PROJECT}/settings")
def change_settings(project_id: int) -> tuple[str, int] | AnyResponse:
    """Change what differs; a value that cannot be taken is shown again with the reason."""
    row = known_project(project_id)
    filled = {name: request.form[name] for name in SETTINGS if name in request.form}
    # What was left as it is may have been changed by somebody else meanwhile.
    wanted = {n: text for n, text in filled.items() if text != request.form.get(f"was-{n}")}
    preset = request.form.get("config", "")
    overrides = [line for line in request.form.get("set", "").splitlines() if line.strip()]
    try:
        if preset not in ("", *PRESETS):  # never a file of this machine
            raise WrongSettings({"config": f"expected one of {', '.join(PRESETS)}"})
        here = dashboard().services
        done = change_project(
            here.settings, here.store, label_studio, row.id, wanted,
            config=preset or None, overrides=overrides, check_model=check_model_aside,
        )  # fmt: skip
    except WrongSettings as error:
        return _form(row, filled, error.faults), 400
    except BackendError as error:
        return _form(row, filled, {"": str(error)}), error.status
    for line in done:
        flash(line)
    return redirect(link(SETTINGS_PAGE, project_id=row.id), 303)


def _form(row: Project, filled: Mapping[str, str] = {}, faults: Mapping[str, str] = {}) -> str:
    preset, changed = training_shown(row)
    return render_template(
        "settings.html",
        project=row,
        settings=SETTINGS.values(),
        values={name: filled.get(name, setting.shown(row)) for name, setting in SETTINGS.items()},
        stored={name: setting.shown(row) for name, setting in SETTINGS.items()},
        faults=faults,
        presets=PRESETS,
        preset=request.form.get("config", "") if faults else "",
        overrides=request.form.get("set", "") if faults else "",
        training=(preset, changed),
        training_when=TRAINING_WHEN,
        fixed=fixed_settings(row),
    )


@pages.post(f"/projects/{PROJECT}/pause")
def pause(project_id: int) -> AnyResponse:
    """Start no training and push nothing."""
    return _moved(project_id, project_states.pause, PAGE)


@pages.post(f"/projects/{PROJECT}/resume")
def resume(project_id: int) -> AnyResponse:
    """Go on."""
    return _moved(project_id, project_states.resume, PAGE)


@pages.post(f"/projects/{PROJECT}/archive")
def archive(project_id: int) -> AnyResponse:
    """Pause and hide."""
    return _moved(project_id, project_states.archive, PAGE)


def _moved(project_id: int, move: Callable[[Any, int], str], to: str) -> AnyResponse:
    try:
        said = move(dashboard().services.store, known_project(project_id).id)
    except Conflict as error:
        said = str(error)
    flash(said[:1].upper() + said[1:] + ("" if said.endswith(".") else "."))
    return redirect(link(to, project_id=project_id), 303)


@pages.get(f"/projects/{PROJECT}/forget")
def forgetting(project_id: int) -> str:
    """What is deleted and what is kept; the title has to be typed."""
    return _ask(known_project(project_id).id)


@pages.post(f"/projects/{PROJECT}/forget")
def forget_project(project_id: int) -> tuple[str, int] | AnyResponse:
    """Forget it, where the title is right."""
    here = dashboard().services
    row = known_project(project_id)
    try:
        done = forget(
            here.settings, here.store, label_studio, row.id, request.form.get("title", "")
        )
    except BackendError as error:
        return _ask(row.id, error), error.status
    flash(" ".join(f"{line[:1].upper()}{line[1:]}." for line in done))
    return redirect(link(OVERVIEW), 303)


def _ask(project_id: int, error: BackendError | None = None) -> str:
    here = dashboard().services
    plan = plan_forgetting(here.settings, here.store, project_id)
    return render_template("forget.html", plan=plan, project=plan.project, error=error)
