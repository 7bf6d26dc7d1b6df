"""A worker, or a web process, that stops at a named point until a test lets it go on or kills it.

Run as a program it is `python -m ml_backend.worker`, with the points added by wrapping functions;
`kill_wsgi` is the web process. The program that people run knows nothing of this.
"""

from __future__ import annotations

import functools
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

FOLDER = "PIXBAL_TEST_POINTS"  # the folder through which test and process speak
MUTE = "PIXBAL_TEST_MUTE"  # where set, the worker's heart stops at the first point

# After the last look at the lease: what is sent then cannot be refused.
PAGE_MARKED = "a page is marked and not yet sent"
# In the order in which a round comes to them.
POINTS = (
    "event stored",
    "reconcile",
    "snapshot written",
    "mid-epoch of stage 1",
    "checkpoint half written",
    "pseudo labels half written",
    "mid-epoch of stage 2",
    "published",
    "scores written",
    "half of the tasks pushed",
    "model_version patched",
)


class Points:
    """The test's side: names the next point, waits for it, lets go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def arm(self, point: str) -> None:
        """The next process that comes to this point stops there."""
        for name in (f"at {point}", f"go {point}"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "next.new").write_text(point)
        (self.folder / "next.new").rename(self.folder / "next")

    def reached(self, point: str) -> bool:
        """Whether a process stands at the point."""
        return (self.folder / f"at {point}").exists()

    def go(self, point: str) -> None:
        """Let it go on, if it still lives."""
        (self.folder / f"go {point}").touch()


def pause(point: str) -> None:
    """Stop here, where a test waits for this point; only once."""
    folder = Path(os.environ[FOLDER])
    try:
        if (folder / "next").read_text() != point:
            return
        (folder / "next").rename(folder / f"at {point}")
    except FileNotFoundError:
        return
    while not (folder / f"go {point}").exists():
        time.sleep(0.01)


def after(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a stop when its work is done and nobody knows yet."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        pause(point)
        return result

    return wrapped


def before(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a stop before it does anything."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        pause(point)
        return function(*args, **kwargs)

    return wrapped


def halved(write_atomically: Callable[..., None]) -> Callable[..., None]:
    """Atomic writing that stops when half of a checkpoint, or of a pseudo label, is written."""

    def wrapped(path: Path, write: Callable[[BinaryIO], object]) -> None:
        point = None
        if path.name.startswith("epoch-") and path.suffix == ".safetensors":
            point = "checkpoint half written"
        elif path.parent.name.startswith("pseudo_labels") and any(path.parent.glob("*.png")):
            point = "pseudo labels half written"  # some images are done, some are not

        def in_halves(file: BinaryIO) -> None:
            buffer = io.BytesIO()
            write(buffer)
            data = buffer.getvalue()
            file.write(data[: len(data) // 2])
            file.flush()
            pause(point or "")
            file.write(data[len(data) // 2 :])

        write_atomically(path, in_halves if point else write)

    return wrapped


class HalfWalked:
    """Label Studio whose walk over the tasks stops after the first."""

    def __init__(self, ls: Any) -> None:
        self._ls = ls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ls, name)

    def tasks(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """The tasks."""
        for task in self._ls.tasks(*args, **kwargs):
            yield task
            pause("reconcile")


def add_to_worker() -> None:
    """Add every point of the worker."""
    from training import atomic

    atomic.write_atomically = halved(atomic.write_atomically)  # before anybody imports it
    from ml_backend import push, round_steps
    from ml_backend.label_studio import LabelStudio

    push.PAGE = 2
    reconcile, progress_writer = round_steps.reconcile, round_steps._progress_writer
    round_steps.reconcile = lambda store, ls, *rest: reconcile(store, HalfWalked(ls), *rest)
    round_steps.write_snapshot = after("snapshot written", round_steps.write_snapshot)
    round_steps.train_round = after("published", round_steps.train_round)
    round_steps.score_current = after("scores written", round_steps.score_current)
    LabelStudio.import_tasks = before(
        PAGE_MARKED, after("half of the tasks pushed", LabelStudio.import_tasks)
    )
    LabelStudio.update_project = after("model_version patched", LabelStudio.update_project)

    def writer(*args: Any) -> Callable[[Any], None]:
        write = progress_writer(*args)

        def stopping(progress: Any) -> None:
            write(progress)
            # Two steps make an epoch: the third is the middle of the second.
            if progress.stage in ("stage1", "stage2") and progress.epoch and progress.step == 3:
                pause(f"mid-epoch of stage {progress.stage[-1]}")

        return stopping

    round_steps._progress_writer = writer
    if os.environ.get(MUTE):
        _mute_at_a_point()


def _mute_at_a_point() -> None:
    from ml_backend.leases import Keeper

    beat, folder = Keeper.beat, Path(os.environ[FOLDER])

    def beating(keeper: Keeper) -> None:
        if not any(folder.glob("at *")):
            beat(keeper)

    Keeper.beat = beating  # type: ignore[method-assign]


def add_to_web() -> None:
    """Add the one point of the web process."""
    from ml_backend.store import Store

    Store.record_event = after("event stored", Store.record_event)


if __name__ == "__main__":
    add_to_worker()
    from ml_backend.settings import Settings
    from ml_backend.worker import run_and_exit

    sys.exit(run_and_exit(Settings.from_env(os.environ)))
