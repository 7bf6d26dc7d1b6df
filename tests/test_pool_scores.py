"""Pool scores on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import CheckpointError
from training.pool_scores import ImageScores, PoolScores


def made(rng: np.random.Generator, counts: list[int], classes: int) -> PoolScores:
    images = {}
    for number, count in enumerate(counts):
        score = rng.random(count)
        score[rng.random(count) < 0.2] = np.nan
        images[f"image-{number}"] = ImageScores(
            score,
            rng.integers(1, 5, count).astype(np.float32),
            rng.random((count, classes)).astype(np.float16),
        )
    return PoolScores(images, "v1", "pixbal")


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 9), max_size=5), st.integers(0, 4))
def test_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, seed: int, counts: list[int], classes: int
) -> None:
    path = tmp_path_factory.mktemp("s") / "scores.npz"
    scores = made(np.random.default_rng(seed), counts, classes)
    scores.save(path)
    loaded = PoolScores.load(path)
    assert (loaded.version, loaded.acquisition) == ("v1", "pixbal")
    assert list(loaded.images) == sorted(scores.images)
    for name, own in scores.images.items():
        for field in ("score", "expected_clicks", "presence"):
            value = getattr(loaded.images[name], field)
            np.testing.assert_array_equal(value, getattr(own, field))
            assert value.dtype == getattr(own, field).dtype
            assert value.shape == getattr(own, field).shape


def test_no_version(tmp_path: Path) -> None:
    PoolScores({}, None, "random").save(tmp_path / "s.npz")
    assert PoolScores.load(tmp_path / "s.npz").version is None


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    made(np.random.default_rng(0), [3, 4], 2).save(path)
    data = path.read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError):
            PoolScores.load(path)
    rng = np.random.default_rng(1)
    noticed = 0
    for place in rng.integers(0, len(data), 60):
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            loaded = PoolScores.load(path)
        except CheckpointError:
            noticed += 1
        else:  # a bit of the archive that carries no content, such as a time stamp
            assert list(loaded.images) == ["image-0", "image-1"]
    assert noticed >= 20
    with pytest.raises(CheckpointError):
        PoolScores.load(tmp_path / "gone.npz")


def test_parts_must_fit() -> None:
    with pytest.raises(CheckpointError, match="3 regions"):
        ImageScores(np.zeros(3), np.ones(2, np.float32), np.zeros((3, 2), np.float16))


def test_one_number_of_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {**made(rng, [2], 3).images, "other": made(rng, [2], 4).images["image-0"]}
    with pytest.raises(CheckpointError, match=r"\[3, 4\] classes"):
        PoolScores(images, None, "x").save(tmp_path / "s.npz")


def test_loading_needs_no_torch() -> None:
    code = "import sys, training.pool_scores; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
