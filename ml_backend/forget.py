"""`pixbal project forget`: a project out of the store and off the disk; Label Studio keeps its own.

Files go before rows. Cut off in between, the project is archived and says that it is being
forgotten, and the same command again ends it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ml_backend.errors import BackendError, Conflict, LabelStudioError, NotFound
from ml_backend.label_studio import LabelStudio
from ml_backend.leases import holding, project_lease, push_lease
from ml_backend.liveness import WorkerSign, look_at_workers
from ml_backend.locks import file_lock, project_lock
from ml_backend.project_states import ENDED
from ml_backend.settings import Settings
from ml_backend.store import Project, Store
from ml_backend.store.rows import utc_now
from ml_backend.trouble import FORGETTING, note_trouble

FOLDERS = ("snapshots", "versions", "scores", "media")


@dataclass(frozen=True)
class ForgetPlan:
    """What forgetting a project deletes, and what it keeps."""

    project: Project
    rows: dict[str, int]
    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    shared: int
    size: int
    mask_projects: tuple[int, ...]

    def deleted(self) -> list[str]:
        """What is deleted, for people."""
        rows = self.rows
        found = [
            f"what PixBal knows of it: {rows['image']} images, {rows['query']} questions, "
            f"{rows['label']} labels, {rows['round']} rounds, {rows['version']} model versions",
            f"its files in PIXBAL_HOME, {self.size / 1e6:.1f} MB: copies of its images and masks, "
            "regions, snapshots, models, scores, pictures of questions",
            "its webhook and its ML backend in Label Studio, if that answers",
        ]
        if self.mask_projects:
            ids = ", ".join(map(str, self.mask_projects))
            found.append(f"the masks that its models draw in project {ids}: none any more")
        return found

    def kept(self) -> list[str]:
        """What stays, for people."""
        found = [
            "everything else in Label Studio: the project, its tasks and annotations "
            "(their pictures are not shown any more)",
            "your own image files, and every backup",
        ]
        if self.shared:
            found.append(f"{self.shared} files that another project uses too")
        return found


def plan_forgetting(settings: Settings, store: Store, project_id: int) -> ForgetPlan:
    """Look at what would go; changes nothing.

    Raises:
        NotFound: no such project.
    """
    project = store.project(project_id)
    if project is None:
        raise NotFound(
            f"project {project_id} is unknown here",
            hint="There is nothing to forget. `pixbal status --all` lists the projects.",
        )
    home = settings.home.resolve()
    folders = [home / name / f"p{project_id}" for name in FOLDERS]
    others = store.named_files(without=project_id)
    own = {
        path
        for image in store.images(project_id)
        for path in (image.path, image.regions_path, image.mask_path)
        if path
    }
    # A row may name a file elsewhere, which is not ours to delete.
    ours = [Path(path) for path in sorted(own - others) if _below(Path(path), home)]
    return ForgetPlan(
        project=project,
        rows=store.count_rows(project_id),
        folders=tuple(f for f in folders if f.exists() or f.is_symlink()),
        files=tuple(path for path in ours if path.exists()),
        shared=len(own & others),
        size=sum(path.stat().st_size for path in _all_files(folders, ours)),
        mask_projects=tuple(p.id for p in store.projects() if p.region_project == project_id),
    )


def _below(path: Path, home: Path) -> bool:
    return path.resolve().is_relative_to(home)


def _all_files(folders: list[Path], files: list[Path]) -> Iterator[Path]:
    for path in files:
        if path.is_file():
            yield path
    for folder in folders:
        yield from (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def forget(
    settings: Settings,
    store: Store,
    label_studio: Callable[[], LabelStudio],
    project_id: int,
    title: str,
    *,
    alive: Callable[[], bool] | None = None,
    now: Callable[[], datetime] = utc_now,
) -> list[str]:
    """Forget a project; what was done, for people.

    Args:
        label_studio: makes a client; a server that refuses or is away does not stop this.
        title: the project's title, as a person has typed it.
        alive: whether a worker lives; by default the leases are looked at, for some seconds.

    Raises:
        NotFound: no such project. BackendError: the title is another one, or a file cannot be
            deleted. Conflict: a round of it runs, or somebody is at work on it or imports images.
    """
    project = plan_forgetting(settings, store, project_id).project
    if title.strip() != project.title.strip():
        raise BackendError(
            f"{title.strip()[:80]!r} is not the title of project {project_id}, "
            "so nothing was forgotten",
            hint=f"Type it as it is: {project.title}",
        )
    works = alive() if alive is not None else somebody_lives(look_at_workers(settings, store))
    _check_no_round(store, project_id, works)
    with ExitStack() as stack:
        # An import takes a file that is there for granted, of whichever project.
        for other in store.projects():
            path = project_lock(settings.home, other.id)
            stack.enter_context(file_lock(path, what=f"import into {other.id}", wait=False))
        for lease in (project_lease(project_id), push_lease(project_id)):
            # The lease of a worker that died is free after PIXBAL_LEASE_S.
            stack.enter_context(holding(store, settings.lease_s, lease, wait=not works))
        _check_no_round(store, project_id, works)
        store.update_project(project_id, state="archived")
        note_trouble(store, project_id, FORGETTING, now())
        told = _disconnect(settings, label_studio, project_id)
        # Again: what came meanwhile goes too.
        plan = plan_forgetting(settings, store, project_id)
        _delete_files(plan)
        store.forget_project(project_id)
    return [
        f"project {project_id} ({project.title}) is forgotten: {plan.rows['label']} labels, "
        f"{plan.rows['version']} versions, {plan.size / 1e6:.1f} MB",
        told,
    ]


def somebody_lives(workers: Iterable[WorkerSign]) -> bool:
    """Whether one of the workers that somebody looked at lives."""
    return any(worker.alive for worker in workers)


def _check_no_round(store: Store, project_id: int, works: bool) -> None:
    """A queued round has nothing yet, and one whose worker is gone stands still: both may go."""
    rounds = store.rounds(project_id)
    if rounds and works and rounds[-1].state not in (*ENDED, "queued"):
        raise Conflict(
            f"round {rounds[-1].number} of project {project_id} is running",
            hint=f"`pixbal project pause --project {project_id}`, wait until `pixbal status` shows "
            "the round as done or failed, then forget it.",
        )


def _disconnect(
    settings: Settings, label_studio: Callable[[], LabelStudio], project_id: int
) -> str:
    url = settings.backend_url.rstrip("/")
    try:
        found = label_studio().disconnect(project_id, url)
    except LabelStudioError as error:
        return f"not disconnected in Label Studio: {error.message}"
    if not found:
        return "it was not connected in Label Studio any more"
    return f"disconnected in Label Studio: {' and '.join(found)}"


def _delete_files(plan: ForgetPlan) -> None:
    try:
        for folder in plan.folders:
            if folder.is_symlink():  # somebody's own place: only our way there goes
                folder.unlink()
            else:
                shutil.rmtree(folder)
        for path in plan.files:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BackendError(
            f"a file of project {plan.project.id} cannot be deleted: {error}",
            hint="Check the permissions below PIXBAL_HOME, then forget it again: it goes on where "
            "it was.",
            status=500,
        ) from error
