"""Superpixels of many images on all cores; an image that fails is reported, the others go on."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.errors import SuperpixelError, TrainingError
from training.images import MAX_PIXELS, read_image
from training.superpixels import segment


@dataclass(frozen=True)
class SegmentJob:
    """An image file, and where its region map goes (.npz)."""

    image: Path
    regions: Path


@dataclass(frozen=True)
class Segmented:
    """What became of a job: sizes, count and hash of the map, or else the error."""

    job: SegmentJob
    height: int = 0
    width: int = 0
    count: int = 0
    regions_hash: str = ""
    error: str | None = None


@dataclass(frozen=True)
class _Work:
    method: str
    side_px: int
    params: Mapping[str, Any] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS

    def __call__(self, job: SegmentJob) -> Segmented:
        try:
            image = read_image(job.image, self.max_pixels)
            region_map = segment(image, self.method, self.side_px, **self.params)
            region_map.save(job.regions)
        except (TrainingError, OSError, MemoryError) as error:
            return Segmented(job, error=str(error) or type(error).__name__)
        return Segmented(
            job, region_map.height, region_map.width, region_map.count, region_map.hash
        )


def segment_pool(
    jobs: Sequence[SegmentJob],
    method: str = "seeds",
    side_px: int = 32,
    *,
    params: Mapping[str, Any] | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int, Segmented], None] | None = None,
) -> list[Segmented]:
    """Segment every image and save its map; results in the order of `jobs`, [] for none.

    `workers` processes (default: one per core; 1 works in this process). `progress(done, total,
    result)` is called here, in the order in which images finish. Processes are spawned, so a script
    that calls this must guard its entry with `if __name__ == "__main__"`. A worker that dies
    (killed, out of memory) costs the image that it dies on again when alone, and no other.

    Raises: SuperpixelError for fewer than one worker. A wrong method or option is an error of
    every image.
    """
    if workers is not None and workers < 1:
        raise SuperpixelError(
            f"Expected at least 1 worker, got {workers}.", hint="None: all cores."
        )
    work = _Work(method, side_px, dict(params or {}), max_pixels)
    workers = min(workers or _cores(), max(len(jobs), 1))
    results: dict[int, Segmented] = {}
    for index, result in _run(work, jobs, workers):
        results[index] = result
        if progress is not None:
            progress(len(results), len(jobs), result)
    return [results[index] for index in range(len(jobs))]


def _run(work: _Work, jobs: Sequence[SegmentJob], workers: int) -> Iterator[tuple[int, Segmented]]:
    if workers == 1:
        for index, job in enumerate(jobs):
            yield index, work(job)
        return
    unfinished = []
    for index, result in _in_processes(work, dict(enumerate(jobs)), workers):
        if result is None:
            unfinished.append(index)
        else:
            yield index, result
    # One dead worker breaks the whole pool. Alone in a process, each image answers for itself.
    for index in sorted(unfinished):
        for _, result in _in_processes(work, {index: jobs[index]}, 1):
            reason = "The process working on it died (killed, or out of memory)."
            yield index, result or Segmented(jobs[index], error=reason)


def _in_processes(
    work: _Work, jobs: Mapping[int, SegmentJob], workers: int
) -> Iterator[tuple[int, Segmented | None]]:
    """Results as they come; None for each job left over when a worker dies."""
    context = multiprocessing.get_context("spawn")  # fork breaks threads of OpenCV and of servers
    with ProcessPoolExecutor(workers, context, initializer=_one_thread) as executor:
        futures: dict[Future[Segmented], int] = {}
        for index, job in jobs.items():
            try:
                futures[executor.submit(work, job)] = index
            except BrokenProcessPool:
                yield index, None
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], None


def _one_thread() -> None:
    """One process per core needs one thread per process."""
    try:
        import cv2
    except ImportError:
        return
    if hasattr(cv2, "setNumThreads"):
        cv2.setNumThreads(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
