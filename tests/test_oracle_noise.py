"""Noisy answers err as often as they are asked to, and in no other way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import ConfigError
from training.oracle_noise import ClassRate, OracleNoise, noisy_answers, noisy_choices

CLASSES = ("a", "b", "c", "d")
ROWS = 20_000


def random_targets(seed: int = 0, undefined: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Multi-hot rows with at least one class, and the first class of each as its main one."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((ROWS, len(CLASSES) + undefined)) < 0.4).astype(np.uint8)
    targets[np.arange(ROWS), rng.integers(0, targets.shape[1], ROWS)] = 1
    return targets, targets.argmax(axis=1).astype(np.int64)


def answers(noise: OracleNoise, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    targets, main = random_targets()
    return (
        targets,
        main,
        noisy_answers(targets, main, noise, CLASSES, np.random.default_rng([seed, 7])),
    )


def test_no_noise_no_change() -> None:
    targets, _, found = answers(OracleNoise())
    assert np.array_equal(found, targets)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32))
def test_rates_are_those_asked_for(missed: float, extra: float, seed: int) -> None:
    targets, main, found = answers(OracleNoise(missed, extra), seed)
    there = targets.astype(bool)
    main_one = np.arange(targets.shape[1]) == main[:, None]
    rest = there & ~main_one
    # Six standard deviations of a mean over thousands of draws.
    assert (found[rest] == 0).mean() == pytest.approx(missed, abs=6 * 0.5 / rest.sum() ** 0.5)
    absent = ~there[:, :4]
    assert (found[:, :4][absent] == 1).mean() == pytest.approx(
        extra, abs=6 * 0.5 / absent.sum() ** 0.5
    )
    assert found[main_one].all()  # the main class is always seen
    assert not found[:, 4][~there[:, 4]].any()  # "something else" is never ticked by mistake


def test_rates_by_class() -> None:
    noise = OracleNoise(
        missed=0.0, missed_by_class=(ClassRate("b", 1.0),), extra_by_class=(ClassRate("c", 1.0),)
    )
    targets, main, found = answers(noise)
    assert not found[main != 1, 1].any()
    assert found[:, 2].all()
    assert np.array_equal(found[:, [0, 3, 4]], targets[:, [0, 3, 4]])


def test_same_generator_same_answers() -> None:
    noise = OracleNoise(0.3, 0.1)
    assert np.array_equal(answers(noise)[2], answers(noise)[2])
    assert not np.array_equal(answers(noise)[2], answers(noise, seed=2)[2])


def test_targets_are_left_alone() -> None:
    targets, main = random_targets()
    before = targets.copy()
    noisy_answers(targets, main, OracleNoise(0.5, 0.5), CLASSES, np.random.default_rng(0))
    assert np.array_equal(targets, before)


@pytest.mark.parametrize("undefined", [0, 1])
def test_wrong_choices_fall_on_every_other_class(undefined: int) -> None:
    columns = len(CLASSES) + undefined
    truth = np.arange(ROWS) % columns
    targets = np.eye(columns, dtype=np.uint8)[truth]
    found = noisy_choices(targets, OracleNoise(missed=0.25), CLASSES, np.random.default_rng(0))
    assert (found.sum(axis=1) == 1).all()
    chosen = found.argmax(axis=1)
    assert (chosen != truth).mean() == pytest.approx(0.25, abs=0.02)
    wrong = np.bincount(chosen[(chosen != truth) & (truth == 0)], minlength=columns)
    assert wrong[0] == 0
    assert wrong[1:4] / wrong.sum() == pytest.approx(np.full(3, 1 / 3), abs=0.06)


def test_choices_keep_empty_rows_and_a_single_class() -> None:
    rng = np.random.default_rng(0)
    empty = np.zeros((5, 4), np.uint8)
    assert not noisy_choices(empty, OracleNoise(missed=1.0), CLASSES, rng).any()
    one = np.ones((5, 1), np.uint8)
    assert noisy_choices(one, OracleNoise(missed=1.0), ("a",), rng).all()


def test_bad_rates_are_named() -> None:
    with pytest.raises(ConfigError, match=r"noise\.missed"):
        OracleNoise(missed=1.5)
    with pytest.raises(ConfigError, match="rate of 'b'"):
        ClassRate("b", -0.1)
    noise = OracleNoise(missed_by_class=(ClassRate("z", 0.1),))
    with pytest.raises(ConfigError, match="no class 'z'") as caught:
        answers(noise)
    assert "a, b, c, d" in caught.value.hint


def test_none_means_every_rate_is_zero() -> None:
    assert OracleNoise().none
    assert not OracleNoise(extra=0.1).none
    assert not OracleNoise(missed_by_class=(ClassRate("a", 0.1),)).none
