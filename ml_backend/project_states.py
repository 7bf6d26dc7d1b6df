"""Pause, resume and archive a project: a state in its row, which worker and commands look at."""

from __future__ import annotations

from ml_backend.change_project import region_project
from ml_backend.errors import Conflict
from ml_backend.store import Project, Store
from ml_backend.trouble import FORGETTING

ENDED = ("done", "failed")


def pause(store: Store, project_id: int) -> str:
    """No training starts and nothing is pushed until it is resumed; answers are taken in."""
    project = _movable(store, project_id, "paused")
    if project.state == "archived":
        raise Conflict(
            f"project {project_id} is archived, which is more than paused",
            hint=f"`pixbal project resume --project {project_id}` takes it out of the archive.",
        )
    if project.state == "paused":
        return f"project {project_id} is paused already"
    store.update_project(project_id, state="paused")
    return f"project {project_id} is paused: {_meanwhile(store, project_id)}"


def archive(store: Store, project_id: int) -> str:
    """As paused, and neither shown nor compared with Label Studio until it is resumed."""
    project = _movable(store, project_id, "archived")
    if project.state == "archived":
        return f"project {project_id} is archived already"
    store.update_project(project_id, state="archived")
    return (
        f"project {project_id} is archived: hidden and left alone until "
        f"`pixbal project resume --project {project_id}`; {_meanwhile(store, project_id)}"
    )


def resume(store: Store, project_id: int) -> str:
    """Back to work: the worker goes on by itself."""
    project = _movable(store, project_id, "resumed")
    if project.state == "active":
        return f"project {project_id} is active already"
    store.update_project(project_id, state="active")
    held = project.push_held
    more = "; it was made with --no-push, so `pixbal push` begins" if held else ""
    return f"project {project_id} is active again: the worker goes on with it{more}"


def why_nothing_is_asked(project: Project) -> str | None:
    """Why a request for training or questions would lead to nothing; None where it would not."""
    if project.state not in ("paused", "archived"):
        return None
    return f"project {project.id} is {project.state}, so nothing was asked for"


def _movable(store: Store, project_id: int, verb: str) -> Project:
    project = region_project(store, project_id)
    if project.trouble == FORGETTING:
        raise Conflict(
            f"project {project_id} cannot be {verb}: its files are being removed",
            hint=f"`pixbal project forget --project {project_id}` again ends that.",
        )
    if project.state == "importing":
        raise Conflict(
            f"project {project_id} cannot be {verb}: the import of its images has not ended",
            hint="Until then nothing is pushed or trained anyway. `pixbal init` with the same "
            f"options ends it; `pixbal project forget --project {project_id}` gives it up.",
        )
    return project


def _meanwhile(store: Store, project_id: int) -> str:
    """What goes on all the same."""
    rounds = store.rounds(project_id)
    if rounds and rounds[-1].state not in (*ENDED, "queued"):
        return f"round {rounds[-1].number}, which runs, ends; its questions are not pushed"
    return "no training starts and no question is pushed; answers are kept"
