"""Checks at the public doors of the learning core: whole shapes, id ranges, finite values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.errors import DataError, NonFiniteError


def expect_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Raise DataError unless the whole shape matches; None stands for any length."""
    shape = tuple(tensor.shape)
    same_rank = len(shape) == len(expected)
    if not same_rank or any(
        e is not None and s != e for s, e in zip(shape, expected, strict=False)
    ):
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise DataError(
            f"{name} must have the shape ({wanted}), got {shape}.",
            hint="Check that images, region ids and classes belong together.",
        )


def expect_integer(name: str, tensor: Tensor) -> None:
    """Raise DataError unless the tensor holds integers."""
    if tensor.is_floating_point() or tensor.is_complex():
        raise DataError(
            f"{name} must be integers, got {tensor.dtype}.", hint="Convert with .to(torch.int64)."
        )


def expect_floating(name: str, tensor: Tensor) -> None:
    """Raise DataError unless the tensor holds floating point numbers."""
    if not tensor.is_floating_point():
        raise DataError(
            f"{name} must be floating point, got {tensor.dtype}.", hint="Pass raw network outputs."
        )


def expect_temperature(temperature: float) -> None:
    """Raise DataError unless the softmax temperature is positive and finite."""
    if not 0.0 < temperature < float("inf"):
        raise DataError(
            f"temperature must be positive, got {temperature}.", hint="The method uses 0.1."
        )


def finite_probe(tensor: Tensor) -> Tensor:
    """A scalar that is finite if every element is: one reduction, no mask of the tensor's size."""
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return tensor.detach().sum(dtype=wide)


def raise_if_non_finite(name: str, tensor: Tensor, probe: float) -> None:
    """Raise NonFiniteError if `tensor` holds NaN or infinity; `probe` is its `finite_probe`.

    A sum of huge finite values may overflow, so an infinite probe is looked at again.
    """
    if math.isfinite(probe) or bool(torch.isfinite(tensor.detach()).all()):
        return
    bad = int((~torch.isfinite(tensor.detach())).sum())
    raise NonFiniteError(
        f"{name} must be finite, got {bad} NaN or infinite of {tensor.numel()} values.",
        hint="Lower the learning rate, or train in bfloat16 or float32 instead of float16.",
    )


def expect_finite(name: str, tensor: Tensor) -> None:
    """Raise NonFiniteError if `tensor` holds NaN or infinity (on a GPU: one synchronisation)."""
    raise_if_non_finite(name, tensor, float(finite_probe(tensor)))
