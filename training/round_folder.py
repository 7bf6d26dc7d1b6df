"""The folder of a round in progress: one process at a time, one snapshot and config."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from training.config import TrainConfig
from training.errors import CheckpointError, TrainingError
from training.files import read_json, write_json
from training.snapshot import Snapshot
from training.versions import FINAL, MANIFEST, STAGE1

LABELS = "pseudo_labels"  # folder of the last stage's targets, where they are kept
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
    """Mark the folder with what is trained in it; CheckpointError if that is something else."""
    # Where it runs does not change what is trained.
    same = replace(config, device="auto", threads=1, loader_threads=0, compile=False)
    wanted = {"snapshot": data.hash, "config": same.to_json()}
    path = partial / _ROUND
    if path.is_file():
        try:
            found = read_json(path)
        except ValueError:
            found = None
        if found != wanted:
            raise CheckpointError(
                f"{partial} was begun with another snapshot or config.",
                hint="Call with resume=False to start over, or choose another output folder.",
            )
        return
    write_json(path, wanted)


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
        if path.name in (keep or {_LOCK}):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
