"""Parts, rates and operations of training steps, measured on any device."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from training.bench_timing import Stopwatch, Times, medians, take_turns
from training.checkpoints import Checkpoints
from training.config import TrainConfig
from training.dataset import (
    Batch,
    FeatureSource,
    ImageSource,
    Source,
    epoch_batches,
    region_samples,
)
from training.features_cache import FeatureCache
from training.loop import Progress, make_optimiser, network_pass, train_stage
from training.losses import stage1_loss
from training.model import SegmentationModel, build
from training.snapshot import Snapshot

PARTS = ("data", "forward", "losses", "backward", "optimiser")


@dataclass(frozen=True)
class Steps:
    """Median times of the parts of a training step, and of the whole."""

    parts: dict[str, Times]
    whole: Times

    def share(self, *names: str) -> Times:
        """Per cent of the whole step, by either clock."""
        wall, cpu = (
            100 * sum(self.parts[n][clock] for n in names) / max(self.whole[clock], 1e-9)
            for clock in (0, 1)
        )
        return Times(wall, cpu)


def measure_steps(
    snapshot: Snapshot, config: TrainConfig, repeats: int, device: str = "cpu"
) -> Steps:
    """Training steps of stage 1 cut in parts; the loss is cut off the network at the logits."""
    model, source = _model_and_source(snapshot, config, device)
    optimiser, forward = make_optimiser(model, config.stage1), network_pass(config)
    warm = 2
    batches = epoch_batches(
        source, (0,), repeats + warm, config.stage1.batch_size, config.loader_threads
    )
    kept: list[dict[str, Times]] = []
    for _ in range(repeats + warm):
        watches = {part: Stopwatch(device) for part in PARTS}
        with watches["data"]:
            batch = next(batches).to(torch.device(device))
        with watches["forward"]:
            logits = forward(model, batch).float()
        with watches["losses"]:
            leaf = logits.detach().requires_grad_()
            (grad,) = torch.autograd.grad(_loss(config)(leaf, batch), leaf)
        with watches["backward"]:
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(logits, grad)
        with watches["optimiser"]:
            optimiser.step()
        kept.append({part: watch.times for part, watch in watches.items()})
    kept = kept[warm:]
    wholes = [Times(*(sum(t) for t in zip(*k.values(), strict=True))) for k in kept]
    return Steps({part: medians([k[part] for k in kept]) for part in PARTS}, medians(wholes))


def images_per_second(snapshot: Snapshot, config: TrainConfig, device: str, folder: Path) -> float:
    """Rate of the real training loop, loader included, from the second epoch on."""
    model, source = _model_and_source(snapshot, config, device)
    stage = replace(config.stage1, epochs=2, steps_per_epoch=min(config.stage1.steps, 61))
    config = replace(config, stage1=stage)
    looks: list[tuple[int, float]] = []

    def note(progress: Progress) -> None:
        # A step whose loss was looked at has waited for the GPU.
        if progress.epoch == 2 and math.isfinite(progress.loss):
            looks.append((progress.step, time.perf_counter()))

    checkpoints = Checkpoints(Path(tempfile.mkdtemp(dir=folder)))
    train_stage(model, source, _loss(config), "stage1", config, checkpoints, note)
    (first, start), (last, end) = looks[0], looks[-1]
    return stage.batch_size * (last - first) / (end - start)


def step_flops(snapshot: Snapshot, config: TrainConfig, device: str) -> float:
    """Floating-point operations of one step, forward and backward, without the optimiser."""
    model, source = _model_and_source(snapshot, config, device)
    (batch,) = epoch_batches(source, (0,), 1, config.stage1.batch_size)
    batch = batch.to(torch.device(device))
    forward = network_pass(replace(config, compile=False))
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(forward(model, batch).float().sum())
    return float(counter.get_total_flops())


def matmul_flops(device: str, side: int, repeats: int) -> float:
    """Operations per second of a square bf16 product: what this device reaches at its best."""
    a = torch.rand(side, side, dtype=torch.bfloat16, device=device)
    (times,) = take_turns([lambda: a @ a], repeats, device)
    return 2 * side**3 / (times.wall_ms / 1000)


def _loss(config: TrainConfig) -> Callable[[Tensor, Batch], Tensor]:
    def loss(logits: Tensor, batch: Batch) -> Tensor:
        assert batch.candidates is not None  # region samples have them
        return stage1_loss(
            logits, batch.targets, batch.candidates, config.temperature, config.loss_weights
        )

    return loss


def _model_and_source(
    snapshot: Snapshot, config: TrainConfig, device: str
) -> tuple[SegmentationModel, Source]:
    """An untrained model in training mode (weights do not change the time), and its batches."""
    model = build(config.model, snapshot.num_outputs, True, pretrained=False).to(device)
    model.to(memory_format=torch.channels_last)
    samples = region_samples(snapshot)
    source: Source
    if config.model.frozen_encoder:
        source = FeatureSource(samples, config.augment, FeatureCache(None, model))
        for index in range(len(samples)):  # features are computed before the first step
            for flip in (False, True):
                source.cache.get(samples[index].image, samples[index].sha256, flip)
    else:
        source = ImageSource(samples, config.augment, config.model.short_side)
    return model.train(), source
