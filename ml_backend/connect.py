"""Connect a Label Studio project with this backend, in the one order that works."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from label_config.instructions import RENEWED
from ml_backend.errors import BackendError
from ml_backend.label_studio import Change, LabelStudio
from ml_backend.media import LOCAL_FOLDER
from ml_backend.security import SECRET_HEADER
from ml_backend.settings import Settings

TITLE = "PixBal"
UNCERTAINTY_SAMPLING = "Uncertainty sampling"


def connect(
    ls: LabelStudio,
    settings: Settings,
    project_id: int,
    label_config: str,
    model_version: str,
    sampling: str | None = UNCERTAINTY_SAMPLING,
) -> list[tuple[str, Change]]:
    """Make the project ask this backend, and its questions in our order; safe to repeat.

    1. the label config; 2. our webhook with its secret header, because connecting an ML backend
    makes one without a header where none is; 3. the ML backend; 4. the order of the queue; 5. the
    model version last, because connecting (3) sets it to the backend's title, and then Label Studio
    hands tasks out at random.

    Args:
        model_version: the version whose predictions order the queue; TITLE for a project that
            asks the backend for every prediction live.
        sampling: the order in which Label Studio hands tasks out; None leaves it as it is.

    Returns:
        What was looked at and what had to be done, in order.

    Raises:
        BackendError: a secret is unset or pictures cannot be written where Label Studio looks for
            them (nothing is changed then); Label Studio refuses (nothing half-made stays), or the
            backend does not answer it.
    """
    _check_secrets(settings)
    pictures = _local_folder(settings)
    url = settings.backend_url.rstrip("/")
    done: list[tuple[str, Change]] = []
    config = {"label_config": label_config}
    done.append(("label config", _ensure_fields(ls, project_id, config)))
    headers = {SECRET_HEADER: settings.webhook_secret}
    done.append(("webhook", ls.ensure_webhook(project_id, f"{url}/webhook", headers)))
    user, password = settings.basic_user, settings.basic_password
    done.append(("ML backend", ls.ensure_ml_backend(project_id, url, TITLE, user, password)))
    if pictures is not None:
        done.append(("local files", ls.ensure_local_storage(project_id, str(pictures), TITLE)))
    # Without show_collab_predictions Label Studio forgets the model version at every change.
    order = {"show_collab_predictions": True} | ({"sampling": sampling} if sampling else {})
    done.append(("order of the queue", _ensure_fields(ls, project_id, order)))
    done.append(_ensure_model_version(ls, project_id, model_version))
    return done


def ensure_instructions(ls: LabelStudio, project_id: int, wanted: str) -> Change:
    """Set what annotators see before they begin, unless somebody has made that text their own.

    It is shown at the start from the first time on; who switches that off keeps it off.
    """
    current = str(ls.project(project_id).get("expert_instruction") or "").strip()
    if current == wanted or (current and RENEWED not in current):
        return "unchanged"
    shown = {} if current else {"show_instruction": True}
    ls.update_project(project_id, expert_instruction=wanted, **shown)
    return "updated" if current else "created"


def _check_secrets(settings: Settings) -> None:
    secrets = {
        "PIXBAL_WEBHOOK_SECRET": settings.webhook_secret,
        "PIXBAL_BASIC_PASSWORD": settings.basic_password,
    }
    missing = [name for name, value in secrets.items() if not value]
    if missing:
        raise BackendError(
            f"{' and '.join(missing)} must be set to connect a project.",
            "Set them, or let `pixbal init` draw them.",
        )


def _local_folder(settings: Settings) -> Path | None:
    """The folder below Label Studio's document root for our pictures, made and writable."""
    if settings.media != "local-files" or settings.local_files_root is None:
        return None
    folder = settings.local_files_root / LOCAL_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write there")
    except OSError as error:
        raise BackendError(
            f"The pictures of questions cannot be written to {folder}: {error.strerror or error}.",
            f"Make {settings.local_files_root} a folder that user {os.getuid()}, as which PixBal "
            "runs, may write to, or set PIXBAL_MEDIA=backend.",
        ) from error
    return folder


def _ensure_fields(ls: LabelStudio, project_id: int, wanted: dict[str, Any]) -> Change:
    project = ls.project(project_id)
    differing = {key: value for key, value in wanted.items() if project.get(key) != value}
    if not differing:
        return "unchanged"
    ls.update_project(project_id, **differing)
    return "updated"


def _ensure_model_version(ls: LabelStudio, project_id: int, wanted: str) -> tuple[str, Change]:
    current = ls.project(project_id).get("model_version") or ""
    what = f"model version {wanted}"
    if wanted != TITLE and wanted not in ls.model_versions(project_id):
        # Label Studio takes only versions that some prediction carries. It sets an empty one by
        # itself when the first questions are imported, the backend's title it would keep.
        what, wanted = f"{what} (set by its first questions)", current
        if current == TITLE:
            wanted = ""
    if current == wanted:
        return what, "unchanged"
    ls.update_project(project_id, model_version=wanted)
    return what, "updated"
