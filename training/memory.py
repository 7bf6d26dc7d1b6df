"""Out of GPU memory: the batch in smaller parts, one step as before; else the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from training.dataset import Batch
from training.gpu_memory import CPU, is_gpu, out_of_memory, release, too_small

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Way:
    """How a stage is trained. `foreach` False: the optimiser takes one tensor after the other."""

    device: torch.device
    foreach: bool | None
    words: str


def ways(device: torch.device) -> list[Way]:
    """From the usual one to the one that needs least of the GPU's memory: none."""
    usual = Way(device, None, "as set")
    if not is_gpu(device):
        return [usual]
    return [
        usual,
        Way(device, False, "on the GPU, with an optimiser that takes tensor after tensor"),
        Way(CPU, None, "on the CPU"),
    ]


def smaller(size: int) -> int:
    """12 -> 6 -> 3 -> 2 -> 1: half, rounded up, so that no size between is passed over."""
    return (size + 1) // 2


class PartedBatch:
    """Forward and backward passes over at most `size` images at once, at least `fewest`.

    A batch that does not fit is halved and tried again, for the rest of the stage. The gradients of
    the parts are summed, weighted by their images, so batch size and learning rate keep their
    meaning. Two things change a little: batch statistics, and means over pixels are of a part.
    """

    def __init__(self, size: int, fewest: int = 1) -> None:
        self.size, self.fewest = size, fewest

    def gradients(
        self, loss_of: Callable[[Batch], Tensor], batch: Batch, zero: Callable[[], None]
    ) -> Tensor:
        """Leave the gradients of the batch's loss in the weights; returns the loss, detached.

        Args:
            loss_of: the forward pass of a part.
            zero: forgets all gradients; called before each try.

        Raises:
            OutOfMemory: `fewest` images at once are too many.
        """
        while True:
            zero()
            try:
                return self._try(loss_of, batch)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                # Not by the size set: a batch may have fewer images.
                tried = min(self.size, len(batch.targets))
                if tried <= self.fewest:
                    raise too_small(f"{_images(tried)} at once", error) from error
            self.size = smaller(tried)
            log.warning("Out of GPU memory: going on with %s at once.", _images(self.size))
            release()

    def _try(self, loss_of: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        total: Tensor | None = None
        count = len(batch.targets)
        for part in parts_of(batch, self.size):
            loss = loss_of(part) * (len(part.targets) / count)
            if batch.labelled:
                loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None  # a batch has images
        return total


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def parts_of(batch: Batch, size: int) -> list[Batch]:
    """The batch in as few parts of at most `size` images as will do, as equal as can be."""
    count = len(batch.targets)
    if count <= size:
        return [batch]
    number = -(-count // size)
    ends = [count * part // number for part in range(number + 1)]
    return [
        replace(
            batch,
            images=None if batch.images is None else batch.images[low:high],
            features=None if batch.features is None else [f[low:high] for f in batch.features],
            targets=batch.targets[low:high],
        )
        for low, high in pairwise(ends)
    ]


@contextmanager
def single_image(model: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation of pooled features goes by its running statistics.

    Of one image they have one value per channel (the pooled branch of ASPP, channel attention):
    there is no variance to be taken, and PyTorch refuses.
    """
    met: list[nn.Module] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module.training and inputs[0].numel() == inputs[0].shape[1]:
            met.append(module.eval())

    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in met:
            module.train()
