"""The folder of a round in progress: one process at a time, one snapshot and config."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.config import TrainConfig
from training.errors import ConfigError, TrainingError
from training.files import file_sha256, read_json, write_json
from training.round_plan import FIRST, LABELS, Part, files_of, first_touched, parts
from training.snapshot import Snapshot
from training.versions import FINAL, MANIFEST, STAGE1

log = logging.getLogger(__name__)

_LOCK, _ROUND = "lock", "round.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock falls with the process, however it ends.

    Raises: TrainingError if another process holds it.
    """
    with open(folder / _LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingError(
                f"Another process trains in {folder}.", hint="Wait for it, or stop it."
            ) from error
        yield


def claim(partial: Path, data: Snapshot, config: TrainConfig) -> None:
    """Mark the folder with what is trained in it, and drop what of earlier work no longer holds.

    Where the labels or the settings are others than those it was begun with, that is the first part
    they touch and all after it.
    """
    path = partial / _ROUND
    found = _read(path) if path.is_file() else None
    wanted = {
        "snapshot": data.hash,
        "labelled": data.labelled_hash,
        "config": config.anywhere().to_json(),
        "weights": _pretrained(config, found or {}),
    }
    if found == wanted:
        return
    if found is not None:
        before = _config(found)
        first = FIRST
        if before is not None and _same_start(found, wanted):
            touched = first_touched(before, config)
            first = Part(config.stages + 1, False) if touched is None else touched
        _keep(partial, first, (before or config).stages, config.stages)
    write_json(path, wanted)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (ValueError, TypeError) as error:
        log.warning("%s is damaged: %s", path, error)
        return {}


def _config(record: Mapping[str, Any]) -> TrainConfig | None:
    """The config that the work was begun with; None if it cannot be told."""
    try:
        return TrainConfig.of_weights(record["config"])
    except (KeyError, TypeError, AttributeError, ConfigError):
        return None


def _pretrained(config: TrainConfig, found: Mapping[str, Any]) -> str | None:
    """Hash of the file of pretrained weights, whose name does not say what is in it.

    Of one that is gone, the recorded one: what was made from it stands.
    """
    file = Path(config.model.weights)
    return file_sha256(file) if file.is_file() else found.get("weights")


def _same_start(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Equal labels and pretrained weights. The first release recorded the whole snapshot only."""
    labels = "labelled" if "labelled" in found else "snapshot"
    unknown = found.get("weights") is None
    return bool(
        found.get(labels) == wanted[labels] and (unknown or found["weights"] == wanted["weights"])
    )


def drop_after(partial: Path, done: Part, stages: int) -> None:
    """Drop what was made after a part, and so from it, because that is made anew."""
    for part in parts(stages):
        if part > done:
            for name in reversed(files_of(part, stages)):  # the record first
                _remove(partial / name)


def _keep(partial: Path, first: Part, stages_before: int, stages: int) -> None:
    """Keep the parts before `first`, under the names they have in a round of `stages`."""
    whole = [part for part in parts(min(stages_before, stages)) if part < first]
    kept = [(files_of(part, stages_before), files_of(part, stages)) for part in whole]
    clear(partial, {_LOCK, _ROUND, *(name for old, _ in kept for name in old)})
    for old, new in kept:
        for name, target in zip(old, new, strict=True):
            if name != target and (partial / name).exists():
                os.rename(partial / name, partial / target)
    dropped = [str(part) for part in parts(stages) if part >= first]
    if dropped:
        log.warning(
            "Settings or labels have changed since this round was begun. Made anew: %s. Kept: %s.",
            ", ".join(dropped), ", ".join(map(str, whole)) or "nothing",
        )  # fmt: skip


def finish(partial: Path, out: Path, keep_labels: bool) -> None:
    """Drop what only the training needed and publish the version."""
    labels = {LABELS} if keep_labels else set()
    clear(partial, {MANIFEST, _ROUND, _LOCK, STAGE1, FINAL, *labels})
    os.rename(partial, out)
    (out / _ROUND).unlink()
    (out / _LOCK).unlink()


def clear(folder: Path, keep: set[str] | None = None) -> None:
    """Remove everything but `keep`; by default all but the lock."""
    for path in folder.iterdir():
        if path.name not in (keep or {_LOCK}):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
