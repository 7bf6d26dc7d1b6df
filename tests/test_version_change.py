"""Better or worse than the version before, by more than the error of the difference."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from training_helpers import tiny_config, tiny_snapshot

from training.metrics import ConfusionMatrix
from training.rounds import run_round
from training.version_change import Change, heldout_change


def test_the_jackknife_of_one_class_is_worked_out() -> None:
    """Five images of 10 pixels of one class; the new version loses 1, 1, 1, 1 and 6 of them.

    Without image i the mIoU is the mean share found, so the jackknife's error is that of a mean:
    the losses .1 .1 .1 .1 .6 have mean .2 and error sqrt(.2 / (5 * 4)) = .1.
    """
    before = {f"{i} mask": "0 10 10 10" for i in range(5)}
    after = {f"{i} mask": f"0 {10 - lost} 10 {10 - lost}" for i, lost in enumerate((1, 1, 1, 1, 6))}
    found = heldout_change(before, after)
    assert found is not None
    assert (found.difference, found.error) == pytest.approx((-0.2, 0.1))
    assert found.count == 5
    assert not found.fell  # by exactly twice the error
    better = heldout_change(after, before)
    assert better is not None
    assert better.difference == pytest.approx(0.2)
    assert not better.fell


def test_what_is_lost_everywhere_is_sure() -> None:
    before = {f"{i} mask": "0 10 10 10" for i in range(6)}
    after = {f"{i} mask": f"0 {8 - i % 2} 10 {8 - i % 2}" for i in range(6)}
    found = heldout_change(before, after)
    assert found is not None
    assert found.difference == pytest.approx(-0.25)
    assert found.fell


def test_the_mean_is_over_classes_in_the_truth() -> None:
    """Class 1 is only ever predicted: it takes from class 0, and is no class of its own."""
    before = {f"{i} m": "0 10 10 10" for i in range(5)}
    after = {f"{i} m": "0 5 10 5;1 0 0 5" for i in range(5)}
    assert heldout_change(before, after) == Change(-0.5, 0.0, 5)


def test_only_the_same_images_with_the_same_masks_count() -> None:
    before = {f"{i} mask": "0 10 10 10" for i in range(9)}
    other = {f"{i} other mask": "0 1 10 1" for i in range(9)}
    assert heldout_change(before, other) is None
    four = {name: before[name] for name in list(before)[:4]}
    assert heldout_change(before, four) is None
    assert heldout_change({}, {}) is None


def test_images_without_any_class_are_no_accident() -> None:
    empty = {f"{i} mask": "" for i in range(7)}
    assert heldout_change(empty, empty) is None
    one = {**empty, "0 mask": "0 5 5 5"}
    found = heldout_change(one, one)
    assert found is None or found == Change(0.0, 0.0, 7)


def test_counts_of_images_add_up_to_the_matrix() -> None:
    rng = np.random.default_rng(0)
    whole, texts = ConfusionMatrix(4), {}
    for number in range(6):
        one = ConfusionMatrix(4)
        predicted, truth = rng.integers(0, 5, (2, 30, 30))
        one.add(predicted, truth)
        whole.counts += one.counts
        texts[str(number)] = one.per_class()
    found = heldout_change({name: "0 1 1 1" for name in texts}, texts)
    assert found is not None
    assert found.difference == pytest.approx(whole.iou().miou - 1)


def test_a_round_keeps_what_a_later_one_is_compared_with(tmp_path: Path) -> None:
    snapshot = tiny_snapshot(tmp_path, images=2, heldout=2)
    version = run_round(snapshot.path, tiny_config(), tmp_path / "version")
    found = version.metrics["heldout"]
    assert len(found) == 2
    rows = [part.split() for text in found.values() for part in text.split(";")]
    truth = sum(int(row[2]) for row in rows)
    assert truth == 2 * 40 * 56
    right = sum(int(row[1]) for row in rows) / truth
    assert right == pytest.approx(version.metrics["stage2"]["pixel_accuracy"])
    assert math.isfinite(right)
