"""The images of an experiment: the pool with its masks and region maps, and the test split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.atomic import write_atomically
from training.dataset_formats import load
from training.datasets import ImageMaskSet
from training.errors import ConfigError, DataError, SuperpixelError
from training.files import file_sha256
from training.images import image_size
from training.regions import RegionMap
from training.scenes import write_scene_set
from training.simulate_config import DataConfig, Method
from training.snapshot import HeldoutItem
from training.superpixel_pool import SegmentJob, segment_pool

VOID = 255  # in the masks written here, whatever the data set has
SCENES = "scenes"  # the procedural data set, made on the spot
FORMAT = 1

Tick = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PoolEntry:
    """An image that may be asked about, and its mask of 0..C-1 and VOID."""

    image_id: str
    image: Path
    mask: Path
    sha256: str  # of the image file


@dataclass(frozen=True)
class SimulationData:
    """Pool and test images; `hash` names the whole content."""

    classes: tuple[str, ...]
    pool: tuple[PoolEntry, ...]
    test: tuple[HeldoutItem, ...]
    hash: str


def prepare(config: DataConfig, folder: Path, tick: Tick) -> SimulationData:
    """Read and check every pair; masks go to `folder`/masks by content.

    Raises: DataError and ImageError as training.dataset_formats.load and ImageMaskSet.read;
    ConfigError if the data set has no class names or its folder was not given.
    """
    sets = {
        "pool": _spread(_split(config, config.pool_split, folder), config.pool_images),
        "test": _spread(_split(config, config.test_split, folder), config.test_images),
    }
    classes = sets["pool"].names
    if not classes:
        raise ConfigError(f"{config.name} has no class names.", hint="Add classes.json to it.")
    entries = {kind: _entries(kind, found, folder, tick) for kind, found in sets.items()}
    both = {e.sha256 for e in entries["pool"]} & {e.sha256 for e in entries["test"]}
    if both:
        raise DataError(
            f"{len(both)} images are in the pool ({config.pool_split}) and in the test split "
            f"({config.test_split}).",
            hint="Choose splits that share no image.",
        )
    words = [str(FORMAT), *classes]
    words += [f"{k} {e.image_id} {e.sha256} {e.mask.name}" for k in entries for e in entries[k]]
    test = tuple(HeldoutItem(e.image_id, e.image, e.mask) for e in entries["test"])
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:24]
    return SimulationData(classes, tuple(entries["pool"]), test, digest)


def region_maps(
    data: SimulationData, method: Method, folder: Path, workers: int, tick: Tick
) -> tuple[Path, ...]:
    """Superpixels of the pool for a method, made where they are not there yet, in pool order.

    Raises: SuperpixelError naming the first image that failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sides = [side_px(method, image_size(entry.image)) for entry in data.pool]
    paths = [
        folder / f"{method.superpixels}-{side}-{entry.sha256[:24]}-{FORMAT}.npz"
        for entry, side in zip(data.pool, sides, strict=True)
    ]
    for side in sorted(set(sides)):
        jobs = [
            SegmentJob(entry.image, path)
            for entry, path, own in zip(data.pool, paths, sides, strict=True)
            if own == side and not path.is_file()
        ]
        done = segment_pool(
            jobs, method.superpixels, side, workers=workers if len(jobs) > 16 else 1,
            progress=lambda n, total, _: tick(f"superpixels of {side} px", n, total),  # noqa: B023
        )  # fmt: skip
        failed = [result for result in done if result.error]
        if failed:
            raise SuperpixelError(
                f"{len(failed)} of {len(jobs)} images have no superpixels; the first, "
                f"{failed[0].job.image}: {failed[0].error}",
                hint="Choose another superpixel method, or leave the image out.",
            )
    return tuple(paths)


def side_px(method: Method, size: tuple[int, int]) -> int:
    """Side of a method's regions in an image of `size`, in px."""
    if method.side_share is None:
        return method.side_px
    return max(4, round(method.side_share * min(size)))


def count_regions(paths: Sequence[Path]) -> int:
    """Regions of all maps."""
    return sum(RegionMap.load(path).count for path in paths)


def _split(config: DataConfig, split: str, folder: Path) -> ImageMaskSet:
    if config.name == SCENES:
        root = Path(config.root) if config.root else folder / SCENES
        if not (root / "classes.json").is_file():
            write_scene_set(root)
        return load("camvid", root, split)  # its layout and classes
    if not config.root:
        raise ConfigError(
            f"The folder of {config.name} is not known.",
            hint="Give --root DIR, or set PIXBAL_DATA to the folder that holds "
            f"{config.name}/. --data scenes needs none.",
        )
    return load(config.name, config.root, split)


def _spread(found: ImageMaskSet, number: int | None) -> ImageMaskSet:
    """So many of the pairs, evenly spread, the first and the last among them."""
    if number is None or number >= len(found):
        return found
    chosen = np.linspace(0, len(found) - 1, number).round().astype(int)
    pairs = tuple(found.pairs[index] for index in chosen)
    return ImageMaskSet(pairs, found.num_classes, found.void, found.names, found.table)


def _entries(kind: str, found: ImageMaskSet, folder: Path, tick: Tick) -> list[PoolEntry]:
    masks = folder / "masks"
    masks.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, pair in enumerate(found):
        mask = found.read(index)[1]
        path = _stored_mask(np.where(mask == found.void, VOID, mask).astype(np.uint8), masks)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", pair.name)[-80:]
        image_id = f"{kind}{index:05d}-{name}"
        entries.append(PoolEntry(image_id, pair.image, path, file_sha256(pair.image)))
        tick(f"masks of the {kind}", index + 1, len(found))
    return entries


def _stored_mask(mask: NDArray[np.uint8], folder: Path) -> Path:
    digest = hashlib.sha256(f"{mask.shape}".encode() + mask.tobytes()).hexdigest()[:24]
    path = folder / f"{digest}.png"
    if not path.is_file():
        write_atomically(path, lambda file: Image.fromarray(mask).save(file, "PNG"))
    return path
