"""One image at a time through a model in eval mode, with less and less of the GPU's memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from training.gpu_memory import CPU, first_line, is_gpu, out_of_memory, release, too_small
from training.model import SegmentationModel, build

log = logging.getLogger(__name__)

T = TypeVar("T")
# Of a model, and of the device on which maps of the image's size are made from its small ones.
Work = Callable[[SegmentationModel, torch.device], T]


class OneImage:
    """Runs work on single images; where the GPU's memory ends, in three smaller ways.

    As usual; then the maps of the image's size, which are most of the memory, on the CPU; then all
    on the CPU. The next image starts as usual again: it may be smaller, the GPU may be free again.
    `model` must not be trained between two calls.
    """

    def __init__(self, model: SegmentationModel) -> None:
        self.model = model
        self._copy: SegmentationModel | None = None
        self._said: set[str] = set()

    def run(self, work: Work[T]) -> T:
        """What `work` returns. Raises OutOfMemory where no way is left."""
        for words, model, maps, last in self._ways():
            try:
                return work(model, maps)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if last:
                    raise too_small("one image", error) from error
                self._say(words, first_line(error))
            release()
        raise AssertionError("the last way returns or raises")

    def _ways(self) -> Iterator[tuple[str, SegmentationModel, torch.device, bool]]:
        device = self.model.mean.device
        if is_gpu(device):
            yield "the large maps of an image are made on the CPU", self.model, device, False
            yield "an image goes through the network on the CPU", self.model, CPU, False
            yield "", self._on_cpu(), CPU, True
        else:
            yield "", self.model, device, True

    def _on_cpu(self) -> SegmentationModel:
        """A copy, made without memory of the GPU; the model stays where it is."""
        if self._copy is None:
            model = self.model
            with torch.inference_mode(False):
                copy = build(
                    model.config,
                    model.num_outputs,
                    model.num_outputs > model.num_classes,
                    pretrained=False,
                )
                state = {n: t.detach().to(CPU, copy=True) for n, t in model.state_dict().items()}
                copy.load_state_dict(state, assign=True)  # in the memory format of the model
                copy.mean.copy_(model.mean)
                copy.std.copy_(model.std)
            self._copy = copy
        return self._copy

    def _say(self, words: str, reason: str) -> None:
        if words not in self._said:
            self._said.add(words)
            log.warning("Out of GPU memory: %s (%s).", words, reason)
