"""The one training loop, for both stages, with cached features or end to end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.checkpoints import Checkpoints, trained_state
from training.config import StageConfig, TrainConfig
from training.dataset import Batch, Source, epoch_batches
from training.errors import NonFiniteError, OutOfMemory
from training.gpu_memory import first_line, out_of_memory, release, too_small
from training.memory import PartedBatch, Way, single_image, ways
from training.model import SegmentationModel
from training.weight_average import WeightAverage

log = logging.getLogger(__name__)

STAGES = {"stage1": 1, "stage2": 2}  # part of every seed
CHECK_EVERY = 10  # GPU steps between looks at the loss: each look waits for the GPU

Loss = Callable[[Tensor, Batch], Tensor]


@dataclass(frozen=True)
class Progress:
    """Where a round stands. `step` counts over the whole stage; `loss` is NaN where there is none.

    In "stage1", epoch 0 is the preparation of features.
    """

    stage: str  # stage1 | pseudo_labels | stage2 | publishing
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    eta_s: float  # of this stage


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report nothing."""


def learning_rate(start: float, step: int, stage: StageConfig) -> float:
    """lr_t = max(lr_0 (1 - t/T)^0.9, 1e-6), for t = 0..T-1."""
    return max(start * math.pow(1 - step / stage.steps, stage.power), stage.min_lr)


def make_optimiser(
    model: SegmentationModel, stage: StageConfig, foreach: bool | None = None
) -> torch.optim.AdamW:
    """AdamW with the encoder, if it learns, at `lr` and the head at `lr * head_lr_scale`.

    `foreach` False takes one tensor after the other: slower, with less memory.
    """
    groups = [{"params": list(model.head.parameters()), "start": stage.lr * stage.head_lr_scale}]
    if not model.config.frozen_encoder:
        groups.append({"params": list(model.encoder.parameters()), "start": stage.lr})
    return torch.optim.AdamW(groups, lr=stage.lr, weight_decay=stage.weight_decay, foreach=foreach)


def train_stage(
    model: SegmentationModel,
    source: Source,
    loss_of: Loss,
    name: str,
    config: TrainConfig,
    checkpoints: Checkpoints,
    report: Report = silent,
    begin: Callable[[], None] | None = None,
) -> None:
    """Train `model` in place, from its newest checkpoint, to the end of stage `name`.

    `report` is called after every step and may raise to stop; the next call goes on from the last
    whole epoch. `begin` completes the weights where there is no checkpoint to go on from. Out of
    GPU memory, the batch is halved; where that does not help, the stage goes on from its last whole
    epoch with an optimiser that needs less, then on the CPU, where the model is left (see
    `training.memory`).

    Raises:
        NonFiniteError: the loss or a weight became NaN or infinite; it is in no checkpoint.
        OutOfMemory: one image at once is too much.
    """
    model.head.to(memory_format=torch.channels_last)
    model.encoder.to(memory_format=torch.channels_last)
    left = ways(model.mean.device)
    start = {} if len(left) == 1 else {n: t.cpu().clone() for n, t in trained_state(model).items()}

    def fresh() -> None:
        model.load_state_dict(start, strict=False)
        if begin is not None:
            begin()

    stage = _Stage(model, source, loss_of, name, config, checkpoints, report, fresh)
    while True:
        way = left.pop(0)
        try:
            stage.train(way)
            return
        except OutOfMemory as error:  # of a single image: no optimiser helps
            if not left:
                raise
            reason, left = error.message, left[-1:]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if not left:
                raise too_small(f"a step of {name}", error) from error
            reason = first_line(error)
        log.warning("%s goes on from its last whole epoch %s: %s", name, left[0].words, reason)
        release()


@dataclass(frozen=True)
class _Stage:
    model: SegmentationModel
    source: Source
    loss_of: Loss
    name: str
    config: TrainConfig
    checkpoints: Checkpoints
    report: Report
    fresh: Callable[[], None]  # the weights before the first step

    def train(self, way: Way) -> None:
        """From the newest checkpoint to the end, in one way."""
        model, config = self.model, self.config
        stage: StageConfig = getattr(config, self.name)
        device = way.device
        model.to(device)
        optimiser = make_optimiser(model, stage, way.foreach)
        average = WeightAverage(config.ema)
        done = self.checkpoints.restore(
            model, optimiser, lambda found: average.restore(found, device)
        )
        if not done:
            self.fresh()
        clock = _Clock(stage.steps, done * stage.steps_per_epoch)
        forward = network_pass(config)
        # A compiled network keeps to the batch normalisation that it was compiled with.
        parts = PartedBatch(stage.batch_size, fewest=2 if config.compile else 1)
        model.train()
        for epoch in range(done, stage.epochs):
            seed = (config.seed, STAGES[self.name], epoch)
            batches = epoch_batches(
                self.source, seed, stage.steps_per_epoch, stage.batch_size, config.loader_threads
            )
            with torch.random.fork_rng(devices=_gpus(device)):
                torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
                for number, batch in enumerate(batches):
                    step = epoch * stage.steps_per_epoch + number
                    for group in optimiser.param_groups:
                        group["lr"] = learning_rate(group["start"], step, stage)
                    loss = _step(model, forward, optimiser, batch, self.loss_of, parts)
                    average.update(model, step)
                    look = device.type == "cpu" or number % CHECK_EVERY == 0
                    value = _checked(loss, self.name, step) if look else math.nan
                    self.report(
                        Progress(
                            self.name, epoch + 1, stage.epochs, step + 1, stage.steps, value,
                            clock.eta_s(step + 1),
                        )
                    )  # fmt: skip
                _checked(loss, self.name, step)
            self._save(epoch + 1, optimiser, average)
        average.load_into(model)
        model.eval()

    def _save(self, epoch: int, optimiser: torch.optim.Optimizer, average: WeightAverage) -> None:
        """The loss does not show what the last step made of the weights: the file is looked at."""
        try:
            self.checkpoints.save(epoch, self.model, optimiser, average.state())
        except NonFiniteError as error:
            raise NonFiniteError(
                f"The weights of {self.name} are no numbers after epoch {epoch}: {error.message}",
                hint=_lower(self.name),
            ) from error


def network_pass(config: TrainConfig) -> Callable[[SegmentationModel, Batch], Tensor]:
    """(model, batch) -> logits (B, K, H, W), in the precision of the config, compiled or not."""

    def forward(model: SegmentationModel, batch: Batch) -> Tensor:
        with torch.autocast(
            batch.targets.device.type, torch.bfloat16, enabled=config.precision == "bf16"
        ):
            features = batch.features
            if features is None:
                assert batch.images is not None  # a batch has one or the other
                features = model.encode(batch.images)
            features = [f.contiguous(memory_format=torch.channels_last) for f in features]
            return model.logits(features, batch.size, batch.size)

    return torch.compile(forward) if config.compile else forward


def _step(
    model: SegmentationModel,
    forward: Callable[[SegmentationModel, Batch], Tensor],
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    loss_of: Loss,
    parts: PartedBatch,
) -> Tensor:
    device = model.mean.device

    def loss(part: Batch) -> Tensor:
        part = part.to(device)
        with single_image(model) if len(part.targets) == 1 else nullcontext():
            return loss_of(forward(model, part).float(), part)

    value = parts.gradients(loss, batch, lambda: optimiser.zero_grad(set_to_none=True))
    if batch.labelled:  # without a label there is nothing to learn; AdamW would still move weights
        optimiser.step()
    return value


def _checked(loss: Tensor, name: str, step: int) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise NonFiniteError(
            f"The loss of {name} became {value} at step {step + 1}.",
            hint=_lower(name),
        )
    return value


def _lower(name: str) -> str:
    return f"Lower {name}.lr, or set precision to fp32."


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


class _Clock:
    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.done, self.start = steps, done, time.monotonic()

    def eta_s(self, step: int) -> float:
        """Seconds to the end of the stage at the pace since the start of this process."""
        passed = time.monotonic() - self.start
        return passed / max(step - self.done, 1) * (self.steps - step)
