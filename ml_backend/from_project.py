"""Images of an existing Label Studio project: uploads, local files, web addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from defusedxml import ElementTree

from ml_backend.errors import BackendError
from ml_backend.label_studio import LabelStudio
from ml_backend.pool import keep
from ml_backend.settings import Settings
from ml_backend.sources import IMAGE_SUFFIXES, Source
from ml_backend.store import Image
from training.images import content_id

LABELS = ("BrushLabels", "PolygonLabels")


def image_key(label_config: str) -> str:
    """The task data key that holds the image: of the one Image tag that people label, if there are
    brush or polygon labels, else of the first one.

    Raises:
        BackendError: not XML, or no Image tag with a plain `$key`.
    """
    try:
        root = ElementTree.fromstring(label_config)
    except Exception as error:  # defusedxml raises its own family beside ParseError
        raise BackendError(
            f"the project's labelling setup cannot be read: {error}",
            hint="Open its settings in Label Studio and save a valid setup.",
        ) from error
    labelled = {tag.get("toName") for tag in root.iter() if tag.tag in LABELS}
    tags = list(root.iter("Image"))
    tags.sort(key=lambda tag: tag.get("name") not in labelled)
    values = [str(tag.get("value", "")) for tag in tags]
    keys = [value[1:] for value in values if value.startswith("$") and len(value) > 1]
    if not keys:
        raise BackendError(
            f"the project's labelling setup has no Image tag with value='$key'; found {values}",
            hint="Take the images from a project whose tasks show one image each.",
        )
    return keys[0]


def sources_of_project(
    settings: Settings, ls: LabelStudio, project_id: int, known: Iterable[Image] = ()
) -> list[Source]:
    """The image of every task, to be fetched when it is imported.

    Args:
        known: images that are here already: their tasks are not fetched again.

    Raises:
        BackendError: the project has no tasks, or no image key.
    """
    key = image_key(str(ls.project(project_id).get("label_config") or ""))
    here = {(i.ls_task_id, i.source): i for i in known if i.status != "unreadable"}
    sources = task_sources(settings, ls, project_id, key)
    if not sources:
        raise BackendError(
            f"Label Studio project {project_id} has no tasks",
            hint="Import images into it first, or use --images.",
        )
    return [
        s
        if (row := here.get((s.ls_task_id, s.name))) is None
        else replace(s, path=Path(row.path), load=None)
        for s in sources
    ]


def task_sources(
    settings: Settings,
    ls: LabelStudio,
    project_id: int,
    key: str,
    known: Callable[[int, Any], bool] = lambda task_id, url: False,
) -> list[Source]:
    """The images under `key`, but not those of tasks (id, address) that are known.

    Each is fetched by its `load` when its turn comes; one that cannot be is refused then.
    """
    return [
        _source(settings, ls, int(task["id"]), task.get("data", {}).get(key), key)
        for task in ls.tasks(project_id, with_annotations=False)
        if not known(int(task["id"]), task.get("data", {}).get(key))
    ]


def _source(settings: Settings, ls: LabelStudio, task_id: int, url: Any, key: str) -> Source:
    name = url if isinstance(url, str) and url else f"task {task_id}"

    @cache
    def load() -> Path:
        if name is not url:
            raise BackendError(f"task {task_id} has no image under {key!r}")
        data = ls.fetch(name, task_id)
        # Where the import keeps it, too: one copy.
        return keep(data, settings.home / "images", content_id(data), _suffix(name))

    return Source(name, Path(), ls_task_id=task_id, load=load)


def _suffix(url: str) -> str:
    parts = urlsplit(url)
    name = parse_qs(parts.query).get("d", [parts.path])[0]
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in IMAGE_SUFFIXES else ".img"
