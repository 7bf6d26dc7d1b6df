"""Out of GPU memory in a step: the batch in halves, their gradients summed, one step as before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from training.dataset import Batch
from training.errors import OutOfMemory

log = logging.getLogger(__name__)

# Batch normalisation of the pooled ASPP branch has one value per image and channel.
FEWEST = 2


class PartedBatch:
    """Forward and backward passes over at most `size` images at once.

    A batch that does not fit is halved and tried again, for the rest of the stage. The gradients of
    the parts are summed, weighted by their images, so batch size and learning rate keep their
    meaning. Two things change a little: batch statistics, and means over pixels are of a part.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def gradients(
        self, loss_of: Callable[[Batch], Tensor], batch: Batch, zero: Callable[[], None]
    ) -> Tensor:
        """Leave the gradients of the batch's loss in the weights; returns the loss, detached.

        Args:
            loss_of: the forward pass of a part.
            zero: forgets all gradients; called before each try.

        Raises:
            OutOfMemory: two images at once are too many.
        """
        while True:
            zero()
            try:
                return self._try(loss_of, batch)
            except torch.OutOfMemoryError as error:
                if self.size < 2 * FEWEST:
                    raise OutOfMemory(
                        f"The GPU's memory is too small for {self.size} images of a batch at once "
                        f"({str(error).splitlines()[0]}).",
                        hint="Free the GPU (nvidia-smi), or lower augment.crop or "
                        "model.short_side, or choose a smaller encoder.",
                    ) from error
            # Not inside the handler: the error's traceback holds the tensors to be freed.
            self.size //= 2
            log.warning("Out of GPU memory: going on with %s images at once.", self.size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _try(self, loss_of: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        total: Tensor | None = None
        count = len(batch.targets)
        for part in _parts(batch, self.size):
            loss = loss_of(part) * (len(part.targets) / count)
            if batch.labelled:
                loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None  # a batch has images
        return total


def _parts(batch: Batch, size: int) -> list[Batch]:
    """The batch in parts of at least `FEWEST` and, but for a rest of one, at most `size` images."""
    count = len(batch.targets)
    if count <= size:
        return [batch]
    starts = [s for s in range(0, count, size) if s == 0 or count - s >= FEWEST]
    return [
        replace(
            batch,
            images=None if batch.images is None else batch.images[low:high],
            features=None if batch.features is None else [f[low:high] for f in batch.features],
            targets=batch.targets[low:high],
        )
        for low, high in zip(starts, [*starts[1:], count], strict=True)
    ]
