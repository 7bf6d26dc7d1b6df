"""A tiny experiment: a few procedural scenes, a random encoder, a round in about a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.scenes import write_scene_set
from training.simulate_config import DataConfig, Experiment, Method

TINY = (
    "model.weights=none", "model.short_side=32", "model.head_channels=8",
    "model.low_level_channels=4", "device=cpu", "stage1.epochs=1", "stage1.steps_per_epoch=2",
    "stage1.batch_size=2", "stage2.epochs=1", "stage2.steps_per_epoch=2", "stage2.batch_size=2",
)  # fmt: skip


def tiny_scenes(folder: Path) -> Path:
    """Four scenes to ask about and two to test on, 64 x 96 px."""
    return write_scene_set(folder, train=4, heldout=2, height=64, width=96)


def tiny_experiment(root: Path, **changes: Any) -> Experiment:
    """One seed, two rounds of 8 clicks each, 16 px regions."""
    values: dict[str, Any] = {
        "name": "tiny",
        "data": DataConfig(root=str(root)),
        "methods": (tiny_method(),),
        "budgets": (8.0, 16.0),
        "budget_unit": "clicks",
        "seeds": 1,
        "overrides": TINY,
        "full_supervision": False,
        "gallery_images": 0,
    }
    return Experiment(**{**values, **changes})


def tiny_method(name: str = "paper", **changes: Any) -> Method:
    """The paper's method on 16 px squares."""
    return Method(name, **{"side_px": 16, "superpixels": "grid", **changes})
