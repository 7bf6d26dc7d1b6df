"""Images of an existing Label Studio project: uploads, local files, web addresses."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from defusedxml import ElementTree

from ml_backend.errors import BackendError
from ml_backend.label_studio import LabelStudio
from ml_backend.pool import IMAGE_SUFFIXES, Source, keep
from ml_backend.settings import Settings

log = logging.getLogger(__name__)


def image_key(label_config: str) -> str:
    """The task data key that holds the image: the `value` of the config's first Image tag.

    Raises:
        BackendError: not XML, or no Image tag with a plain `$key`.
    """
    try:
        tags = list(ElementTree.fromstring(label_config).iter("Image"))
    except Exception as error:  # defusedxml raises its own family beside ParseError
        raise BackendError(
            f"the project's labelling setup cannot be read: {error}",
            hint="Open its settings in Label Studio and save a valid setup.",
        ) from error
    values = [str(tag.get("value", "")) for tag in tags]
    keys = [value[1:] for value in values if value.startswith("$") and len(value) > 1]
    if not keys:
        raise BackendError(
            f"the project's labelling setup has no Image tag with value='$key'; found {values}",
            hint="Take the images from a project whose tasks show one image each.",
        )
    return keys[0]


def sources_of_project(settings: Settings, ls: LabelStudio, project_id: int) -> list[Source]:
    """Fetch the image of every task; one that cannot be fetched is listed and refused at import.

    Raises:
        BackendError: the project has no tasks, or no image key.
    """
    key = image_key(str(ls.project(project_id).get("label_config") or ""))
    sources = task_sources(settings, ls, project_id, key)
    if not sources:
        raise BackendError(
            f"Label Studio project {project_id} has no tasks",
            hint="Import images into it first, or use --images.",
        )
    return sources


def task_sources(
    settings: Settings,
    ls: LabelStudio,
    project_id: int,
    key: str,
    known: Callable[[int, Any], bool] = lambda task_id, url: False,
) -> list[Source]:
    """Fetch the images under `key`, but not those of tasks (id, address) that are known."""
    return [
        _fetch(settings, ls, task, key)
        for task in ls.tasks(project_id, with_annotations=False)
        if not known(int(task["id"]), task.get("data", {}).get(key))
    ]


def _fetch(settings: Settings, ls: LabelStudio, task: dict[str, Any], key: str) -> Source:
    task_id = int(task["id"])
    url = task.get("data", {}).get(key)
    missing = settings.home / "incoming" / f"task-{task_id}-missing"
    if not isinstance(url, str) or not url:
        log.warning("task %s has no image under %r", task_id, key)
        return Source(f"task {task_id} (no {key!r})", missing, ls_task_id=task_id)
    try:
        data = ls.fetch(url, task_id)
    except BackendError as error:
        log.warning("task %s: %s", task_id, error)
        return Source(url, missing, ls_task_id=task_id)
    suffix = _suffix(url)
    path = keep(data, settings.home / "incoming", hashlib.sha256(data).hexdigest()[:24], suffix)
    return Source(url, path, ls_task_id=task_id)


def _suffix(url: str) -> str:
    parts = urlsplit(url)
    name = parse_qs(parts.query).get("d", [parts.path])[0]
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in IMAGE_SUFFIXES else ".img"
