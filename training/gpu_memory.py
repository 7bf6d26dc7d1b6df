"""What PyTorch says when a GPU's memory ends, and where to go from there."""

from __future__ import annotations

import logging
from typing import TypeVar

import torch
from torch import nn

from training.errors import OutOfMemory

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)
CPU = torch.device("cpu")
# The allocator has an error of its own; the libraries under it, and the driver, only have words.
_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether this is PyTorch's way of saying that the GPU's memory does not suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def first_line(error: BaseException) -> str:
    """What an error says, without its advice."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def release() -> None:
    """Give back what PyTorch keeps for later.

    Not inside the handler of an error: its traceback holds the tensors to be freed.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_gpu(device: torch.device) -> bool:
    """Whether there is something smaller to fall back from: a GPU, for the CPU."""
    return device.type != "cpu"


def placed(model: M, device: torch.device) -> M:
    """The module moved to `device`, or to the CPU where its weights alone do not fit."""
    try:
        return model.to(device)
    except RuntimeError as error:
        if not is_gpu(device) or not out_of_memory(error):
            raise
        log.warning("The GPU has no room for the network, using the CPU: %s", first_line(error))
    model.to(CPU)
    release()
    return model


def too_small(what: str, error: BaseException) -> OutOfMemory:
    """The error that nothing smaller is left to be tried after."""
    return OutOfMemory(
        f"The GPU's memory is too small for {what} ({first_line(error)}).",
        hint="Free the GPU (nvidia-smi), or lower augment.crop or model.short_side, or choose a "
        "smaller encoder.",
    )
