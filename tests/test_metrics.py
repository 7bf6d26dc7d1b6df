"""IoU against counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import DataError
from training.metrics import ConfusionMatrix


def test_by_hand() -> None:
    truth = np.array([[0, 0, 1], [1, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    matrix = ConfusionMatrix(3)
    matrix.add(predicted, truth)
    iou = matrix.iou()
    # class 0: TP 1, FP 1, FN 1; class 1: TP 2, FP 1, FN 1; class 2 does not occur.
    assert iou.per_class[:2] == pytest.approx((1 / 3, 1 / 2))
    assert math.isnan(iou.per_class[2])
    assert iou.miou == pytest.approx(5 / 12)
    assert iou.absent == (2,)
    assert iou.pixel_accuracy == pytest.approx(3 / 5)
    assert iou.to_json(("a", "b", "c")) == {
        "miou": pytest.approx(5 / 12),
        "pixel_accuracy": pytest.approx(3 / 5),
        "per_class": {"a": pytest.approx(1 / 3), "b": 0.5, "c": None},
        "absent": ["c"],
    }


def test_false_alarms_of_an_absent_class_hurt_the_others() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(np.array([[1, 0]]), np.array([[0, 0]]))
    assert matrix.iou().per_class[0] == 0.5
    assert matrix.iou().absent == (1,)


def test_predictions_outside_the_classes_are_wrong() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(np.array([[255, 0, 1]], np.uint8), np.array([[0, 0, 1]], np.uint8))
    assert matrix.iou().per_class == (0.5, 1.0)


def test_nothing_seen_is_nan() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(np.zeros((2, 2), np.uint8), np.full((2, 2), 11, np.uint8))
    iou = matrix.iou()
    assert math.isnan(iou.miou)
    assert iou.absent == (0, 1)
    assert iou.to_json(("a", "b"))["miou"] is None


def test_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(2, 2\).*\(4,\)"):
        ConfusionMatrix(2).add(np.zeros((2, 2), int), np.zeros(4, int))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_laws(seed: int, classes: int) -> None:
    """Parts add up to the whole, a perfect prediction has IoU 1, as has torchmetrics' counting."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes + 1, (3, 4, 5))
    guess = rng.integers(0, classes, (3, 4, 5))
    whole, parts, perfect = (ConfusionMatrix(classes) for _ in range(3))
    for image in range(3):
        parts.add(guess[image], truth[image])
        perfect.add(truth[image], truth[image])
    whole.add(guess.reshape(12, 5), truth.reshape(12, 5))
    np.testing.assert_array_equal(whole.counts, parts.counts)
    for index, value in enumerate(whole.iou().per_class):
        both = (truth == index) & (guess == index)
        either = (truth < classes) & ((truth == index) | (guess == index))
        expected = both.sum() / either.sum() if (truth == index).any() else math.nan
        assert value == pytest.approx(expected, nan_ok=True)
    assert all(v == 1 or math.isnan(v) for v in perfect.iou().per_class)


def test_agrees_with_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional")
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 5, (2, 20, 20))
    matrix = ConfusionMatrix(4)
    matrix.add(np.minimum(guess, 3), truth)
    expected = functional.jaccard_index(
        torch.from_numpy(np.minimum(guess, 3)), torch.from_numpy(truth),
        task="multiclass", num_classes=5, ignore_index=4, average="none",
    )[:4]  # fmt: skip
    assert matrix.iou().per_class == pytest.approx(expected.tolist())
