"""The bench runs, its baselines compute the same thing, and it says whether targets are met."""

from __future__ import annotations

import torch

from training import bench_core
from training.bench_core import BenchSize, plain_expand, run
from training.bench_timing import Times
from training.pseudo_labels import expand

TINY = BenchSize(24, 32, 5, batch=2, side_px=8, features=4, selected=3)


def test_one_row_per_measurement() -> None:
    threads = torch.get_num_threads()
    rows = run(sizes=[TINY], repeats=2)
    assert torch.get_num_threads() == threads
    assert [row["what"].split(",")[0] for row in rows] == [
        "stage-1 losses", "stage-1 losses", "region statistics and PixBal", "pseudo labels",
    ]  # fmt: skip
    for row in rows:
        assert row["ours_ms"] > 0
        assert row["ratio"] == row["ours_ms"] / row["baseline_ms"]
    assert [row["target"] for row in rows] == [
        "at most 1.5x", "at most 1.5x", "at most 3x", "at most 300 ms",
    ]  # fmt: skip


def test_a_missed_target_is_said() -> None:
    assert not bench_core._row("slow", Times(4.0, 0.0), Times(1.0, 0.0), most_ratio=3.0)["met"]
    assert bench_core._row("fast", Times(3.0, 0.0), Times(1.0, 0.0), most_ratio=3.0)["met"]
    assert not bench_core._row("slow", Times(301.0, 0.0), Times(9000.0, 0.0), most_ms=300.0)["met"]


def test_the_plain_baseline_gives_the_same_labels() -> None:
    g = torch.Generator().manual_seed(0)
    features = torch.rand(6, 32, 32, generator=g, dtype=torch.float64)
    logits = torch.rand(4, 32, 32, generator=g, dtype=torch.float64)
    ids, count = bench_core._regions(BenchSize(32, 32, 4, side_px=8), 1)
    candidates = torch.rand(count, 4, generator=g) < 0.5
    selected = torch.rand(count, generator=g) < 0.4
    selected &= candidates.any(1)
    arguments = features, logits, ids[0], candidates, selected
    found = expand(*arguments)
    assert torch.equal(found, plain_expand(*arguments))
    assert bool((found[~selected[ids[0]]] != 255).any())
