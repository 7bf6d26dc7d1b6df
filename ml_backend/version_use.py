"""Which version is in use: measured against the one before it, and changed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml_backend import asking
from ml_backend.agreement import controls_change, measured
from ml_backend.errors import Conflict, NotFound
from ml_backend.store import Project, Store, VersionRow
from training.files import file_sha256, read_json, unsealed
from training.version_change import Change, heldout_change

AGAINST = "against"  # in the metrics of a version's row: the version in use before it
HELDOUT = "heldout"  # in the metrics of its folder: see `heldout_change`


def published_metrics(
    store: Store, project: Project, name: str, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """What the row of a new version keeps of its metrics, and how it compares.

    What was found on each held-out image stays in the version's folder: with many images it is
    more than a page should read every few seconds.
    """
    kept = {key: value for key, value in metrics.items() if key != HELDOUT}
    before = None
    if project.current_version not in (None, name):
        before = store.version(project.id, str(project.current_version))
    if before is not None:
        found = _heldout_change(Path(before.path), metrics)
        kept[AGAINST] = {"version": before.name, "miou": None if found is None else asdict(found)}
    return kept


def _heldout_change(before: Path, metrics: Mapping[str, Any]) -> Change | None:
    """None where either was measured on other images, by other classes, or by an older release."""
    try:
        old = unsealed(read_json(before / "version.json"))["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what is damaged is said when it is used
    texts = [_texts(found) for found in (old, metrics)]
    if _classes(old) != _classes(metrics) or None in texts:
        return None
    return heldout_change(texts[0] or {}, texts[1] or {})


def _texts(metrics: Any) -> dict[str, str] | None:
    found = metrics.get(HELDOUT) if isinstance(metrics, Mapping) else None
    return dict(found) if isinstance(found, Mapping) and found else None


def _classes(metrics: Any) -> list[str]:
    stage = metrics.get("stage2") if isinstance(metrics, Mapping) else None
    found = stage.get("per_class") if isinstance(stage, Mapping) else None
    return sorted(found) if isinstance(found, Mapping) else []


def version_warning(store: Store, project: Project) -> str | None:
    """Why the version in use may be a step back, and the command that takes it back; or None."""
    row = store.version(project.id, project.current_version or "")
    against = None if row is None else row.metrics.get(AGAINST)
    if row is None or not isinstance(against, Mapping):
        return None
    before = str(against.get("version"))
    if store.version(project.id, before) is None:
        return None
    measure, change = "mIoU", _change(against.get("miou"))
    if change is None:
        measure, change = "exactly right ticks", _controls(store, project, before, row.name)
    if change is None or not change.fell:
        return None
    on = "held-out images" if measure == "mIoU" else "questions without ticks"
    return (
        f"{row.name} is worse than {before}, which was in use before it: {measure} "
        f"{100 * change.difference:+.1f} points, error {100 * change.error:.1f}, on {change.count} "
        f"{on}. Back: pixbal version activate {before} --project {project.id}"
    )


def _change(value: Any) -> Change | None:
    if not isinstance(value, Mapping):
        return None
    return Change(float(value["difference"]), float(value["error"]), int(value["count"]))


def _controls(store: Store, project: Project, before: str, after: str) -> Change | None:
    answered = store.queries(project.id, status="answered")
    found = measured(project, answered, store.effective_labels(project.id))
    return controls_change(found.get(before, []), found.get(after, []))


def activate(store: Store, project_id: int, name: str) -> str:
    """Put a published version in use; says what follows.

    Open questions get its scores and ticks with the next push, which is asked for, and then Label
    Studio orders by it. The next round's version takes its place when it is published.

    Raises:
        NotFound: no such project or version.
        Conflict: its files are damaged; nothing was changed.
    """
    project = store.project(project_id)
    if project is None:
        raise NotFound(f"Project {project_id} is unknown here.", "See `pixbal status`.")
    row = store.version(project_id, name)
    if row is None:
        known = ", ".join(version.name for version in store.versions(project_id)) or "none yet"
        raise NotFound(f"Project {project_id} has no version {name!r:.80}.", f"Known: {known}.")
    if project.current_version == name:
        return f"{name} is in use already."
    _check_files(row)
    store.update_project(project_id, current_version=name)
    if not store.queries(project_id, status="open"):
        return f"{name} is in use: it chooses the next questions."
    asking.ask(store, project_id, asking.PUSH)
    return f"{name} is in use. Open questions get its scores and ticks in a moment, by the worker."


def _check_files(row: VersionRow) -> None:
    """As `Version.load` does, without torch."""
    hint = "Restore it from a backup, or keep the version that is in use."
    folder = Path(row.path)
    try:
        manifest = unsealed(read_json(folder / "version.json"))
        if manifest["weights_hash"] != row.weights_hash:
            raise ValueError("it is not the one that was published")
        changed = [n for n, h in manifest["sha256"].items() if file_sha256(folder / n) != h]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Conflict(
            f"The files of {row.name} cannot be used: {error}. Nothing was changed.", hint
        ) from error
    if changed:
        raise Conflict(f"The file {changed[0]} of {row.name} has changed. Nothing was changed.",
                       hint)  # fmt: skip
