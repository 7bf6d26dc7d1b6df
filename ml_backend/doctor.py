"""Every connection and setting, looked at live, with what to do where something is wrong."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ml_backend.checks import Check
from ml_backend.doctor_home import examine_home
from ml_backend.doctor_project import examine_project
from ml_backend.doctor_workers import examine_workers
from ml_backend.errors import BackendError
from ml_backend.label_studio import LabelStudio
from ml_backend.label_studio_errors import missing_token
from ml_backend.liveness import WorkerSign, look_at_workers
from ml_backend.settings import SECRETS_FILE, Settings
from ml_backend.store import Project, Store

__all__ = ["Check", "examine"]

MIN_FREE_BYTES = 2_000_000_000
TESTED_RELEASE = "1.23."


def examine(
    settings: Settings,
    store: Store,
    ls: LabelStudio,
    project_id: int | None = None,
    *,
    now: Callable[[], float] = time.time,
    workers: Sequence[WorkerSign] | None = None,
) -> list[Check]:
    """Look at everything; a project's connections too, all projects' if none is named.

    `workers`: what somebody has found who looked at them just now.

    Nothing raises: what cannot be looked at is a check with ok None or False.
    """
    checks = [_secrets(settings), _disk(settings.home)]
    checks += examine_workers(
        settings, look_at_workers(settings, store) if workers is None else workers
    )
    checks += examine_home(settings, store, now())
    server = list(_server(settings, ls))
    checks += [*server, _backend(settings), *_seeds()]
    # Archived ones are nobody's concern until somebody asks.
    projects = [
        p
        for p in store.projects()
        if (p.id == project_id if project_id is not None else p.state != "archived")
    ]
    if not projects:
        which = "no project" if project_id is None else f"project {project_id}"
        advice = "Make one: pixbal init --images ... --classes ..."
        checks.append(Check("project", None, f"{which} is known here", advice))
    for project in projects:
        checks.append(_superpixels(project))
        if all(check.ok is not False for check in server):
            checks += examine_project(settings, store, ls, project)
        else:
            checks.append(
                Check(f"project {project.id}", None, "not looked at without Label Studio")
            )
    return checks


def _secrets(settings: Settings) -> Check:
    values = {
        "LABEL_STUDIO_API_KEY": settings.label_studio_api_key,
        "PIXBAL_WEBHOOK_SECRET": settings.webhook_secret,
        "PIXBAL_BASIC_PASSWORD": settings.basic_password,
        "PIXBAL_MEDIA_KEY": settings.media_key,
    }
    missing = [name for name, value in values.items() if not value]
    path = settings.home / SECRETS_FILE
    if missing:
        advice = f"Set them in the environment or in {path}; `pixbal init` draws all but the first."
        return Check("secrets", False, f"unset: {', '.join(missing)}", advice)
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Check("secrets", False, f"{path} can be read by others", f"chmod 600 {path}")
    return Check("secrets", True, "all set")


def _disk(home: Path) -> Check:
    folder = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free for {home}"
    advice = "Each version and each round's snapshot takes some hundred MB; make room."
    return Check("disk space", free >= MIN_FREE_BYTES, detail, advice)


def _server(settings: Settings, ls: LabelStudio) -> Iterator[Check]:
    if not settings.label_studio_api_key:
        error = missing_token(settings.label_studio_public_url)
        yield Check("token", False, error.message, error.hint)
        return
    try:
        release = ls.version()
    except BackendError as error:
        yield Check("Label Studio", False, error.message, error.hint)
        return
    known = release.startswith(TESTED_RELEASE)
    advice = f"This release is tested with {TESTED_RELEASE}x; watch the first round."
    yield Check("Label Studio", True if known else None, f"release {release} at {ls.url}", advice)
    try:
        user = ls.whoami()
    except BackendError as error:
        yield Check("token", False, f"{ls.token_kind} token: {error.message}", error.hint)
        return
    yield Check("token", True, f"{ls.token_kind} token of {user.get('email')}")


def _backend(settings: Settings) -> Check:
    """Ask our own health address as Label Studio would, from here."""
    import httpx

    name, url = "backend", f"{settings.backend_url.rstrip('/')}/health"
    auth = (settings.basic_user, settings.basic_password)
    try:
        # Label Studio gives it one second.
        answer = httpx.get(url, auth=auth, timeout=1.0, trust_env=False)
    except httpx.HTTPError as error:
        advice = "Start it: pixbal serve (or pixbal up). PIXBAL_BACKEND_URL must lead to it."
        return Check(name, False, f"no answer from {url} within 1 s: {error}", advice)
    if answer.status_code == 401:
        advice = "Backend and doctor must see the same PIXBAL_HOME or the same environment."
        return Check(name, False, f"{url} refuses our password", advice)
    good = answer.status_code == 200 and "json" in answer.headers.get("content-type", "")
    advice = "Something else may listen there; look at the backend's log."
    return Check(name, good, f"{url} answered {answer.status_code}", advice)


def _seeds() -> Iterator[Check]:
    """Without SEEDS the next project would be cut by another method, and keep it."""
    from training.seeds import NO_SEEDS, REPAIR_OPENCV, has_seeds

    if not has_seeds():
        yield Check("SEEDS", False, f"{NO_SEEDS} A new project would use SLIC.", REPAIR_OPENCV)


def _superpixels(project: Project) -> Check:
    from training.seeds import REPAIR_OPENCV
    from training.superpixels import available_methods

    methods = available_methods()
    detail = f"method {project.method} of project {project.id}"
    if project.method in methods:
        return Check("superpixels", True, detail)
    advice = f"Available: {', '.join(methods)}."
    if project.method in ("seeds", "watershed"):
        advice = REPAIR_OPENCV
    return Check("superpixels", False, f"{detail}: its library is missing", advice)
