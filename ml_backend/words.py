"""Rounds and durations in the words of a person, for the page and for `pixbal status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ml_backend.liveness import WorkerSign
from ml_backend.store import Project, Round, Store

NO_WORKER = "no worker runs: start one with `pixbal worker` or `pixbal up`"
ENDED = ("done", "failed")
STATES: Mapping[str, str] = {
    "queued": "waiting for the worker",
    "reconciling": "comparing the labels with Label Studio's",
    "snapshot": "freezing the labels",
    "stage1": "training, stage 1",
    "pseudo_labels": "making pseudo labels",
    "stage2": "training, stage 2",
    "evaluating": "measuring",
    "publishing": "publishing the version",
    "scoring": "scoring the pool",
    "pushing": "pushing questions",
}


def state_words(state: str) -> str:
    """The state of a round, in words; "done" and "failed" say it themselves."""
    return STATES.get(state, state)


def waits_for(store: Store, row: Round, workers: Sequence[WorkerSign]) -> str:
    """Behind whom a queued round waits; empty for a round that waits for nobody.

    Args:
        row: the round.
        workers: what a look at them has found, see `liveness`.
    """
    if row.state != "queued":
        return ""
    if not any(worker.alive for worker in workers):
        return f"waiting, but {NO_WORKER}"
    others = _unfinished(store, row)
    running = [(project, other) for project, other in others if other.state != "queued"]
    if running:
        project, other = running[0]
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        return (
            f"waiting for the worker, which is at round {other.number} of project {project.id}, "
            f"{project.title!r} ({state_words(other.state)}){more}"
        )
    before = [project for project, other in others if other.started_at < row.started_at]
    if before:
        first = f"project {before[0].id}, {before[0].title!r}"
        return f"waiting for the worker, behind the round of {first}"
    return "waiting for the worker, which takes it up in a moment"


def _unfinished(store: Store, row: Round) -> list[tuple[Project, Round]]:
    return [
        (project, other)
        for project in store.projects()
        if project.id != row.project_id
        for other in store.rounds(project.id)
        if other.state not in ENDED
    ]


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days"
