"""A push by a command, for whoever does not want to wait for the worker."""

from __future__ import annotations

from ml_backend import asking, round_steps
from ml_backend.leases import holding, push_lease
from ml_backend.runtime import Runtime


def push_now(runtime: Runtime, project_id: int, *, wait: bool = False) -> str:
    """Push the next questions; says what was done, or why nothing.

    Where the version in use has not scored the pool the worker is asked, which has the GPU.

    Raises:
        Conflict: somebody else is pushing, and `wait` is false.
        BackendError: Label Studio refuses.
    """
    store = runtime.store
    if runtime.project(project_id).push_held:
        store.update_project(project_id, push_held=False)
    project = runtime.project(project_id)
    with holding(store, runtime.settings.lease_s, push_lease(project_id), wait=wait):
        if round_steps.scores_in_use(runtime, project) is None:
            if project.current_version is not None:
                asking.ask(store, project_id, asking.PUSH)
                return (
                    f"asked: the worker first scores the pool with {project.current_version}, "
                    "then pushes (see `pixbal status`)"
                )
            round_steps.score_current(runtime, project)
        pushed, says = round_steps.push_next(runtime, project)
    waiting = store.count_queries(project_id).get("open", 0)
    return says or f"{pushed} questions pushed, {waiting} open"
