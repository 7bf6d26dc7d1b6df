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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from label_config import ClassSchema
from ml_backend import asking
from ml_backend.copies import remove_copies
from ml_backend.errors import BackendError, LabelStudioError
from ml_backend.failures import reason_of
from ml_backend.ingest import apply_event
from ml_backend.labels import trainable_labels
from ml_backend.leases import project_lease
from ml_backend.priority import stand_back
from ml_backend.push import push_questions
from ml_backend.reconcile import reconcile
from ml_backend.runtime import Runtime, version_name
from ml_backend.store import Image, Project, Store, VersionRow, held_token
from training.errors import SnapshotError
from training.snapshot import HeldoutItem, Snapshot, SnapshotItem, write_snapshot

if TYPE_CHECKING:
    from training.loop import Progress

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 1.0
PARTIAL = ".partial"
TRAIN_ACTIONS = ("START_TRAINING", asking.TRAIN)


def apply_pending_events(store: Store) -> int:
    """Apply every stored event; one that fails is kept with its error and never blocks the rest.

    What a person asks for is left to the worker, which trains when no round runs.
    """
    applied = 0
    while events := store.pending_events(limit=500, without=(*TRAIN_ACTIONS, asking.PUSH)):
        for event in events:
            error: str | None = None
            try:
                apply_event(store, event)
            except BackendError as failure:
                error = str(failure)
                log.warning("event %s (%s) kept aside: %s", event.id, event.action, failure)
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
    """Freeze the labels of a round; a snapshot from an earlier try is used again.

    Raises:
        SnapshotError: there is no label to train on.
    """
    store = runtime.store
    store.update_round(project_id, number, state="snapshot")
    out = runtime.snapshot_dir(project_id, number)
    project = runtime.project(project_id)
    if out.exists():
        try:
            snapshot = Snapshot.load(out)
        except SnapshotError as error:
            log.warning(
                "round %s: snapshot of an earlier try is damaged, made anew: %s", number, error
            )
            shutil.rmtree(out)
        else:
            _record_labels(runtime, project, number, snapshot)
            return str(snapshot.path)
    schema = ClassSchema.from_json(project.schema_json)
    images = {i.image_id: i for i in store.images(project_id, split="pool", status="ready")}
    labels = trainable_labels(store, project_id)
    by_image: dict[str, dict[int, list[int]]] = {}
    for region, label in labels.items():
        indices = [schema.index(name) for name in label.classes]
        indices += [len(schema.names)] if label.other else []
        by_image.setdefault(region.image_id, {})[region.index] = indices
    items = [
        SnapshotItem(
            image_id, Path(images[image_id].path), Path(images[image_id].regions_path), regions
        )
        for image_id, regions in sorted(by_image.items())
        if image_id in images
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    snapshot = write_snapshot(
        out,
        classes=schema.names,
        undefined=schema.undefined,
        items=items,
        heldout=[_heldout(i) for i in store.images(project_id, split="heldout", status="ready")],
    )
    _record_labels(runtime, project, number, snapshot)
    return str(snapshot.path)


def _record_labels(runtime: Runtime, project: Project, number: int, snapshot: Snapshot) -> None:
    """Of the snapshot: labels that came after it was frozen are those of the next round."""
    clicks = runtime.store.clicks(project.id)
    labels = sum(len(item.labels) for item in snapshot.items)
    runtime.store.update_round(project.id, number, labels=labels, clicks=clicks)


def _heldout(image: Image) -> HeldoutItem:
    if image.mask_path is None:
        raise BackendError(
            f"held-out image {image.source} has no mask",
            hint="Import it with its mask: `pixbal init --heldout FOLDER` (images/ and masks/).",
        )
    return HeldoutItem(image.image_id, Path(image.path), Path(image.mask_path))


def train_round(runtime: Runtime, project_id: int, number: int, snapshot: str) -> str:
    """Both stages, from the last checkpoint of an earlier try on. Returns the version folder."""
    from training.rounds import run_round  # imports torch

    stand_back()  # of the workflow's thread; the one that applies events keeps its turn
    config = runtime.train_config(runtime.project(project_id))
    out = runtime.version_dir(project_id, number)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = _progress_writer(runtime.store, project_id, number)
    version = run_round(
        Path(snapshot),
        config,
        out,
        resume=True,
        progress=report,
        name=version_name(number),
        cache_dir=runtime.features_dir,
        work=claim_work(out, held_token(project_lease(project_id))),
    )
    return str(version.path)


def work_folders(version: Path) -> list[Path]:
    """Folders of work in progress on a version, the newest last."""
    name = re.compile(re.escape(version.name) + r"(?:\.(\d+))?" + re.escape(PARTIAL))
    found = [(name.fullmatch(path.name), path) for path in version.parent.glob("*")]
    tokens = {path: int(match[1] or 0) for match, path in found if match}
    return sorted(tokens, key=lambda path: tokens[path])


def claim_work(version: Path, token: int) -> Path:
    """The folder to train a version in, with what earlier tries left there.

    Its name carries the token of the lease. A worker that lost the lease goes on under the old
    name, which leads nowhere: it can neither change files of the new owner nor publish.
    """
    work = version.with_name(f"{version.name}.{token}{PARTIAL}")
    *older, newest = work_folders(version) or [work]
    for folder in older:
        shutil.rmtree(folder, ignore_errors=True)
    if newest != work:
        newest.rename(work)
    # Whoever locked this file has lost the lease; a lock lies on the file, not on its name.
    (work / "lock").unlink(missing_ok=True)
    return work


def _progress_writer(store: Store, project_id: int, number: int) -> Callable[[Progress], None]:
    """Write progress to the round's record, at most once a second and at each change of stage."""
    last_stage = ""
    last_time = 0.0

    def write(progress: Progress) -> None:
        nonlocal last_stage, last_time
        now = time.monotonic()
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
            eta_s=_finite(progress.eta_s),
        )

    return write


def _finite(value: float) -> float | None:
    """NaN stands for "none yet", which JSON and the page do not know."""
    return value if math.isfinite(value) else None


def publish_version(runtime: Runtime, project_id: int, number: int, folder: str) -> str:
    """Record the version; from here on it serves predictions. Returns its name."""
    from training.versions import Version

    runtime.store.update_round(project_id, number, state="publishing")
    version = Version.load(Path(folder))
    runtime.store.add_version(
        VersionRow(
            project_id=project_id,
            name=version.name,
            round=number,
            path=str(version.path),
            metrics=dict(version.metrics),
            weights_hash=version.weights_hash,
            created_at=datetime.now(UTC),
        )
    )
    runtime.store.update_round(project_id, number, version=version.name)
    return version.name


def score_round(runtime: Runtime, project_id: int, number: int) -> str:
    """Score the whole pool with the version of a round; 0 = the seeded random start."""
    from training.scoring import PoolImage, score_pool
    from training.versions import Version

    if number > 0:
        runtime.store.update_round(project_id, number, state="scoring")
    project = runtime.project(project_id)
    out = runtime.scores_path(project_id, number)
    out.parent.mkdir(parents=True, exist_ok=True)
    version = Version.load(runtime.version_dir(project_id, number)) if number > 0 else None
    pool = [
        PoolImage(i.image_id, Path(i.path), Path(i.regions_path))
        for i in runtime.store.images(project_id, split="pool", status="ready")
    ]
    score_pool(
        version,
        pool,
        runtime.train_config(project),
        seed=project.seed + number,
        out=out,
        cache_dir=runtime.features_dir,
    )
    return str(out)


def push_round(runtime: Runtime, project_id: int, number: int) -> int:
    """Choose and push the questions after a round; returns how many regions were pushed."""
    from training.pool_scores import PoolScores

    if number > 0:
        runtime.store.update_round(project_id, number, state="pushing")
    scores = PoolScores.load(runtime.scores_path(project_id, number))
    with _waiting_noted(runtime.store, project_id, number):
        return push_questions(
            runtime.settings,
            runtime.store,
            runtime.ls,
            runtime.project(project_id),
            after_round=number,
            scores=scores,
        )


def push_next(runtime: Runtime, project: Project) -> int:
    """Push the questions that follow the last finished round, outside a round; their number.

    Only for whoever holds the project's lease.
    """
    from training.pool_scores import PoolScores

    done = [r.number for r in runtime.store.rounds(project.id) if r.state == "done"]
    number = done[-1] if done else 0
    path = score_round(runtime, project.id, number)
    pushed = push_questions(
        runtime.settings,
        runtime.store,
        runtime.ls,
        project,
        after_round=number,
        scores=PoolScores.load(Path(path)),
        top_up=True,
    )
    log.info("project %s: %s questions pushed", project.id, pushed)
    return pushed


@contextmanager
def _waiting_noted(store: Store, project_id: int, number: int) -> Iterator[None]:
    """While Label Studio fails a step that is tried again, the round's record says why."""
    try:
        yield
    except LabelStudioError as error:
        if number > 0:
            store.update_round(project_id, number, error=reason_of(error))
        raise
    if number > 0:
        store.update_round(project_id, number, error=None)
