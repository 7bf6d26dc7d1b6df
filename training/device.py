"""Where PyTorch computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training.errors import ConfigError
from training.gpu_memory import out_of_memory


def pick_device(name: str) -> torch.device:
    """The device of `config.device`; ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        if out_of_memory(error):  # it is there, and full: whoever uses it falls back
            return device
        raise ConfigError(
            f"There is no device {name!r} here: {error}", hint='Set device to "cpu" or "auto".'
        ) from error
    return device


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use so many CPU threads inside; the process's own number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
