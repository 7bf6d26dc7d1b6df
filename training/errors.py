"""The errors of this package: what was expected, what came, and in `hint` what to do next."""

from __future__ import annotations


class TrainingError(Exception):
    """Base of every error raised on purpose here; `hint` says what to do next (may be empty)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ImageError(TrainingError):
    """An image or mask cannot be read, or is larger than allowed."""


class SuperpixelError(TrainingError):
    """Superpixels cannot be made: unknown method or parameter, or a missing library."""


class RegionMapError(TrainingError):
    """A region map, or the name of a region, is damaged or not what it says."""


class SnapshotError(TrainingError):
    """A snapshot folder is damaged, incomplete or has nothing to train on."""


class ConfigError(TrainingError):
    """A training setting is unknown, of the wrong type or out of range."""


class UnknownSetting(ConfigError):
    """There is no training setting of that name in this release."""


class CheckpointError(TrainingError):
    """A checkpoint or version folder is damaged or does not fit the model."""


class NewerRelease(CheckpointError):
    """A version folder is whole, and was written by a release that this one cannot follow."""


class NonFiniteError(TrainingError):
    """NaN or infinity in logits, a loss or weights."""


class OutOfMemory(TrainingError):
    """Not even the smallest part of a batch fits into the GPU's memory."""


class PoolExhausted(TrainingError):
    """No region is left to ask about."""


class DataError(TrainingError):
    """A data set lacks a file, or image and mask do not fit each other."""
