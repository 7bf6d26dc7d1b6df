"""The one training loop, for both stages, with cached features or end to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.checkpoints import Checkpoints
from training.config import StageConfig, TrainConfig
from training.dataset import Batch, Source, epoch_batches
from training.errors import NonFiniteError
from training.memory import PartedBatch
from training.model import SegmentationModel
from training.weight_average import WeightAverage

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


def make_optimiser(model: SegmentationModel, stage: StageConfig) -> torch.optim.AdamW:
    """AdamW with the encoder, if it learns, at `lr` and the head at `lr * head_lr_scale`."""
    groups = [{"params": list(model.head.parameters()), "start": stage.lr * stage.head_lr_scale}]
    if not model.config.frozen_encoder:
        groups.append({"params": list(model.encoder.parameters()), "start": stage.lr})
    return torch.optim.AdamW(groups, lr=stage.lr, weight_decay=stage.weight_decay)


def train_stage(
    model: SegmentationModel,
    source: Source,
    loss_of: Loss,
    name: str,
    config: TrainConfig,
    checkpoints: Checkpoints,
    report: Report = silent,
) -> None:
    """Train `model` in place, from its newest checkpoint, to the end of stage `name`.

    `report` is called after every step and may raise to stop; the next call goes on from the last
    whole epoch. Out of GPU memory, the batch is halved (see `training.memory`).

    Raises:
        NonFiniteError: the loss became NaN or infinite.
        OutOfMemory: two images at once are too many.
    """
    stage: StageConfig = getattr(config, name)
    device = model.mean.device
    model.head.to(memory_format=torch.channels_last)
    model.encoder.to(memory_format=torch.channels_last)
    optimiser = make_optimiser(model, stage)
    average = WeightAverage(config.ema)
    done = checkpoints.restore(model, optimiser, lambda found: average.restore(found, device))
    clock = _Clock(stage.steps, done * stage.steps_per_epoch)
    forward, parts = network_pass(config), PartedBatch(stage.batch_size)
    model.train()
    for epoch in range(done, stage.epochs):
        seed = (config.seed, STAGES[name], epoch)
        batches = epoch_batches(
            source, seed, stage.steps_per_epoch, stage.batch_size, config.loader_threads
        )
        with torch.random.fork_rng(devices=_gpus(device)):
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            for number, batch in enumerate(batches):
                step = epoch * stage.steps_per_epoch + number
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(group["start"], step, stage)
                loss = _step(model, forward, optimiser, batch, loss_of, parts)
                average.update(model, step)
                look = device.type == "cpu" or number % CHECK_EVERY == 0
                value = _checked(loss, name, step) if look else math.nan
                report(
                    Progress(
                        name, epoch + 1, stage.epochs, step + 1, stage.steps, value,
                        clock.eta_s(step + 1),
                    )
                )  # fmt: skip
            _checked(loss, name, step)
        checkpoints.save(epoch + 1, model, optimiser, average.state())
    average.load_into(model)
    model.eval()


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
            hint=f"Lower {name}.lr, or set precision to fp32.",
        )
    return value


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


class _Clock:
    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.done, self.start = steps, done, time.monotonic()

    def eta_s(self, step: int) -> float:
        """Seconds to the end of the stage at the pace since the start of this process."""
        passed = time.monotonic() - self.start
        return passed / max(step - self.done, 1) * (self.steps - step)
