"""A running mean of the weights while they are trained."""

from __future__ import annotations

import torch
from torch import Tensor

from training.checkpoints import trained_state
from training.model import SegmentationModel

PREFIX = "average."


class WeightAverage:
    """w_t' = d w_{t-1}' + (1 - d) w_t with d = min(decay, t / (t + 10)), as in mean teachers.

    (Tarvainen and Valpola, NeurIPS 2017.) The ramp forgets the first, random weights; step counts
    from 0. Batch statistics are averaged too. A decay of 0 keeps nothing.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: SegmentationModel, step: int) -> None:
        """Take in the weights after `step`."""
        if self.decay == 0:
            return
        decay = min(self.decay, step / (step + 10))
        for name, value in trained_state(model).items():
            mean = self._mean.get(name)
            if mean is None or not value.is_floating_point():
                self._mean[name] = value.detach().clone()
            else:
                mean.lerp_(value.detach(), 1 - decay)

    def load_into(self, model: SegmentationModel) -> None:
        """Give the model the mean, where there is one."""
        if self._mean:
            model.load_state_dict(self._mean, strict=False)

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint, by names that begin with `PREFIX`."""
        return {f"{PREFIX}{name}": value for name, value in self._mean.items()}

    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take up the tensors of `state`; others are passed over."""
        self._mean = {
            name.removeprefix(PREFIX): value.to(device)
            for name, value in tensors.items()
            if name.startswith(PREFIX)
        }
