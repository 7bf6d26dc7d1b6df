"""The annotator's instructions of a project, with three of its own regions as pictures."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from label_config import read
from label_config.instructions import instructions
from ml_backend.media import picture_urls, write_local_pictures
from ml_backend.settings import Settings
from ml_backend.store import Image, Project, Query, Store
from training.errors import TrainingError
from training.images import read_image
from training.regions import RegionMap

log = logging.getLogger(__name__)

PICTURES = 3
# Images among which the pictures are chosen: enough for variety, read in a second or two.
LOOKED_AT = 6


def project_instructions(settings: Settings, store: Store, project: Project) -> str:
    """HTML for Label Studio's instructions field; the pictures it shows are there when it returns.

    Equal input gives an equal text: the regions follow from the project's seed and its images.

    Raises:
        BackendError: pictures cannot be written where Label Studio serves them from.
    """
    images = store.images(project.id, split="pool", status="ready")
    examples = [_question(project, *region) for region in example_regions(images, project.seed)]
    if settings.media == "local-files":
        write_local_pictures(settings, store, examples)
    setup = read(project.label_config)
    return instructions(
        setup.schema,
        setup.template,
        pictures=[picture_urls(settings, example)[0] for example in examples],
        smallest_share=project.smallest_share,
        undefined_alias=setup.undefined_alias,
    )


def example_regions(images: Sequence[Image], seed: int) -> list[tuple[Image, int]]:
    """Regions that hold detail, from different images while there are enough; at most PICTURES.

    Images are drawn by a hash of seed and image, so that further ones rarely change the choice.
    """
    drawn = sorted(images, key=lambda i: hashlib.sha256(f"{seed}:{i.image_id}".encode()).digest())
    found: list[tuple[int, float, Image, int]] = []
    for image in drawn[:LOOKED_AT]:
        try:
            detail = region_detail(read_image(Path(image.path)), RegionMap.load(image.regions_path))
        except (TrainingError, OSError) as error:
            log.warning("no example of image %s: %s", image.source, error)
            continue
        best = np.argsort(-detail, kind="stable")[:PICTURES].tolist()
        found += [(place, -float(detail[index]), image, index) for place, index in enumerate(best)]
    found.sort(key=lambda row: (row[0], row[1], row[2].image_id))
    return [(image, index) for _, _, image, index in found[:PICTURES]]


def region_detail(image: NDArray[np.uint8], regions: RegionMap) -> NDArray[np.float64]:
    """Standard deviation of the grey value in each region, (R,); 0 in slivers.

    A region of less than half the median size shows little of what a region is.
    """
    grey = image.astype(np.float64).mean(axis=2).ravel()
    ids, count = regions.ids.ravel(), regions.count
    sizes = np.bincount(ids, minlength=count)
    pixels = np.maximum(sizes, 1)
    mean = np.bincount(ids, grey, count) / pixels
    variance = np.bincount(ids, (grey - mean[ids]) ** 2, count) / pixels
    whole: NDArray[np.float64] = np.where(2 * sizes >= np.median(sizes), np.sqrt(variance), 0.0)
    return whole


def _question(project: Project, image: Image, index: int) -> Query:
    """What the pictures of a question are drawn by; it is asked of nobody."""
    return Query(
        id=0, project_id=project.id, image_id=image.image_id, region_index=index,
        regions_hash=image.regions_hash, round=0, status="planned", task_id=None, score=0.0,
        expected_clicks=0.0, preticks=(), model_version="",
    )  # fmt: skip
