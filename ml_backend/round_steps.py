"""The steps of a round as plain functions: each leaves one thing behind and may run twice.

    reconcile -> snapshot -> train (stage 1, pseudo labels, stage 2) -> publish -> score -> push

The durable engine that calls them is in `workflow`; nothing here knows it.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import DataError, DBAPIError

from label_config import ClassSchema
from ml_backend import asking
from ml_backend.copies import remove_copies
from ml_backend.errors import BackendError, Conflict, LabelStudioError, NotFound
from ml_backend.failures import reason_of
from ml_backend.heldout import check_stored
from ml_backend.ingest import apply_event
from ml_backend.labels import possible_classes, trainable_labels
from ml_backend.leases import project_lease
from ml_backend.predictions import NO_MODEL
from ml_backend.priority import stand_back
from ml_backend.push import Batch, push_questions
from ml_backend.reconcile import reconcile
from ml_backend.runtime import Runtime, version_name
from ml_backend.store import Image, Project, Round, Store, VersionRow, held_token
from ml_backend.time_left import TimeLeft
from ml_backend.version_use import published_metrics
from training.errors import CheckpointError, SnapshotError
from training.snapshot import HeldoutItem, Snapshot, SnapshotItem, write_snapshot

if TYPE_CHECKING:
    from training.loop import Progress
    from training.pool_scores import PoolScores

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 1.0
PARTIAL = ".partial"


def apply_pending_events(store: Store) -> int:
    """Apply every stored event; one that fails is kept with its error and never blocks the rest.

    What a person asks for is left to the worker, which trains when no round runs.
    """
    applied = 0
    wishes = (*asking.TRAIN_ACTIONS, asking.PUSH)
    while events := store.pending_events(limit=500, without=wishes):
        for event in events:
            error: str | None = None
            try:
                apply_event(store, event)
            except Exception as failure:
                if isinstance(failure, DBAPIError) and not isinstance(failure, DataError):
                    raise  # the store is away or full: no fault of this event
                error = str(failure) if isinstance(failure, BackendError) else reason_of(failure)
                log.warning("event %s (%s) kept aside: %s", event.id, event.action, error)
            store.finish_event(event.id, error=error)
            applied += 1
    return applied


def reconcile_labels(runtime: Runtime, project_id: int, number: int) -> int:
    """Bring the label store to what Label Studio says; returns the labels that training can use."""
    runtime.store.update_round(project_id, number, state="reconciling")
    apply_pending_events(runtime.store)
    with _waiting_noted(runtime.store, project_id, number):
        report = reconcile(runtime.store, runtime.ls, project_id, datetime.now(UTC))
        remove_copies(runtime.store, runtime.ls, project_id, report.copies)
    log.info("round %s: reconciled %s", number, report)
    return len(trainable_labels(runtime.store, project_id))


def write_round_snapshot(runtime: Runtime, project_id: int, number: int) -> str:
    """Freeze the labels and the settings of a round, once; a replay finds them as they are.

    A try that somebody asked for freezes anew. What was trained on the same content is kept, and
    `training.rounds.run_round` goes on from what the settings leave standing.

    Raises:
        SnapshotError: there is no label to train on.
    """
    store = runtime.store
    store.update_round(project_id, number, state="snapshot")
    out = runtime.snapshot_dir(project_id, number)
    project = runtime.project(project_id)
    row = store.round(project_id, number)
    if row is None:
        raise NotFound(f"Project {project_id} has no round {number}.")
    frozen = row.train_config is not None
    published = runtime.version_dir(project_id, number).exists()
    if out.exists() and (frozen or published):
        try:
            snapshot = Snapshot.load(out)
        except SnapshotError as error:
            log.warning("round %s: the snapshot is damaged, made anew: %s", number, error)
            shutil.rmtree(out)
        else:
            _freeze(runtime, project, row, snapshot, anew=False)
            return str(snapshot.path)
    snapshot = _write_snapshot(runtime, project, out)
    _freeze(runtime, project, row, snapshot, anew=True)
    return str(snapshot.path)


def _write_snapshot(runtime: Runtime, project: Project, out: Path) -> Snapshot:
    """The snapshot of what is known now; another one at its place goes, with all it led to."""
    store = runtime.store
    schema = ClassSchema.from_json(project.schema_json)
    images = {i.image_id: i for i in store.images(project.id, split="pool", status="ready")}
    by_image: dict[str, dict[int, list[int]]] = {}
    for region, label in trainable_labels(store, project.id).items():
        indices = [schema.index(name) for name in label.classes]
        indices += [len(schema.names)] if label.other else []
        by_image.setdefault(region.image_id, {})[region.index] = indices
    possible: dict[str, dict[int, list[int]]] = {}
    for region, names in possible_classes(store, project).items():
        ticked = by_image.get(region.image_id, {}).get(region.index)
        if ticked is not None:
            left = [c for c in map(schema.index, names) if c not in ticked]
            possible.setdefault(region.image_id, {})[region.index] = left
    items = [
        SnapshotItem(
            image_id,
            Path(images[image_id].path),
            Path(images[image_id].regions_path),
            regions,
            possible.get(image_id, {}),
        )
        for image_id, regions in sorted(by_image.items())
        if image_id in images
    ]
    held = store.images(project.id, split="heldout", status="ready")
    for image in held:
        check_stored(image, images)
    heldout = [_heldout(image) for image in held]
    out.parent.mkdir(parents=True, exist_ok=True)

    def write() -> Snapshot:
        return write_snapshot(
            out, classes=schema.names, undefined=schema.undefined, items=items, heldout=heldout
        )

    try:
        return write()
    except SnapshotError:
        if not out.exists():
            raise
        log.info("labels or held-out images changed since the last try: trained from the start")
        shutil.rmtree(out)
        for folder in work_folders(out.parents[2] / "versions" / out.parent.name / out.name):
            shutil.rmtree(folder, ignore_errors=True)
        return write()


def _freeze(
    runtime: Runtime, project: Project, row: Round, snapshot: Snapshot, *, anew: bool
) -> None:
    """Note what the round is made of, once: answers that come later are those of the next one."""
    if row.labels is not None and not anew:
        return
    runtime.store.update_round(
        project.id,
        row.number,
        train_config=row.train_config or project.train_config,
        labels=sum(len(item.labels) for item in snapshot.items),
        clicks=runtime.store.clicks(project.id),
    )


def _heldout(image: Image) -> HeldoutItem:
    if image.mask_path is None:
        raise BackendError(
            f"held-out image {image.source} has no mask",
            hint="Import it with its mask: `pixbal images heldout add FOLDER` (images/, masks/).",
        )
    return HeldoutItem(image.image_id, Path(image.path), Path(image.mask_path))


def train_round(runtime: Runtime, project_id: int, number: int, snapshot: str) -> str:
    """Both stages, from the last checkpoint of an earlier try on. Returns the version folder."""
    from training.rounds import run_round  # imports torch

    stand_back()  # of the workflow's thread; the one that applies events keeps its turn
    project, row = runtime.project(project_id), runtime.store.round(project_id, number)
    frozen = None if row is None else row.train_config
    config = runtime.train_config(replace(project, train_config=frozen or project.train_config))
    out = runtime.version_dir(project_id, number)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = _progress_writer(runtime.store, project_id, number, TimeLeft(config))
    version = run_round(
        Path(snapshot),
        config,
        out,
        resume=True,
        progress=report,
        name=version_name(project_id, number),
        cache_dir=runtime.features_dir,
        work=claim_work(out, held_token(project_lease(project_id))),
    )
    return str(version.path)


def work_folders(version: Path) -> list[Path]:
    """Folders of work in progress on a version, the newest last."""
    found = [path for path in version.parent.glob("*") if _token(version, path) >= 0]
    return sorted(found, key=lambda path: _token(version, path))


def _token(version: Path, folder: Path) -> int:
    """The lease's token in the name of a folder of work on a version; -1 for other folders."""
    name = re.compile(re.escape(version.name) + r"(?:\.(\d+))?" + re.escape(PARTIAL))
    match = name.fullmatch(folder.name)
    return -1 if match is None else int(match[1] or 0)


def claim_work(version: Path, token: int) -> Path:
    """The folder to train a version in, with what earlier tries left there.

    Its name carries the token of the lease. A worker that lost the lease goes on under the old
    name, which leads nowhere: it can neither change files of the new owner nor publish. A folder
    with a higher token than ours belongs to whoever took the lease from us, and stays.
    """
    work = version.with_name(f"{version.name}.{token}{PARTIAL}")
    earlier = [folder for folder in work_folders(version) if _token(version, folder) <= token]
    *older, newest = earlier or [work]
    for folder in older:
        shutil.rmtree(folder, ignore_errors=True)
    if newest != work:
        newest.rename(work)
    # Whoever locked this file has lost the lease; a lock lies on the file, not on its name.
    (work / "lock").unlink(missing_ok=True)
    return work


def _progress_writer(
    store: Store, project_id: int, number: int, left: TimeLeft
) -> Callable[[Progress], None]:
    """Write progress to the round's record, at most once a second and at each change of stage."""
    last_stage = ""
    last_time = 0.0

    def write(progress: Progress) -> None:
        nonlocal last_stage, last_time
        now, eta_s = time.monotonic(), left.after(progress)
        if progress.stage == last_stage and now - last_time < PROGRESS_EVERY_S:
            return
        if progress.stage != last_stage:
            log.info("round %s: %s", number, progress.stage)
        last_stage, last_time = progress.stage, now
        store.update_round(
            project_id,
            number,
            state=progress.stage,
            stage=progress.stage,
            epoch=progress.epoch,
            step=progress.step,
            steps=progress.steps,
            loss=_finite(progress.loss),
            eta_s=_finite(eta_s),
        )

    return write


def _finite(value: float) -> float | None:
    """NaN stands for "none yet", which JSON and the page do not know."""
    return value if math.isfinite(value) else None


def publish_version(runtime: Runtime, project_id: int, number: int, folder: str) -> str:
    """Record the version; from here on it is the one in use. Returns its name."""
    from training.versions import Version

    store = runtime.store
    store.update_round(project_id, number, state="publishing")
    version = Version.load(Path(folder))
    new = store.add_version(
        VersionRow(
            project_id=project_id,
            name=version.name,
            round=number,
            path=str(version.path),
            metrics=published_metrics(
                store, runtime.project(project_id), version.name, version.metrics
            ),
            weights_hash=version.weights_hash,
            created_at=datetime.now(UTC),
        )
    )
    row = store.round(project_id, number)
    # Done again after a kill, it must not undo a choice that was made since.
    if new or row is None or row.version is None:
        store.update_project(project_id, current_version=version.name)
    store.update_round(project_id, number, version=version.name)
    return version.name


def name_in_use(project: Project) -> str:
    """The version whose scores and ticks the questions carry; before the first one, NO_MODEL."""
    return project.current_version or NO_MODEL


def scores_in_use(runtime: Runtime, project: Project) -> PoolScores | None:
    """The scores of the version in use; None where they are missing, damaged, or lack an image."""
    from training.pool_scores import PoolScores

    path = runtime.scores_path(project.id, name_in_use(project))
    if not path.exists():
        return None
    try:
        scores = PoolScores.load(path)
    except CheckpointError as error:
        log.warning("project %s: scored anew: %s", project.id, error)
        return None
    pool = runtime.store.images(project.id, split="pool", status="ready")
    known = {name: len(found.score) for name, found in scores.images.items()}
    return scores if all(known.get(i.image_id) == i.region_count for i in pool) else None


def score_current(runtime: Runtime, project: Project) -> Path:
    """Score the whole pool with the version in use; before the first one, at random by the seed."""
    from training.scoring import PoolImage, score_pool
    from training.versions import Version

    name = name_in_use(project)
    row = runtime.store.version(project.id, name)
    if row is None and name != NO_MODEL:
        raise NotFound(f"Project {project.id} has no version {name}.", "See `pixbal status`.")
    out = runtime.scores_path(project.id, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    score_pool(
        None if row is None else Version.load(Path(row.path)),
        [
            PoolImage(i.image_id, Path(i.path), Path(i.regions_path))
            for i in runtime.store.images(project.id, split="pool", status="ready")
        ],
        runtime.train_config(project),
        seed=project.seed + (0 if row is None else row.round),
        out=out,
        cache_dir=runtime.features_dir,
    )
    return out


def next_round(rounds: Sequence[Round]) -> int:
    """The round that answers to new questions belong to: after all whose labels are frozen.

    A failed one freezes them anew when it is tried again.
    """
    return 1 + max((row.number for row in rounds if row.state != "failed"), default=0)


def why_no_push(project: Project) -> str | None:
    """Why nobody may push questions of a project now; None where they may be."""
    reasons = {
        "importing": "Its images are being imported; `pixbal init` again goes on with that.",
        "paused": f"The project is paused: `pixbal project resume --project {project.id}`.",
        "archived": f"The project is archived: `pixbal project resume --project {project.id}`.",
    }
    if project.push_held and project.state == "active":
        return f"It was made with --no-push: `pixbal push --project {project.id}` begins."
    return reasons.get(project.state)


def push_round(runtime: Runtime, project_id: int, number: int) -> int:
    """Choose and push the questions after a round; returns how many regions were pushed."""
    runtime.store.update_round(project_id, number, state="pushing")
    project = runtime.project(project_id)
    if why_no_push(project) is not None:
        return 0
    with _waiting_noted(runtime.store, project_id, number):
        return _push(runtime, project, number + 1, top_up=False)


def push_next(runtime: Runtime, project: Project) -> tuple[int, str | None]:
    """Push the questions that follow the version in use, outside a round.

    Only for whoever holds the lease of its questions. Nothing of a round is written.

    Returns:
        How many regions were pushed, and, where none was, why.
    """
    reason = why_no_push(project)
    if reason is not None:
        return 0, reason
    number = next_round(runtime.store.rounds(project.id))
    # What is open gets the scores of the version in use, as after a roll-back or where an answer
    # was deleted; that is no wish for more.
    renews = bool(asking.stale_questions(runtime.store, project))
    pushed = _push(runtime, project, number, top_up=True, choose=not renews)
    log.info("project %s: %s questions pushed", project.id, pushed)
    if pushed or renews:
        return pushed, None
    waiting = runtime.store.count_queries(project.id).get("open", 0)
    return 0, asking.nothing_to_push(waiting)


def _push(
    runtime: Runtime, project: Project, round_number: int, *, top_up: bool, choose: bool = True
) -> int:
    scores = scores_in_use(runtime, project)
    if scores is None:
        raise Conflict(
            f"The pool of project {project.id} is not scored by {name_in_use(project)} yet.",
            "The worker scores it, then pushes: `pixbal worker`.",
        )
    batch = Batch(round_number, name_in_use(project), scores, top_up, choose)
    return push_questions(runtime.settings, runtime.store, runtime.ls, project, batch)


@contextmanager
def _waiting_noted(store: Store, project_id: int, number: int) -> Iterator[None]:
    """While Label Studio fails a step that is tried again, the round's record says why."""
    try:
        yield
    except LabelStudioError as error:
        store.update_round(project_id, number, error=reason_of(error))
        raise
    store.update_round(project_id, number, error=None)
