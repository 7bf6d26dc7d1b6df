"""Simulated annotators who err: classes missed and classes ticked by mistake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.config_parsing import ensure
from training.errors import ConfigError

Answers = NDArray[np.uint8]


@dataclass(frozen=True)
class ClassRate:
    """A rate of its own for one class."""

    name: str
    rate: float

    def __post_init__(self) -> None:
        ensure(0 <= self.rate <= 1, f"the rate of {self.name!r}", "a probability", self.rate)


@dataclass(frozen=True)
class OracleNoise:
    """How often an answer is wrong; every tick errs independently.

    missed: probability that a class which is there is not ticked. The region's main class is seen
    always: an empty answer is no answer.
    extra: probability, for each class which is not there, that it is ticked nevertheless.
    An answer of a single class (dominant class, pixel) is with probability `missed` another class,
    drawn uniformly.
    """

    missed: float = 0.0
    extra: float = 0.0
    missed_by_class: tuple[ClassRate, ...] = ()
    extra_by_class: tuple[ClassRate, ...] = ()

    def __post_init__(self) -> None:
        for name in ("missed", "extra"):
            ensure(0 <= getattr(self, name) <= 1, f"noise.{name}", "a probability", self)

    @property
    def none(self) -> bool:
        """Whether every answer is right."""
        rates = [self.missed, self.extra]
        rates += [r.rate for r in (*self.missed_by_class, *self.extra_by_class)]
        return max(rates) == 0


def noisy_answers(
    targets: Answers,
    main: NDArray[np.int64],
    noise: OracleNoise,
    classes: Sequence[str],
    rng: np.random.Generator,
) -> Answers:
    """Multi-hot answers with errors, (R, K) uint8; `targets` is left as it is.

    Args:
        targets: right answers, (R, K); a column after the classes stands for "something else",
            is missed like a class and never ticked by mistake.
        main: column of each region that is never missed, (R,); -1: none.

    Raises: ConfigError for a rate of an unknown class.
    """
    columns = targets.shape[1]
    missed = _rates(noise.missed, noise.missed_by_class, classes, columns)
    extra = _rates(noise.extra, noise.extra_by_class, classes, columns)
    extra[len(classes) :] = 0
    draws = rng.random(targets.shape)
    there = targets.astype(bool)
    seen = there & (draws >= missed)
    rows = np.flatnonzero(main >= 0)
    seen[rows, main[rows]] = there[rows, main[rows]]
    answered: Answers = (seen | (~there & (draws < extra))).astype(np.uint8)
    return answered


def noisy_choices(
    targets: Answers, noise: OracleNoise, classes: Sequence[str], rng: np.random.Generator
) -> Answers:
    """One-hot answers with errors, (R, K) uint8; empty rows stay empty. Raises ConfigError."""
    columns = targets.shape[1]
    missed = _rates(noise.missed, noise.missed_by_class, classes, columns)
    answered = targets.copy()
    right = targets.argmax(axis=1)
    wrong = targets.any(axis=1) & (rng.random(len(targets)) < missed[right])
    others = len(classes)
    if others < 2:
        return answered
    # 1 .. C-1 steps round the circle of classes: each other class is equally likely.
    step = rng.integers(1, others, len(targets))
    listed = right < others
    other = np.where(listed, (right + step) % others, rng.integers(0, others, len(targets)))
    answered[wrong] = 0
    answered[wrong, other[wrong]] = 1
    return answered


def _rates(
    everyone: float, special: Sequence[ClassRate], classes: Sequence[str], columns: int
) -> NDArray[np.float64]:
    rates = np.full(columns, everyone)
    for item in special:
        if item.name not in classes:
            raise ConfigError(
                f"There is no class {item.name!r} to err about.",
                hint=f"Known: {', '.join(classes)}.",
            )
        rates[list(classes).index(item.name)] = item.rate
    return rates
