"""The routes of the admin's page: each reads the store or leaves a request for the worker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Flask, Response, flash, jsonify, redirect, render_template, request
from flask import send_file as send
from werkzeug.wrappers import Response as AnyResponse

from label_config import ClassSchema
from ml_backend import asking
from ml_backend.dashboard import access, view
from ml_backend.dashboard.download import zip_version
from ml_backend.dashboard.guard import (
    LOGIN,
    Dashboard,
    add_headers,
    csrf,
    dashboard,
    failed,
    guard,
    link,
    wants_page,
)
from ml_backend.dashboard.ledger import Ledger
from ml_backend.dashboard.surroundings import LabelStudioSign, worker_sign
from ml_backend.errors import NotFound, Unauthorised
from ml_backend.ingest import REGION_TEMPLATES
from ml_backend.liveness import Watch, WorkerSign
from ml_backend.project_states import why_nothing_is_asked
from ml_backend.services import Services
from ml_backend.status import project_status
from ml_backend.store import Project
from ml_backend.words import NO_WORKER, waits_for

pages = Blueprint(
    "dashboard",
    __name__,
    url_prefix="/dashboard",
    template_folder="templates",
    static_folder="static",
)
pages.before_request(guard)
pages.after_request(add_headers)
pages.register_error_handler(Exception, failed)
# Larger ids fit no database.
PROJECT = f"<int(max={2**63 - 1}):project_id>"
VERSION_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
OVERVIEW = "dashboard.overview"


def attach(app: Flask, services: Services) -> None:
    """Serve the page below /dashboard; without a password it only says what to set."""
    settings = services.settings
    found = Dashboard(
        services,
        Ledger(settings.home),
        LabelStudioSign(settings.label_studio_url),
        Watch(services.store, settings.lease_s),
    )
    app.extensions["pixbal_dashboard"] = found
    access.configure(app, settings)
    # Only the forms of this page have tokens; the guard asks for them.
    app.config.update(WTF_CSRF_CHECK_DEFAULT=False, WTF_CSRF_TIME_LIMIT=None)
    csrf.init_app(app)
    app.register_blueprint(pages)


@pages.context_processor
def _always() -> dict[str, Any]:
    return {"link": link}


@pages.get("/login")
def login() -> str | AnyResponse:
    """The form."""
    if access.is_signed_in(dashboard().ledger):
        return redirect(link(OVERVIEW), 303)
    return render_template("login.html", wrong="")


@pages.post("/login")
def log_in() -> tuple[str, int] | AnyResponse:
    """Check the password; the answer to a wrong one is the form again."""
    here = dashboard()
    user, password = request.form.get("user", ""), request.form.get("password", "")
    try:
        access.sign_in(here.services.settings, here.ledger, request.remote_addr, user, password)
    except Unauthorised as error:
        if not wants_page():
            raise
        return render_template("login.html", wrong=error.message), 401
    return redirect(link(OVERVIEW), 303)


@pages.post("/logout")
def logout() -> AnyResponse:
    """End every session."""
    access.sign_out(dashboard().ledger)
    return redirect(link(LOGIN), 303)


@pages.get("/")
def overview() -> str:
    """Every project in short, but for those in the archive."""
    return _overview(archived=False)


@pages.get("/archived")
def archived() -> str:
    """The projects in the archive."""
    return _overview(archived=True)


def _overview(*, archived: bool) -> str:
    store, workers = dashboard().services.store, dashboard().workers.look()
    found = [p for p in store.projects() if p.template in REGION_TEMPLATES]
    shown = [p for p in found if (p.state == "archived") == archived]
    settings = dashboard().services.settings
    projects = [(project_status(settings, store, p.id), _job(p.id, workers)) for p in shown]
    return render_template(
        "overview.html",
        projects=projects,
        archived=archived,
        others=len(found) - len(shown),
        **_surroundings(workers),
    )


@pages.get(f"/projects/{PROJECT}")
def project(project_id: int) -> str:
    """Everything about one project."""
    store, workers = dashboard().services.store, dashboard().workers.look()
    row = known_project(project_id)
    rounds, versions = store.rounds(row.id), store.versions(row.id)
    schema = ClassSchema.from_json(row.schema_json)
    return render_template(
        "project.html",
        status=project_status(dashboard().services.settings, store, row.id),
        job=_job(row.id, workers),
        training=asking.webhook_command(dashboard().services.settings.public_url, row.id),
        rounds=view.round_lines(rounds, versions),
        versions=view.version_lines(versions, row.current_version),
        curve=view.curve(rounds, versions),
        bars=view.class_bars(versions[-1] if versions else None, schema.names),
        **_surroundings(workers),
    )


@pages.get(f"/projects/{PROJECT}/job")
def job(project_id: int) -> Response:
    """The running round as JSON, for the page's own script."""
    row, workers = known_project(project_id), dashboard().workers.look()
    return jsonify(job=_job(row.id, workers), worker=worker_sign(workers))


@pages.post(f"/projects/{PROJECT}/train")
def train(project_id: int) -> AnyResponse:
    """Ask the worker to train, as `pixbal train` does."""
    return _asked(project_id, asking.TRAIN, "Asked for training: the worker starts when it can.")


@pages.post(f"/projects/{PROJECT}/questions")
def questions(project_id: int) -> AnyResponse:
    """Ask the worker for the next questions, as `pixbal push` pushes them."""
    return _asked(project_id, asking.PUSH, "Asked for questions: they appear in a moment.")


@pages.get(f"/projects/{PROJECT}/versions/<name>.zip")
def download(project_id: int, name: str) -> Response:
    """A version as `pixbal export` writes it, zipped."""
    services = dashboard().services
    row = known_project(project_id)
    # The name only picks a row; which folder that is, only the store says.
    version = services.store.version(row.id, name) if VERSION_NAME.fullmatch(name) else None
    if version is None:
        raise NotFound(f"Project {project_id} has no version {name[:80]!r}.")
    file = zip_version(version, services.settings.home)
    title = f"pixbal-project-{project_id}-{version.name}.zip"
    return send(file, "application/zip", as_attachment=True, download_name=title)


def _asked(project_id: int, action: str, said: str) -> AnyResponse:
    store, row = dashboard().services.store, known_project(project_id)
    idle = why_nothing_is_asked(row)
    if idle is not None:
        flash(f"{idle[:1].upper()}{idle[1:]}: resume it first.")
    elif action == asking.PUSH and (waiting := asking.open_questions(store, row)):
        flash(asking.nothing_to_push(waiting))
    else:
        asking.ask(store, row.id, action)
        alive = any(worker.alive for worker in dashboard().workers.look())
        flash(said if alive else f"{said} But {NO_WORKER}.")
    return redirect(link("dashboard.project", project_id=project_id), 303)


def known_project(project_id: int) -> Project:
    """The region project of this id.

    Raises:
        NotFound: there is none.
    """
    row = dashboard().services.store.project(project_id)
    if row is None or row.template not in REGION_TEMPLATES:
        raise NotFound(f"Project {project_id} is unknown here.", "Make one with `pixbal init`.")
    return row


def _job(project_id: int, workers: Sequence[WorkerSign]) -> view.Job | None:
    store = dashboard().services.store
    return view.current_job(store.rounds(project_id), lambda row: waits_for(store, row, workers))


def _surroundings(workers: Sequence[WorkerSign]) -> dict[str, Any]:
    return {"worker": worker_sign(workers), "label_studio": dashboard().label_studio()}
