"""The picture that a task shows now: its upload as stored here, else fetched from Label Studio."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.backoff import Backoff
from ml_backend.errors import BackendError, NotFound
from ml_backend.label_studio import LabelStudio
from ml_backend.settings import Settings
from ml_backend.store import Image, Store
from training.images import content_id, read_image

log = logging.getLogger(__name__)

UPLOADS = "/data/upload/"


@dataclass(frozen=True)
class Picture:
    """What a task shows: the name of its content, and where its bytes are."""

    image_id: str
    source: Path | bytes

    def pixels(self, max_pixels: int) -> NDArray[np.uint8]:
        """RGB (H, W, 3).

        Raises:
            TrainingError: it is no picture, or one that is too large.
        """
        return read_image(self.source, max_pixels=max_pixels)


def is_upload(settings: Settings, url: str) -> bool:
    """Whether an address is that of a file uploaded to Label Studio.

    It gives each upload a name of its own, so that the bytes behind such an address never change;
    behind any other they may.
    """
    return url.removeprefix(settings.label_studio_url.rstrip("/")).startswith(UPLOADS)


def find_image(store: Store, project_ids: tuple[int, ...], url: str) -> Image | None:
    """The readable stored image of an address. The id of a task names no image: ids are used
    again, and the address in a task can be changed."""
    if "\0" in url:
        return None
    for project_id in dict.fromkeys(project_ids):
        found = store.image_by_source(project_id, url)
        if found is not None and found.status == "ready":
            return found
    return None


def picture_of(
    settings: Settings,
    store: Store,
    project_ids: tuple[int, ...],
    key: str,
    task: Mapping[str, Any],
) -> Picture:
    """The picture whose address stands under `key` in the task's data, as it is now.

    Raises:
        NotFound: the task names none.
        BackendError: it cannot be fetched, and there is no copy of it.
    """
    data = task.get("data")
    url = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(url, str) or not url:
        raise NotFound(f"It names no image under {key!r}.")
    stored = find_image(store, project_ids, url)
    if stored is not None and is_upload(settings, url):
        return Picture(stored.image_id, Path(stored.path))
    try:
        fetched = _client(settings).fetch(url, task["id"])
    except BackendError as error:
        if stored is None:
            raise
        # An empty prediction would stay; the picture is most likely the one that was imported.
        log.warning("task %s: %s; drawn from the copy kept at import", task.get("id"), error)
        return Picture(stored.image_id, Path(stored.path))
    return Picture(content_id(fetched), fetched)


@lru_cache(maxsize=1)
def _client(settings: Settings) -> LabelStudio:
    # Label Studio waits for us, 100 s for all tasks of a request.
    return LabelStudio.of(settings, backoff=Backoff(attempts=2))
