"""Rounds with one stage, and with the refinement repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_helpers import tiny_config, tiny_snapshot

from training.config import TrainConfig
from training.errors import ConfigError
from training.loop import Progress
from training.round_plan import LABELS
from training.rounds import run_round
from training.snapshot import Snapshot
from training.versions import Version, load_model


class Stop(Exception):
    """Raised by a caller that wants to stop."""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("data"))


def trained(snapshot: Snapshot, name: str, stages: int, **options: bool) -> Version:
    config = tiny_config(stages=stages)
    return run_round(snapshot.path, config, snapshot.path.parent / name, **options)


def test_one_stage_publishes_the_first_model_twice(snapshot: Snapshot) -> None:
    one, two = trained(snapshot, "one", 1), trained(snapshot, "two", 2)
    first, final = (load_model(one, which=which) for which in ("stage1", "final"))
    assert torch.equal(first.head.classifier.weight, final.head.classifier.weight)
    assert one.metrics["miou"] == one.metrics["stage1_miou"] == two.metrics["stage1_miou"]
    assert one.metrics["pseudo_labels"] == {}
    assert not (one.path / LABELS).exists()


def test_third_stage_learns_from_labels_of_the_second(snapshot: Snapshot) -> None:
    two = trained(snapshot, "two-kept", 2, keep_labels=True)
    three = trained(snapshot, "three-kept", 3, keep_labels=True)
    assert sorted(p.name for p in three.path.iterdir()) == [
        "model.safetensors", LABELS, "stage1.safetensors", "version.json",
    ]  # fmt: skip
    assert two.sha256["stage1.safetensors"] == three.sha256["stage1.safetensors"]
    assert two.weights_hash != three.weights_hash
    names = sorted(p.name for p in (two.path / LABELS).glob("*.png"))
    assert names == [f"{item.image_id}.png" for item in snapshot.labelled]

    def pictures(version: Version) -> list[np.ndarray]:
        return [np.asarray(Image.open(version.path / LABELS / name)) for name in names]

    pairs = zip(pictures(two), pictures(three), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)


def test_stopped_in_the_third_stage_goes_on_to_equal_weights(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    whole = run_round(snapshot.path, tiny_config(stages=3), tmp_path / "whole")
    seen: list[str] = []

    def stop(progress: Progress) -> None:
        seen.append(progress.stage)
        if seen.count("stage2") == 7:  # four steps of stage 2, then the third of stage 3
            raise Stop

    with pytest.raises(Stop):
        run_round(snapshot.path, tiny_config(stages=3), tmp_path / "again", progress=stop)
    again = run_round(snapshot.path, tiny_config(stages=3), tmp_path / "again")
    assert again.weights_hash == whole.weights_hash


def test_stages_are_at_least_one() -> None:
    with pytest.raises(ConfigError, match="stages must be at least 1"):
        replace(TrainConfig(), stages=0)
