"""Change the settings of a project: all of it is checked before any of it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from label_config.builder import with_share
from ml_backend.connect import ensure_instructions
from ml_backend.errors import Conflict, NotFound
from ml_backend.ingest import REGION_TEMPLATES
from ml_backend.instructions import project_instructions
from ml_backend.label_studio import LabelStudio
from ml_backend.locks import file_lock, project_lock
from ml_backend.project_settings import CheckModel, changes_in_words, wanted_changes
from ml_backend.settings import Settings
from ml_backend.store import Project, Store


def change_project(
    settings: Settings,
    store: Store,
    label_studio: Callable[[], LabelStudio],
    project_id: int,
    wanted: Mapping[str, str],
    *,
    config: str | None = None,
    overrides: Sequence[str] = (),
    check_model: CheckModel,
) -> list[str]:
    """Change settings; again: says that nothing differs. Returns what was done, for people.

    What Label Studio shows is changed there first: where it refuses, nothing is written here.

    Args:
        label_studio: makes a client; called only for what Label Studio shows.
        wanted, config, overrides, check_model: see `project_settings.wanted_changes`.

    Raises:
        WrongSettings: with every fault; nothing was changed.
        NotFound: no such project. Conflict: it has no settings, or its labelling setup is at work
            (an import, classes that are appended). LabelStudioError: it refuses.
    """
    with ExitStack() as stack:
        if "smallest-share" in wanted:
            # It changes the setup, as appended classes do: neither may write over the other's.
            path = project_lock(settings.home, project_id)
            stack.enter_context(file_lock(path, what=f"import into {project_id}", wait=False))
        return _change(
            settings, store, label_studio, region_project(store, project_id), wanted,
            config=config, overrides=overrides, check_model=check_model,
        )  # fmt: skip


def _change(
    settings: Settings,
    store: Store,
    label_studio: Callable[[], LabelStudio],
    project: Project,
    wanted: Mapping[str, str],
    *,
    config: str | None,
    overrides: Sequence[str],
    check_model: CheckModel,
) -> list[str]:
    changes = wanted_changes(
        project, store.projects(), wanted,
        config=config, overrides=overrides, check_model=check_model,
    )  # fmt: skip
    shown = _shown_in_label_studio(project, changes)
    if shown:
        ls = label_studio()
        ls.update_project(project.id, **shown)
        if "label_config" in shown:
            changes["label_config"] = shown["label_config"]
            after = replace(project, **changes)
            text = project_instructions(settings, store, after)
            ensure_instructions(ls, project.id, text)
    if changes:
        store.update_project(project.id, **changes)
    return changes_in_words(project, changes)


def region_project(store: Store, project_id: int) -> Project:
    """A project that asks about regions.

    Raises:
        NotFound: unknown here. Conflict: it only shows masks.
    """
    project = store.project(project_id)
    if project is None:
        raise NotFound(f"project {project_id} is unknown here", hint="See `pixbal status`.")
    if project.template not in REGION_TEMPLATES:
        raise Conflict(
            f"project {project_id} shows masks; it has no settings of its own",
            hint="Change the region project whose model draws them; "
            f"`pixbal project forget --project {project_id}` takes it away.",
        )
    return project


def _shown_in_label_studio(project: Project, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Label Studio's project that the changes touch."""
    shown: dict[str, Any] = {}
    if "title" in changes:
        shown["title"] = changes["title"]
    if "smallest_share" in changes:
        share = float(changes["smallest_share"])
        shown["label_config"] = with_share(project.label_config, share)
    return shown
