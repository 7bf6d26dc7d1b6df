"""Runs in processes of one thread each; a run that fails is kept and the others go on."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.errors import TrainingError

if TYPE_CHECKING:
    from training.simulate_task import RunTask

POLL_S = 0.2
_channel: Any = None  # of a worker process, to its parent


@dataclass(frozen=True)
class RunEvent:
    """Where a run stands: its title, what it does, the share done 0..1, and how it ended."""

    title: str
    what: str
    share: float
    ended: str | None = None  # "done" | "failed" | "cached"


Watch = Callable[[RunEvent], None]


def play_all(tasks: Sequence[RunTask], workers: int, watch: Watch) -> list[str | None]:
    """The error of each run, None for one that is done; in the order of `tasks`.

    `workers` 1 plays in this process. A worker that dies (killed, out of memory) fails the runs
    that were under way; they go on where they stopped when called again.
    """
    if workers == 1 or len(tasks) < 2:
        return [_played(task, watch) for task in tasks]
    context = multiprocessing.get_context("spawn")  # fork breaks the threads of libraries
    channel = context.Queue()
    errors: list[str | None] = [None] * len(tasks)
    with ProcessPoolExecutor(workers, context, _begin, (channel,)) as executor:
        futures: dict[Future[str | None], int] = {}
        try:
            for index, task in enumerate(tasks):
                futures[executor.submit(_work, task)] = index
            waiting = set(futures)
            while waiting:
                finished, waiting = wait(waiting, POLL_S)
                _pass_on(channel, watch)
                for future in finished:
                    errors[futures[future]] = _outcome(future)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        _pass_on(channel, watch)
    return errors


def _begin(channel: Any) -> None:
    global _channel
    _channel = channel
    # Read by OpenMP and OpenCV when torch and cv2 are loaded, which comes after this.
    os.environ["OMP_NUM_THREADS"] = "1"


def _work(task: RunTask) -> str | None:
    return _played(task, _channel.put)


def _played(task: RunTask, watch: Watch) -> str | None:
    """Play a run; its error as text. Anything may fail here: a sweep must outlive one run."""
    from training.simulate_run import play

    title = task.title
    if task.record() is not None:
        watch(RunEvent(title, "found", 1.0, "cached"))
        return None
    try:
        play(task, lambda what, share: watch(RunEvent(title, what, share)))
    except Exception as error:
        text = (
            str(error) if isinstance(error, TrainingError) else f"{type(error).__name__}: {error}"
        )
        watch(RunEvent(title, text, 1.0, "failed"))
        return text or type(error).__name__
    watch(RunEvent(title, "done", 1.0, "done"))
    return None


def _outcome(future: Future[str | None]) -> str | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return "The process playing it died (killed, or out of memory)."


def _pass_on(channel: Any, watch: Watch) -> None:
    while True:
        try:
            watch(channel.get_nowait())
        except queue.Empty:
            return
