"""Runs in processes of one thread each; a run that fails is kept and the others go on."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
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
_stop: Any = None  # set by the parent: leave off where you are


@dataclass(frozen=True)
class RunEvent:
    """Where a run stands: its title, what it does, the share done 0..1, and how it ended."""

    title: str
    what: str
    share: float
    ended: str | None = None  # "done" | "failed" | "cached"


Watch = Callable[[RunEvent], None]
_Ended = tuple[str, str | None]  # "done" | "failed" | "cached", and the error


class _Stopped(BaseException):
    """The sweep ends; the run goes on when it is called again."""


def play_all(tasks: Sequence[RunTask], workers: int, watch: Watch) -> list[str | None]:
    """The error of each run, None for one that is done; in the order of `tasks`.

    `workers` 1 plays in this process. A worker that dies (killed, out of memory) fails the runs
    that were under way; they go on where they stopped when called again.
    """
    if workers == 1 or len(tasks) < 2:
        return [_noted(task, _played(task, watch), watch) for task in tasks]
    context = multiprocessing.get_context("spawn")  # fork breaks the threads of libraries
    channel, stop = context.Queue(), context.Event()
    errors: list[str | None] = [None] * len(tasks)
    with ProcessPoolExecutor(workers, context, _begin, (channel, stop, os.getpid())) as executor:
        futures = {executor.submit(_work, task): index for index, task in enumerate(tasks)}
        waiting = set(futures)
        try:
            while waiting:
                finished, waiting = wait(waiting, POLL_S)
                _pass_on(channel, watch)
                for future in finished:
                    index = futures[future]
                    errors[index] = _noted(tasks[index], _outcome(future), watch)
        except BaseException:
            stop.set()  # else the runs that workers have taken already would be played to the end
            for future in waiting:
                future.cancel()
            raise
    return errors


def _begin(channel: Any, stop: Any, parent: int) -> None:
    global _channel, _stop
    _channel, _stop = channel, stop
    channel.cancel_join_thread()  # a parent that leaves reads no more: do not wait for it
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    # Read by OpenMP and OpenCV when torch and cv2 are loaded, which comes after this.
    os.environ["OMP_NUM_THREADS"] = "1"


def _leave_with(parent: int) -> None:
    """A killed parent cannot tell its workers to end."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(task: RunTask) -> _Ended:
    def watch(event: RunEvent) -> None:
        if _stop.is_set():
            raise _Stopped
        _channel.put(event)

    return _played(task, watch)


def _played(task: RunTask, watch: Watch) -> _Ended:
    """Play a run. Anything may fail here: a sweep must outlive one run."""
    from training.simulate_run import play

    if task.record() is not None:
        return "cached", None
    try:
        play(task, lambda what, share: watch(RunEvent(task.title, what, share)))
    except Exception as error:
        name = type(error).__name__
        return "failed", str(error) if isinstance(error, TrainingError) else f"{name}: {error}"
    return "done", None


def _outcome(future: Future[_Ended]) -> _Ended:
    try:
        return future.result()
    except BrokenProcessPool:
        return "failed", "The process playing it died (killed, or out of memory)."


def _noted(task: RunTask, ended: _Ended, watch: Watch) -> str | None:
    """Tell how a run ended; its error."""
    watch(RunEvent(task.title, ended[1] or ended[0], 1.0, ended[0]))
    return ended[1]


def _pass_on(channel: Any, watch: Watch) -> None:
    while True:
        try:
            watch(channel.get_nowait())
        except queue.Empty:
            return
