"""Images into a project: read, check, keep a copy by content, cut into regions, record."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from label_config import ClassSchema
from ml_backend.errors import BackendError
from ml_backend.heldout import checked_mask
from ml_backend.sources import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from ml_backend.sources import Source as Source
from ml_backend.sources import list_sources as list_sources
from ml_backend.sources import printable
from ml_backend.store import Image, Project, Store
from training.atomic import write_atomically
from training.errors import TrainingError
from training.images import content_id, read_picture
from training.superpixels import segment


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
    """What an import did; `unreadable` names each image that was refused, and why.

    Attributes:
        added: new images, held-out ones among them.
        known: images that the project has already, as they are.
        heldout: of the added, those that only measure the model.
        replaced: held-out images whose mask or picture has changed.
        restored: images that had been removed and are back.
        removed: images that had been removed and stay so.
        notes: what a person should know.
    """

    added: int
    known: int
    regions: int
    unreadable: tuple[tuple[str, str], ...]
    heldout: int = 0
    replaced: int = 0
    restored: int = 0
    removed: int = 0
    notes: tuple[str, ...] = ()


def import_lines(report: ImportReport) -> list[str]:
    """An import for a terminal."""
    further = [
        f"{count} {what}"
        for count, what in (
            (report.heldout, "held-out added"),
            (report.replaced, "held-out replaced"),
            (report.restored, "brought back"),
            (report.removed, "left out since they were removed (`pixbal images add` brings back)"),
        )
        if count
    ]
    return [
        f"images: {report.added - report.heldout} added, {report.known} known, "
        f"{len(report.unreadable)} refused; {report.regions} new regions",
        *([f"  {', '.join(further)}"] if further else []),
        *(f"  refused {name[:200]}: {reason}" for name, reason in report.unreadable),
        *(f"  {note}" for note in report.notes),
    ]


@dataclass(frozen=True)
class Prepared:
    """An image's row, and the bits that a 16-bit file uses."""

    row: Image
    bits: int | None = None


def import_images(
    store: Store,
    project: Project,
    sources: Sequence[Source],
    cut: Cut,
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    restore: bool = False,
) -> ImportReport:
    """Bring images into a project; an image that cannot be read is recorded with its reason.

    Doing it again adds nothing: images are known by their content, held-out ones by that of their
    masks, too. Every image is recorded as soon as it is ready, so an import that was killed goes
    on where it was.

    Args:
        restore: bring images back that were removed from the project.
    """
    work = _Import(store, project, cut, len(sources), progress, restore)
    workers = min(processes or os.cpu_count() or 1, max(1, len(sources) // 8))
    for prepared in _prepared(project.id, work.unknown(sources), cut, workers):
        work.record(prepared)
    return work.report()


@dataclass
class _Import:
    """One import as it goes."""

    store: Store
    project: Project
    cut: Cut
    total: int
    progress: Callable[[int, int], None] | None
    restore: bool
    done: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    bits: dict[int, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.schema = ClassSchema.from_json(self.project.schema_json)
        rows = self.store.images(self.project.id)
        self.rows = {(i.image_id, i.split): i for i in rows}
        self.by_source = {(i.source, i.split): i for i in rows if i.status == "ready"}

    def unknown(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The images that are to be read and cut; what is known, or refused at once, is noted."""
        for source in sources:
            try:
                here, data = _fetched(source)
            except (BackendError, OSError) as error:
                self.refuse(_refused(self.project.id, source, _why(error)))
                continue
            fault = self._fault(here, content_id(data))
            if fault is not None:
                self.refuse(_refused(self.project.id, here, fault, data))
            elif not self._is_known(here, content_id(data)):
                yield from self._with_mask(here, data)

    def _with_mask(self, source: Source, data: bytes) -> Iterator[Source]:
        """The source with its mask kept as class indices; nothing where that is refused."""
        if source.split != "heldout":
            yield source
            return
        try:
            kept = keep_mask(source, self.schema, self.cut)
        except (TrainingError, OSError) as error:
            self.refuse(_refused(self.project.id, source, _why(error), data))
        else:
            yield replace(source, mask=kept)

    def _fault(self, source: Source, image_id: str) -> str | None:
        if source.name != printable(source.name):
            return "its name is not UTF-8: rename the file"
        other = self.rows.get((image_id, "pool" if source.split == "heldout" else "heldout"))
        if other is None or other.status != "ready":
            return None
        return f"it is the same picture as {other.source}, which is " + (
            "held out: what a model learns from cannot measure it. Remove it there first: "
            f"`pixbal images heldout remove {image_id}`"
            if other.split == "heldout"
            else "to be labelled: what a model learns from cannot measure it. Take another one, or "
            f"remove it there first: `pixbal images remove {image_id}`"
        )

    def _is_known(self, source: Source, image_id: str) -> bool:
        row = self.rows.get((image_id, source.split))
        if row is None or row.status == "unreadable":
            return False
        back = row.status == "removed"
        if back and not self.restore and source.split == "pool":
            return self._count("removed")
        if source.split == "heldout":
            return self._known_heldout(source, row)
        if back:
            self.store.restore_image(self.project.id, image_id)
            self.rows[image_id, "pool"] = replace(row, status="ready")
            return self._count("restored")
        if source.ls_task_id is not None and row.ls_task_id is None:
            self.store.update_image(self.project.id, image_id, ls_task_id=source.ls_task_id)
        return self._count("known")

    def _known_heldout(self, source: Source, row: Image) -> bool:
        """The picture is known; its mask may have changed, or be back."""
        try:
            mask = keep_mask(source, self.schema, self.cut)
        except (TrainingError, OSError) as error:
            self.unreadable.append((printable(source.name), _why(error)))
            return self._count("refused")
        if row.status == "ready" and row.mask_path == str(mask):
            return self._count("known")
        new = replace(row, source=source.name, mask_path=str(mask), status="ready")
        self.store.put_image(new)
        self.rows[row.image_id, row.split] = new
        return self._count("replaced" if row.status == "ready" else "restored")

    def _count(self, what: str) -> bool:
        self.counts[what] = self.counts.get(what, 0) + 1
        self._step()
        return True

    def _step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)

    def refuse(self, row: Image) -> None:
        """Record an image that is not taken."""
        self.unreadable.append((row.source, row.reason or ""))
        known = self.rows.get((row.image_id, row.split))
        if known is None or known.status == "unreadable":
            self.store.add_images([row])
        self._step()

    def record(self, prepared: Prepared) -> None:
        """Record an image that was read."""
        row = prepared.row
        key = (row.image_id, row.split)
        if row.status == "unreadable":
            self.refuse(row)
            return
        known = self.rows.get(key)
        if known is not None and known.status != "unreadable":
            self._count("known")  # the same picture under another name
            return
        twin = self._fault(Source(row.source, Path(row.path), row.split), row.image_id)
        if twin is not None:  # both came in this call
            self.refuse(replace(row, status="unreadable", reason=twin))
            return
        self.store.add_images([row])
        self.rows[key] = row
        if prepared.bits not in (None, 16):
            self.bits.setdefault(prepared.bits or 0, []).append(row.source)
        self._count("heldout" if row.split == "heldout" else "added")
        self.counts["regions"] = self.counts.get("regions", 0) + row.region_count
        self._note_changed(row)

    def _note_changed(self, row: Image) -> None:
        """A file was replaced in place: its old picture is held out no more, or stays to label."""
        before = self.by_source.get((row.source, row.split))
        if before is None or before.image_id == row.image_id:
            return
        if row.split == "heldout":
            self.store.put_image(replace(before, status="removed"))
            self.counts["replaced"] = self.counts.get("replaced", 0) + 1
            return
        self.notes.append(
            f"{row.source} has changed since it was imported: it is a new image; the earlier one "
            f"stays, too (`pixbal images remove {before.image_id}` removes it)"
        )

    def report(self) -> ImportReport:
        """What was done."""
        count = self.counts.get
        notes = [
            f"{len(names)} images use {bits} bits of 16, and are scaled by that: {names[0]}"
            + (", ..." if len(names) > 1 else "")
            for bits, names in sorted(self.bits.items())
        ]
        return ImportReport(
            added=count("added", 0) + count("heldout", 0),
            known=count("known", 0),
            regions=count("regions", 0),
            unreadable=tuple(self.unreadable),
            heldout=count("heldout", 0),
            replaced=count("replaced", 0),
            restored=count("restored", 0),
            removed=count("removed", 0),
            notes=(*notes, *self.notes),
        )


def _fetched(source: Source) -> tuple[Source, bytes]:
    """A source whose file is here, and the file's bytes."""
    if source.load is not None:
        source = replace(source, path=source.load(), load=None)
    return source, source.path.read_bytes()


def _why(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _prepared(
    project_id: int, sources: Iterable[Source], cut: Cut, workers: int
) -> Iterable[Prepared]:
    """Prepared rows as they come; in processes of their own where there is enough to do."""
    if workers == 1:
        for source in sources:
            yield prepare(project_id, source, cut)
        return
    # spawn: the caller may hold threads and database connections, which a fork would copy.
    context = multiprocessing.get_context("spawn")
    running: set[Future[Prepared]] = set()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        # Few ahead: a source may have to be fetched first, and what is done is recorded at once.
        for source in sources:
            running.add(pool.submit(prepare, project_id, source, cut))
            if len(running) >= 2 * workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def prepare(project_id: int, source: Source, cut: Cut) -> Prepared:
    """Read, copy and cut one image; the row says "unreadable" and why where that fails.

    The mask of a held-out image is one that `keep_mask` has kept.
    """
    try:
        data = source.path.read_bytes()
        picture = read_picture(data, max_pixels=cut.max_pixels)
    except (TrainingError, OSError) as error:
        return Prepared(_refused(project_id, source, _why(error)))
    image_id = content_id(data)
    folder = cut.home / "regions" / image_id[:2]
    path = folder / f"{image_id}-{cut.method}-{cut.side_px}-{cut.key}.npz"
    try:
        region_map = segment(picture.pixels, method=cut.method, side_px=cut.side_px)
        blob = keep(data, cut.home / "images", image_id, source.path.suffix.lower())
        folder.mkdir(parents=True, exist_ok=True)
        region_map.save(path)
    except TrainingError as error:
        return Prepared(_refused(project_id, source, str(error), data))
    except OSError as error:
        raise _no_room(source.name, cut.home, error) from error
    height, width = picture.pixels.shape[:2]
    row = Image(
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
        mask_path=None if source.mask is None else str(source.mask),
        status="ready",
        reason=None,
        ls_task_id=source.ls_task_id,
    )
    return Prepared(row, picture.bits)


def keep_mask(source: Source, schema: ClassSchema, cut: Cut) -> Path:
    """Keep the mask of a held-out image as class indices; where it lies.

    Raises:
        TrainingError: it cannot be understood. OSError: it cannot be read.
        BackendError: there is no room for it.
    """
    mask = checked_mask(source, schema, cut.max_pixels)
    suffix = source.mask.suffix if source.mask and mask.as_given else ".png"
    try:
        return keep(mask.data, cut.home / "masks", content_id(mask.data), suffix)
    except OSError as error:
        raise _no_room(str(source.mask), cut.home, error) from error


def _no_room(name: str, home: Path, error: OSError) -> BackendError:
    return BackendError(
        f"cannot keep {printable(name)} under {home}: {error.strerror or error}",
        hint="Check the free space and the permissions of PIXBAL_HOME, then run it again.",
    )


def _refused(project_id: int, source: Source, reason: str, data: bytes | None = None) -> Image:
    return Image(
        project_id=project_id,
        image_id=content_id(os.fsencode(source.name) if data is None else data),
        source=printable(source.name),
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
