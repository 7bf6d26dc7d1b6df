"""Peak memory of pseudo labels, in a process of their own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from training.bench_core import BenchSize
from training.bench_report import Row, absent, measured
from training.pseudo_labels import expand
from training.superpixels import segment

# /proc/self/status knows the peak; writing 5 to the other file starts it anew.
_CLEAR_PEAK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def memory_row(size: BenchSize) -> Row:
    """Memory of `expand` with its inputs, above that of a process which holds the library only."""
    what = f"pseudo labels, {size.height}x{size.width}: peak memory, inputs included"
    if not _CLEAR_PEAK.exists():
        return absent("core", what, "GB", "needs Linux", "at most 1.5 GB")
    # A fresh process: memory that others freed and kept would be used again and not be seen.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return measured("core", what, pool.submit(peak_gb, size).result(), "GB", most=1.5)


def peak_gb(size: BenchSize) -> float:
    """Gigabytes that this process grows by at most while it makes pseudo labels of that size."""
    torch.set_num_threads(1)
    _expand_random(size._replace(height=64, width=64, features=4))  # loads what is loaded lazily
    _CLEAR_PEAK.write_text("5")
    before = _status_gb("VmRSS")
    _expand_random(size)
    return max(0.0, _status_gb("VmHWM") - before)


def _expand_random(size: BenchSize) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = size.height, size.width
    features = torch.rand(size.features, *shape, generator=generator)
    logits = torch.rand(size.classes, *shape, generator=generator)
    regions = segment(np.zeros((*shape, 3), np.uint8), "grid", size.side_px)
    candidates = torch.rand(regions.count, size.classes, generator=generator) < 0.1
    selected = torch.zeros(regions.count, dtype=torch.bool)
    selected[torch.randperm(regions.count, generator=generator)[: size.selected]] = True
    selected &= candidates.any(1)
    expand(features, logits, torch.tensor(regions.ids).long(), candidates, selected)


def _status_gb(name: str) -> float:
    """A line of the process's status, in GB of 1e9 bytes."""
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e9
    return 0.0
