"""The time left is that of the whole training, not of the stage that happens to run."""

from __future__ import annotations

import math

import pytest

from ml_backend.time_left import TimeLeft
from training.config import StageConfig, TrainConfig
from training.loop import Progress

NAN = float("nan")


def config(stages: int = 2) -> TrainConfig:
    """100 steps of 4 images, then 50 steps of 8."""
    return TrainConfig(
        stage1=StageConfig(lr=1e-3, epochs=2, steps_per_epoch=50, batch_size=4),
        stage2=StageConfig(lr=1e-3, epochs=1, steps_per_epoch=50, batch_size=8),
        stages=stages,
    )


def at(stage: str, step: int, steps: int, eta_s: float = NAN) -> Progress:
    return Progress(stage, 1, 2, step, steps, 0.5, eta_s)


@pytest.mark.parametrize(("stages", "left"), [(1, 80.0), (2, 180.0), (3, 280.0)])
def test_later_stages_go_at_the_pace_of_this_one(stages: int, left: float) -> None:
    """80 s for 80 steps of 4 are .25 s an image; a later stage has 50 steps of 8.

    Seen failing (80 s in every case) with later stages left out.
    """
    assert TimeLeft(config(stages)).after(at("stage1", 20, 100, 80.0)) == pytest.approx(left)


def test_it_goes_on_through_the_round() -> None:
    now = 0.0
    left = TimeLeft(config(), lambda: now)
    assert math.isnan(left.after(at("stage1", 0, 100)))
    left.after(at("stage1", 20, 100, 80.0))
    assert math.isnan(left.after(at("pseudo_labels", 0, 10)))
    now = 6.0
    assert left.after(at("pseudo_labels", 3, 10)) == pytest.approx(14 + 100)
    assert left.after(at("stage2", 25, 50, 30.0)) == pytest.approx(30)
    assert math.isnan(left.after(at("publishing", 0, 0)))


def test_after_a_restart_nothing_is_made_up() -> None:
    """No training of this process told a pace."""
    now = 0.0
    left = TimeLeft(config(), lambda: now)
    left.after(at("pseudo_labels", 4, 10))
    now = 3.0
    assert math.isnan(left.after(at("pseudo_labels", 7, 10)))
    assert left.after(at("stage2", 10, 50, 40.0)) == pytest.approx(40)
