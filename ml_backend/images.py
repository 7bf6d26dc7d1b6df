"""The images of a project change: more come, some go and come back, others measure the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from label_config import ClassSchema
from ml_backend.errors import BackendError, Conflict, LabelStudioError, NotFound
from ml_backend.gather import gather
from ml_backend.label_studio import LabelStudio, Refused
from ml_backend.locks import file_lock, project_lock
from ml_backend.pool import Cut, ImportReport, import_images
from ml_backend.settings import Settings
from ml_backend.sources import Found, printable
from ml_backend.store import Image, Project, Query, Store
from training.images import content_id

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RemovedImages:
    """What a removal did.

    Attributes:
        images: those that are out of the pool now.
        before: those that were out already.
        withdrawn: open questions that were taken back.
        answers: labels that no longer train.
        waiting: open questions that are still in Label Studio, and why.
    """

    images: tuple[Image, ...]
    before: tuple[Image, ...] = ()
    withdrawn: int = 0
    answers: int = 0
    waiting: str | None = None

    def lines(self) -> list[str]:
        """The report for a terminal."""
        found = [f"removed {i.source} ({i.image_id})" for i in self.images]
        found += [f"{i.source} ({i.image_id}) was removed before" for i in self.before]
        found.append(
            f"{self.withdrawn} open questions withdrawn; {self.answers} answers are kept and train "
            "no longer (`pixbal images add` brings an image back with them)"
        )
        if self.waiting is not None:
            found.append(
                f"Open questions are still in Label Studio ({self.waiting}); the worker withdraws "
                "them when it next compares."
            )
        return found


def add_images(
    settings: Settings,
    store: Store,
    ls: LabelStudio,
    project: Project,
    specs: Sequence[str],
    *,
    from_project: int | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Bring more images into the pool, and those back that had been removed.

    Their regions take part from the next choice of questions on.

    Raises:
        BackendError: nothing is there.
    """
    found = gather(
        settings,
        ls,
        ClassSchema.from_json(project.schema_json),
        images=specs,
        from_project=from_project,
        stored=store.images(project.id),
    )
    return _import(settings, store, project, found, progress)


def add_heldout(
    settings: Settings,
    store: Store,
    ls: LabelStudio,
    project: Project,
    folder: str,
    *,
    alone: bool = False,
    progress: Progress | None = None,
) -> tuple[ImportReport, tuple[Image, ...]]:
    """Bring in held-out images; `alone`: they take the place of those there are.

    They measure from the next round on. Nothing changes where one of them cannot be used.

    Returns:
        What was done, and the images that are held out no more.

    Raises:
        BackendError: some cannot be used, with the reasons.
    """
    stored = store.images(project.id)
    others = [i for i in stored if not (alone and i.split == "heldout")]
    schema = ClassSchema.from_json(project.schema_json)
    found = gather(settings, ls, schema, heldout=folder, stored=others)
    report = _import(settings, store, project, found, progress)
    if not alone:
        return report, ()
    if report.unreadable:
        raise BackendError(
            f"{report.unreadable[0][0]}: {report.unreadable[0][1]}",
            hint="The held-out images from before stay beside the new ones. Correct the file and "
            "run it again.",
        )
    kept = {content_id(source.path.read_bytes()) for source in found.sources}
    gone = [
        i
        for i in store.images(project.id, split="heldout", status="ready")
        if i.image_id not in kept
    ]
    for image in gone:
        store.put_image(replace(image, status="removed"))
    return report, tuple(gone)


def _import(
    settings: Settings, store: Store, project: Project, found: Found, progress: Progress | None
) -> ImportReport:
    with file_lock(project_lock(settings.home, project.id), what=f"import into {project.id}"):
        cut = Cut(settings.home, project.method, project.side_px, settings.max_pixels)
        report = import_images(store, project, found.sources, cut, progress=progress, restore=True)
    return replace(report, notes=(*found.notes, *report.notes))


def find_images(store: Store, project_id: int, names: Sequence[str], split: str) -> list[Image]:
    """Images by id, by their whole name, or by a file name that only one has; removed ones too.

    Raises:
        NotFound: no such image. Conflict: several.
    """
    images = store.images(project_id)
    return [_find(images, name, split) for name in dict.fromkeys(names)]


def _find(images: Sequence[Image], name: str, split: str) -> Image:
    here = [i for i in images if i.split == split and i.status != "unreadable"]
    shown = printable(name)
    for matches in (
        [i for i in here if shown in (i.image_id, i.source)],
        [i for i in here if i.source == printable(str(Path(name).absolute()))],
        [i for i in here if Path(i.source).name == shown],
    ):
        ready = [i for i in matches if i.status == "ready"] or matches
        if len(ready) > 1:
            raise Conflict(
                f"{shown!r} is the name of {len(ready)} images",
                hint="Give an id: " + ", ".join(f"{i.image_id} ({i.source})" for i in ready[:5]),
            )
        if ready:
            return ready[0]
    group = "pixbal images" if split == "pool" else "pixbal images heldout"
    named = [i for i in images if shown in (i.image_id, i.source, Path(i.source).name)]
    what = "; it was refused" if named else ""
    if any(i.split != split and i.status != "unreadable" for i in named):
        what = f"; it is {'held out' if split == 'pool' else 'to be labelled'}"
    raise NotFound(
        f"there is no image {shown!r} " + ("to label" if split == "pool" else "held out") + what,
        hint=f"`{group} list` shows what there is.",
    )


def remove_images(
    store: Store, ls: LabelStudio, project_id: int, images: Sequence[Image]
) -> RemovedImages:
    """Take images out of the pool: no more questions, the open ones withdrawn, answers kept.

    A Label Studio that does not answer changes nothing about that: the worker withdraws later.
    """
    now = [i for i in images if i.status != "removed"]
    for image in now:
        store.remove_image(project_id, image.image_id)
    waiting, withdrawn = None, 0
    try:
        withdrawn = withdraw_removed(store, ls, project_id)
    except LabelStudioError as error:
        waiting = error.message
    ids = {i.image_id for i in images}
    asked = {q.id for q in store.queries(project_id) if q.image_id in ids}
    answers = sum(query_id in asked for query_id in store.effective_labels(project_id))
    before = tuple(i for i in images if i.status == "removed")
    return RemovedImages(tuple(now), before, withdrawn, answers, waiting)


def remove_heldout(store: Store, images: Sequence[Image]) -> int:
    """Let images measure no more, from the next round on; how many did until now."""
    ready = [i for i in images if i.status == "ready"]
    for image in images:
        store.put_image(replace(image, status="removed"))
    return len(ready)


def withdraw_removed(store: Store, ls: LabelStudio, project_id: int) -> int:
    """Take questions about removed images back; may run at any time and twice.

    A task is looked at again just before it is deleted: one that somebody has answered stays.

    Returns:
        Questions withdrawn.

    Raises:
        LabelStudioError: it does not answer; what was withdrawn until then stays so.
    """
    removed = {i.image_id for i in store.images(project_id, split="pool", status="removed")}
    if not removed:
        return 0
    queries = [q for q in store.queries(project_id) if q.image_id in removed]
    planned = [q.id for q in queries if q.status == "planned"]
    store.set_query_status(planned, "withdrawn")
    withdrawn = len(planned)
    for query in queries:
        if query.status == "open" and query.task_id is not None:
            withdrawn += _withdraw(store, ls, project_id, query, query.task_id)
    if withdrawn:
        log.info("project %s: %s questions about removed images", project_id, withdrawn)
    return withdrawn


def _withdraw(store: Store, ls: LabelStudio, project_id: int, query: Query, task_id: int) -> bool:
    try:
        answered = bool(ls.annotations(task_id))
    except Refused as error:
        if error.code != 404:
            raise
        answered = False  # the task is gone already
    if answered:
        return False
    ls.delete_tasks(project_id, [task_id])
    store.set_query_status([query.id], "withdrawn")
    return True


def image_table(store: Store, project_id: int, split: str) -> list[dict[str, Any]]:
    """The images of a split with their questions, for a list."""
    asked: dict[str, int] = {}
    answered: dict[str, int] = {}
    for query in store.queries(project_id):
        asked[query.image_id] = asked.get(query.image_id, 0) + (query.status != "withdrawn")
        answered[query.image_id] = answered.get(query.image_id, 0) + (query.status == "answered")
    return [
        {
            "id": image.image_id,
            "name": image.source,
            "status": "refused" if image.status == "unreadable" else image.status,
            "reason": image.reason,
            "width": image.width,
            "height": image.height,
            "regions": image.region_count,
            "asked": asked.get(image.image_id, 0),
            "answered": answered.get(image.image_id, 0),
        }
        for image in sorted(store.images(project_id, split=split), key=lambda i: i.source)
    ]
