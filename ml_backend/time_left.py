"""How long a round still trains: over all of its stages, at the pace seen so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.config import StageConfig, TrainConfig
    from training.loop import Progress

TRAINING = "stage"


class TimeLeft:
    """Seconds until the trainings of a round are over, after each report of its progress.

    What is left of the stage that runs, and every stage after it at the same pace, in seconds for
    an image of a batch. Measuring, scoring and pushing are not counted, nor are pseudo labels
    before they are begun: how long they take nobody knows beforehand.
    """

    def __init__(self, config: TrainConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._stage = 0  # the last training that was seen, from 1
        self._pace: float | None = None  # seconds for an image of a batch
        self._labels_since: tuple[float, int] | None = None  # when, and at which image

    def after(self, progress: Progress) -> float:
        """Seconds; NaN where nothing tells yet, or nothing is left to train."""
        if progress.stage.startswith(TRAINING):
            self._labels_since = None
            self._stage = int(progress.stage.removeprefix(TRAINING))
            left = progress.eta_s
            if math.isfinite(left) and progress.step < progress.steps:
                images = (progress.steps - progress.step) * self._of(self._stage).batch_size
                self._pace = left / images
        elif progress.stage == "pseudo_labels":
            left = self._labels_left(progress)
        else:
            return math.nan
        return left + sum(self._whole(n) for n in range(self._stage + 1, self._config.stages + 1))

    def _labels_left(self, progress: Progress) -> float:
        if self._labels_since is None:
            self._labels_since = self._clock(), progress.step
            self._stage = self._stage or 1  # gone on with after a restart
        began, first = self._labels_since
        done = progress.step - first
        if done <= 0:
            return math.nan
        return (self._clock() - began) / done * (progress.steps - progress.step)

    def _whole(self, number: int) -> float:
        stage = self._of(number)
        if self._pace is None:
            return math.nan
        return self._pace * stage.batch_size * stage.epochs * stage.steps_per_epoch

    def _of(self, number: int) -> StageConfig:
        return self._config.stage1 if number == 1 else self._config.stage2
