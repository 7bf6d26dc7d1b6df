"""Images into the pool: read, check, keep a copy by content, cut into regions, record."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from ml_backend.errors import BackendError
from ml_backend.store import Image, Project, Store
from training.atomic import write_atomically
from training.datasets import find_pairs
from training.errors import TrainingError
from training.images import content_id, read_image
from training.superpixels import segment

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True)
class Source:
    """One image to import.

    Attributes:
        name: what people know it by: a path or an address.
        path: the file to read.
        split: "pool", or "heldout" for images with masks that only measure the model.
        mask: index mask of a held-out image.
        ls_task_id: the Label Studio task that it came from.
    """

    name: str
    path: Path
    split: str = "pool"
    mask: Path | None = None
    ls_task_id: int | None = None


@dataclass(frozen=True)
class Cut:
    """How images are cut into regions and where the results are kept."""

    home: Path
    method: str
    side_px: int
    max_pixels: int

    @property
    def key(self) -> str:
        """Content key of method and parameters: another method never meets an old map."""
        text = json.dumps({"method": self.method, "side_px": self.side_px}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ImportReport:
    """What an import did; `unreadable` names each image that was refused, and why."""

    added: int
    known: int
    regions: int
    unreadable: tuple[tuple[str, str], ...]


def list_sources(spec: str) -> list[Source]:
    """Images named by a folder (searched through), a glob, or a text file with one path a line.

    Raises:
        BackendError: nothing there, or no image among it.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    elif path.is_file() and path.suffix.lower() == ".txt":
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        named = [Path(line).expanduser() for line in lines if line and not line.startswith("#")]
        found = [p if p.is_absolute() else path.parent / p for p in named]
    elif path.is_file():
        found = [path]
    else:
        pattern = str(path)
        anchor = Path(pattern.split("*", 1)[0]).parent if "*" in pattern else path
        found = (
            sorted(
                p
                for p in anchor.glob(str(Path(pattern).relative_to(anchor)))
                if p.suffix.lower() in IMAGE_SUFFIXES
            )
            if anchor.is_dir()
            else []
        )
    if not found:
        raise BackendError(
            f"no image found at {spec!r}",
            hint="Give a folder, a glob in quotes such as 'photos/*.jpg', or a .txt file with one "
            f"path a line. Read are {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    return [Source(name=str(p), path=p.resolve()) for p in found]


def list_heldout(folder: str, num_classes: int) -> list[Source]:
    """Held-out images with masks: a folder that holds `images/` and `masks/` of equal stems.

    Mask values from `num_classes` on are void.
    """
    root = Path(folder).expanduser().resolve()
    pairs = find_pairs(root / "images", root / "masks", num_classes)
    return [Source(str(p.image), p.image, split="heldout", mask=p.mask) for p in pairs]


def import_images(
    store: Store,
    project: Project,
    sources: Sequence[Source],
    cut: Cut,
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Bring images into a project; an image that cannot be read is recorded with its reason.

    Doing it again adds nothing: images are known by their content. Every image is recorded as
    soon as it is ready, so an import that was killed goes on where it was.
    """
    known = {(i.image_id, i.split) for i in store.images(project.id)}
    names = {i.source for i in store.images(project.id) if i.status == "ready"}
    todo = [s for s in sources if s.name not in names]
    added = regions = 0
    again = len(sources) - len(todo)
    unreadable: list[tuple[str, str]] = []
    for done, row in enumerate(_prepared(project.id, todo, cut, processes), start=1):
        if row.status == "unreadable":
            unreadable.append((row.source, row.reason or ""))
        elif (row.image_id, row.split) in known:
            again += 1
        else:
            added, regions = added + 1, regions + row.region_count
        known.add((row.image_id, row.split))
        store.add_images([row])
        if progress is not None:
            progress(done, len(todo))
    return ImportReport(added, again, regions, tuple(unreadable))


def _prepared(
    project_id: int, sources: Sequence[Source], cut: Cut, processes: int | None
) -> Iterable[Image]:
    """Prepared rows as they come; in processes of their own where there is enough to do."""
    workers = min(processes or os.cpu_count() or 1, max(1, len(sources) // 8))
    if workers == 1:
        for source in sources:
            yield prepare(project_id, source, cut)
        return
    # spawn: the caller may hold threads and database connections, which a fork would copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(prepare, project_id, source, cut) for source in sources]
        for future in as_completed(futures):
            yield future.result()


def prepare(project_id: int, source: Source, cut: Cut) -> Image:
    """Read, copy and cut one image; the row says "unreadable" and why where that fails."""
    try:
        data = source.path.read_bytes()
    except OSError as error:
        return _unreadable(project_id, source, source.name.encode(), error.strerror or str(error))
    try:
        image = read_image(data, max_pixels=cut.max_pixels)
        image_id = content_id(data)
        blob = keep(data, cut.home / "images", image_id, source.path.suffix.lower())
        mask = None
        if source.mask is not None:
            mask_data = source.mask.read_bytes()
            mask = keep(mask_data, cut.home / "masks", content_id(mask_data), source.mask.suffix)
        folder = cut.home / "regions" / image_id[:2]
        path = folder / f"{image_id}-{cut.method}-{cut.side_px}-{cut.key}.npz"
        region_map = segment(image, method=cut.method, side_px=cut.side_px)
        folder.mkdir(parents=True, exist_ok=True)
        region_map.save(path)
    except TrainingError as error:
        return _unreadable(project_id, source, data, str(error))
    except OSError as error:
        raise BackendError(
            f"cannot keep {source.name} under {cut.home}: {error.strerror or error}",
            hint="Check the free space and the permissions of PIXBAL_HOME, then run it again.",
        ) from error
    height, width = image.shape[:2]
    return Image(
        project_id=project_id,
        image_id=image_id,
        source=source.name,
        path=str(blob),
        width=width,
        height=height,
        regions_path=str(path),
        regions_hash=region_map.hash,
        region_count=region_map.count,
        split=source.split,
        mask_path=None if mask is None else str(mask),
        status="ready",
        reason=None,
        ls_task_id=source.ls_task_id,
    )


def _unreadable(project_id: int, source: Source, data: bytes, reason: str) -> Image:
    return Image(
        project_id=project_id,
        image_id=content_id(data),
        source=source.name,
        path="",
        width=0,
        height=0,
        regions_path="",
        regions_hash="",
        region_count=0,
        split=source.split,
        mask_path=None,
        status="unreadable",
        reason=reason,
        ls_task_id=source.ls_task_id,
    )


def keep(data: bytes, folder: Path, key: str, suffix: str) -> Path:
    """Write bytes under their content key, atomically; an equal file is left alone.

    A copy, not a link: a file that its owner edits in place must not change under a region map.
    """
    target = folder / key[:2] / f"{key}{suffix}"
    if target.exists() and target.stat().st_size == len(data):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: file.write(data))
    return target
