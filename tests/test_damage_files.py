"""Our own files, damaged: a named error or proven-equal content; never silently other data."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from training_helpers import grid, tiny_snapshot

from training.errors import CheckpointError, RegionMapError, SnapshotError, TrainingError
from training.pool_scores import ImageScores, PoolScores
from training.regions import RegionMap
from training.snapshot import Snapshot

TRIALS = 60


def damages(data: bytes, seed: int, trials: int = TRIALS) -> list[bytes]:
    """Flipped bits, cuts, and other bytes altogether; seeded."""
    rng = random.Random(seed)
    found = []
    for trial in range(trials):
        broken = bytearray(data)
        kind = trial % 6
        if kind < 3:
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        elif kind == 3:
            # The first bytes are those that decide how the rest is read.
            broken[rng.randrange(min(200, len(broken)))] ^= 1 << rng.randrange(8)
        elif kind == 4:
            del broken[rng.randrange(len(broken)) :]
        else:
            broken = bytearray(rng.randbytes(rng.choice([0, 1, 30, len(data)])))
        found.append(bytes(broken))
    return found


def every_damage_is_seen(
    path: Path,
    load: Callable[[], Any],
    error: type[TrainingError],
    same: Callable[[Any], bool],
    trials: int = TRIALS,
) -> None:
    """Each damage gives the error, or content equal to the whole file's; most are refused."""
    data = path.read_bytes()
    refused = 0
    for broken in damages(data, len(data), trials):
        path.write_bytes(broken)
        try:
            found = load()
        except error:
            refused += 1
        else:
            # A flip may hit what nobody reads, such as a date in a zip.
            assert same(found), f"{path.name} gave other data"
    path.write_bytes(data)
    assert same(load())
    assert refused > trials // 2


def test_region_maps(tmp_path: Path) -> None:
    """Seen failing before the errors of numpy's header were named."""
    path = tmp_path / "r.npz"
    whole = grid(48, 64)
    whole.save(path)

    def same(found: RegionMap) -> bool:
        return found.hash == whole.hash and np.array_equal(found.ids, whole.ids)

    every_damage_is_seen(path, lambda: RegionMap.load(path), RegionMapError, same, 150)


def test_snapshots(tmp_path: Path) -> None:
    """Every file, the manifest too."""
    whole = tiny_snapshot(tmp_path, images=2)
    for path in sorted(p for p in whole.path.rglob("*") if p.is_file()):
        # Hard links: a write here must not reach the original.
        shutil.copyfile(path, path.with_suffix(".own"))
        path.with_suffix(".own").replace(path)
        every_damage_is_seen(
            path, lambda: Snapshot.load(whole.path), SnapshotError, lambda found: found == whole
        )


def test_pool_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {
        name: ImageScores(
            rng.random(n), rng.random(n, np.float32), rng.random((n, 3)).astype(np.float16)
        )
        for name, n in (("a", 30), ("b", 7))
    }
    path = tmp_path / "s.npz"
    PoolScores(images, "r1", "pixbal").save(path)

    def same(found: PoolScores) -> bool:
        return (found.version, found.acquisition) == ("r1", "pixbal") and all(
            np.array_equal(getattr(found.images[n], part), getattr(images[n], part))
            for n in images
            for part in ("score", "expected_clicks", "presence")
        )

    every_damage_is_seen(path, lambda: PoolScores.load(path), CheckpointError, same, 150)
