"""The image that a task shows: stored here, else fetched from Label Studio while it waits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.errors import NotFound
from ml_backend.label_studio import LabelStudio
from ml_backend.settings import Settings
from ml_backend.store import Image, Store
from training.images import read_image


def find_image(store: Store, project_ids: tuple[int, ...], task: Mapping[str, Any]) -> Image | None:
    """The stored image a task shows: by task id, by `data.image_id`, or by a source that equals
    one of its data values."""
    data = task.get("data")
    values = data.values() if isinstance(data, Mapping) else ()
    texts = [v for v in values if isinstance(v, str) and "\0" not in v]
    for project_id in dict.fromkeys(project_ids):
        found = store.image_by_task(project_id, task["id"])
        for text in texts:
            found = (
                found or store.image(project_id, text) or store.image_by_source(project_id, text)
            )
        if found is not None:
            return found
    return None


def task_pixels(
    settings: Settings, image: Image | None, key: str, task: Mapping[str, Any]
) -> NDArray[np.uint8]:
    """RGB (H, W, 3) of the stored image, else of the address under `key` in the task's data.

    Raises:
        NotFound: the stored image was refused at import, or the task names none.
        BackendError: it cannot be fetched.
        TrainingError: it cannot be read.
        OSError: the stored copy is gone.
    """
    if image is not None and image.status != "unreadable":
        return read_image(Path(image.path), max_pixels=settings.max_pixels)
    if image is not None:
        raise NotFound(f"Its image cannot be read: {image.reason}", "Run `pixbal masks` again.")
    data = task.get("data")
    url = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(url, str) or not url:
        raise NotFound(f"It names no image under {key!r}.")
    ls = _client(settings.label_studio_url, settings.label_studio_api_key)
    return read_image(ls.fetch(url, task["id"]), max_pixels=settings.max_pixels)


@lru_cache(maxsize=1)
def _client(url: str, api_key: str) -> LabelStudio:
    return LabelStudio(url, api_key)
