"""Wall clock and CPU time of functions, by turns, so that noise meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple


class Times(NamedTuple):
    """Milliseconds on the wall clock, and of CPU time of this process (all its threads)."""

    wall_ms: float
    cpu_ms: float


class Stopwatch:
    """Context manager; `times` holds what passed inside, a GPU's work included."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self.times = Times(0.0, 0.0)

    def __enter__(self) -> Stopwatch:
        self._wait()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait()
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self.times = Times(1000 * wall, 1000 * cpu)

    def _wait(self) -> None:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self._device)


def take_turns(
    functions: Sequence[Callable[[], object]], repeats: int, device: str = "cpu"
) -> list[Times]:
    """Median times of each function; the first call of each does not count."""
    kept: list[list[Times]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for times, function in zip(kept, functions, strict=True):
            with Stopwatch(device) as watch:
                function()
            if turn:
                times.append(watch.times)
    return [medians(times) for times in kept]


def medians(times: Sequence[Times]) -> Times:
    """The median of each clock by itself."""
    return Times(median(t.wall_ms for t in times), median(t.cpu_ms for t in times))
