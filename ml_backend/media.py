"""Region pictures: signed addresses, drawn when they are first asked for, kept on disk."""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ml_backend import overlay
from ml_backend.errors import BackendError, NotFound
from ml_backend.security import sign
from ml_backend.settings import Settings
from ml_backend.store import Image, Query, Store
from training.atomic import write_atomically
from training.errors import TrainingError
from training.images import read_image

if TYPE_CHECKING:
    from training.regions import RegionMap

log = logging.getLogger(__name__)

DRAWERS: Mapping[str, Callable[[NDArray[np.uint8], RegionMap, int], bytes]] = {
    "crop": overlay.draw_crop,
    "locator": overlay.draw_locator,
}
IMAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
SIGNATURE = re.compile(r"[0-9a-f]{32}", re.ASCII)
MAX_ID = 2**63 - 1
LOCAL_FOLDER = "pixbal"
# Decoded images kept between the pictures of one page of questions; larger ones are read anew.
KEPT_PIXELS = 6_000_000


def media_url(
    settings: Settings, project_id: int, image_id: str, index: int, kind: str, regions_hash: str
) -> str:
    """Address of a region picture for the annotator's browser.

    It cannot be guessed, needs no login (a browser image has none), and changes with the region
    map, so that a cached picture never shows other pixels than the question is about.
    """
    signature = sign(settings.media_key, project_id, image_id, index, kind, regions_hash)
    path = f"/media/{signature}/{project_id}/{image_id}/{index}/{kind}.jpg"
    return settings.public_url + path


def picture_urls(settings: Settings, query: Query) -> tuple[str, str]:
    """Addresses of the crop and the locator of a question, in the form PIXBAL_MEDIA asks for."""
    if settings.media == "local-files":
        return _local_url(settings, query, "crop"), _local_url(settings, query, "locator")
    place = (settings, query.project_id, query.image_id, query.region_index)
    return (
        media_url(*place, "crop", query.regions_hash),
        media_url(*place, "locator", query.regions_hash),
    )


def picture(
    settings: Settings,
    store: Store,
    signature: str,
    project_id: int,
    image_id: str,
    index: int,
    kind: str,
) -> bytes:
    """JPEG behind a signed address, from the disk cache where it was drawn before.

    Raises:
        NotFound: the signature is wrong, or nothing like that is here; the answer does not say
            which.
    """
    missing = NotFound("There is no such picture.")
    well_formed = IMAGE_ID.fullmatch(image_id) and SIGNATURE.fullmatch(signature)
    if not well_formed or kind not in DRAWERS or project_id > MAX_ID or not settings.media_key:
        raise missing
    image = store.image(project_id, image_id)
    regions_hash = "" if image is None else image.regions_hash
    expected = sign(settings.media_key, project_id, image_id, index, kind, regions_hash)
    if not hmac.compare_digest(signature, expected) or image is None:
        raise missing
    if image.status == "unreadable" or not 0 <= index < image.region_count:
        raise missing
    cached = _cache_path(settings, image, index, kind)
    try:
        return cached.read_bytes()
    except FileNotFoundError:
        data = draw(image, index, kind, settings.max_pixels)
    _keep(cached, data)
    return data


def draw(image: Image, index: int, kind: str, max_pixels: int) -> bytes:
    """JPEG of a region of a stored image.

    Raises:
        BackendError: status 500 where the stored files are gone or damaged.
    """
    load = _load_kept if image.width * image.height <= KEPT_PIXELS else _load
    try:
        pixels, region_map = load(image.path, image.regions_path, max_pixels)
    except (TrainingError, OSError) as error:
        raise BackendError(
            f"The stored files of image {image.image_id} cannot be read: {error}",
            "Restore PIXBAL_HOME from a backup, or import the image again.",
            status=500,
        ) from error
    if region_map.hash != image.regions_hash:
        raise BackendError(
            f"The region map of image {image.image_id} is not the one its questions were made of.",
            "Restore PIXBAL_HOME from a backup.",
            status=500,
        )
    return DRAWERS[kind](pixels, region_map, index)


def write_local_pictures(settings: Settings, store: Store, queries: Iterable[Query]) -> int:
    """Draw the pictures of questions below Label Studio's document root; for local-files only.

    To be called before the questions are pushed. Pictures that are there stay.

    Returns:
        How many were drawn.

    Raises:
        BackendError: no document root is set, or an image is gone.
    """
    if settings.local_files_root is None:
        raise BackendError(
            "PIXBAL_LOCAL_FILES_ROOT is unset.", "Set it, or use PIXBAL_MEDIA=backend."
        )
    drawn = 0
    for query in sorted(queries, key=lambda q: (q.image_id, q.region_index)):
        image = store.image(query.project_id, query.image_id)
        if image is None:
            raise NotFound(f"Project {query.project_id} has no image {query.image_id}.")
        for kind in DRAWERS:
            path = settings.local_files_root / _local_path(query, kind)
            if not path.exists():
                data = draw(image, query.region_index, kind, settings.max_pixels)
                _write(path, data)
                drawn += 1
    return drawn


def _local_path(query: Query, kind: str) -> str:
    name = f"{query.region_index}-{kind}-{query.regions_hash}.jpg"
    return f"{LOCAL_FOLDER}/p{query.project_id}/{query.image_id}/{name}"


def _local_url(settings: Settings, query: Query, kind: str) -> str:
    """A path, since annotators may have different hosts; with the prefix of Label Studio's."""
    prefix = urlsplit(settings.label_studio_public_url).path.rstrip("/")
    return f"{prefix}/data/local-files/?d={_local_path(query, kind)}"


def _cache_path(settings: Settings, image: Image, index: int, kind: str) -> Path:
    # Every part is a checked id, a number or a hash of our own: no path can leave the folder.
    folder = settings.media_dir / f"p{image.project_id}" / image.image_id[:2]
    return folder / f"{image.image_id}-{image.regions_hash}-{index}-{kind}.jpg"


def _keep(path: Path, data: bytes) -> None:
    try:
        _write(path, data)
    except OSError as error:
        # The cache only saves time: on a full disk people can still label.
        log.warning("picture not kept: %s", error)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(data))


def _load(path: str, regions_path: str, max_pixels: int) -> tuple[NDArray[np.uint8], RegionMap]:
    from training.regions import RegionMap

    return read_image(Path(path), max_pixels=max_pixels), RegionMap.load(Path(regions_path))


_load_kept = lru_cache(maxsize=4)(_load)
