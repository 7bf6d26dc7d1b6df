"""Tiny snapshots and configs: a round in a second or two, with random encoder weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from training.config import AugmentConfig, ModelConfig, StageConfig, TrainConfig
from training.regions import RegionMap
from training.snapshot import HeldoutItem, Snapshot, SnapshotItem, write_snapshot

CLASSES = ("grass", "brick")
COLOURS = np.array([(30, 160, 40), (180, 60, 50)])


def tiny_config(**changes: object) -> TrainConfig:
    """Frozen random encoder at 32 px, two epochs of two steps for each stage."""
    stage = StageConfig(lr=1e-3, epochs=2, steps_per_epoch=2, batch_size=2)
    values = {
        "model": ModelConfig(weights="none", short_side=32, head_channels=8, low_level_channels=4),
        "stage1": stage,
        "stage2": stage,
        "device": "cpu",
    }
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


def end_to_end_config(**changes: object) -> TrainConfig:
    """The same, training the encoder on 32 px crops of native images."""
    model = ModelConfig(
        weights="none", short_side=None, head_channels=8, low_level_channels=4, frozen_encoder=False
    )
    return tiny_config(model=model, augment=AugmentConfig(crop=(32, 32)), **changes)


def scene(seed: int, height: int = 40, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    """Grass and brick side by side with noise: image (H, W, 3) and mask (H, W)."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    mask[:, int(rng.integers(width // 4, 3 * width // 4)) :] = 1
    noisy = COLOURS[mask] + rng.normal(0, 15, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8), mask


def grid(height: int, width: int, side: int = 8) -> RegionMap:
    """Square regions."""
    rows, cols = np.arange(height) // side, np.arange(width) // side
    ids = (rows[:, None] * (int(cols[-1]) + 1) + cols).astype(np.int32)
    return RegionMap(ids, int(ids.max()) + 1, "grid", {"side": side})


def write_pool(folder: Path, count: int) -> list[tuple[str, Path, Path, Path]]:
    """(image id, image, region map, mask) of `count` scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = []
    for number in range(count):
        image, mask = scene(number)
        name = f"scene{number}"
        paths = [folder / f"{name}{end}" for end in (".png", ".npz", "-mask.png")]
        Image.fromarray(image).save(paths[0])
        grid(*mask.shape).save(paths[1])
        Image.fromarray(mask).save(paths[2])
        pool.append((name, *paths))
    return pool  # type: ignore[return-value]


def tiny_snapshot(
    folder: Path, images: int = 3, heldout: int = 1, classes: tuple[str, ...] = CLASSES
) -> Snapshot:
    """Every third region of `images` scenes labelled; the rest of the scenes held out.

    Only the first two of the classes occur.
    """
    pool = write_pool(folder / "pool", images + heldout)
    items = []
    for name, image, regions, mask in pool[:images]:
        ids, truth = RegionMap.load(regions).ids, np.asarray(Image.open(mask))
        labels = {i: np.unique(truth[ids == i]).tolist() for i in range(0, ids.max() + 1, 3)}
        items.append(SnapshotItem(name, image, regions, labels))
    kept = [HeldoutItem(name, image, mask) for name, image, _, mask in pool[images:]]
    return write_snapshot(
        folder / "snapshot", classes=classes, undefined=True, items=items, heldout=kept
    )
