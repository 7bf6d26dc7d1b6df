"""Self-training: which predictions become labels."""

from __future__ import annotations

import numpy as np
import torch

from training.confident_labels import BINS, Confidence, confidences, fill


def test_confidence_is_the_largest_probability() -> None:
    logits = torch.tensor([[[0.0, 0.2]], [[0.0, 0.0]]])  # (2, 1, 2)
    top, bins = confidences(logits, 0.1)
    assert top.tolist() == [[0, 0]]
    second = 1 / (1 + np.exp(-2))
    assert bins.tolist() == [[BINS // 2, round(second * BINS)]]


def test_the_same_share_of_each_class_is_kept() -> None:
    found = Confidence(3)
    found.add(np.array([[0, 0, 0, 0]], np.uint8), np.array([[900, 800, 700, 600]], np.uint16))
    found.add(np.array([[1, 1]], np.uint8), np.array([[300, 200]], np.uint16))
    assert found.thresholds(0.5).tolist() == [800, 300, BINS + 1]  # class 2: never predicted
    assert found.thresholds(1.0).tolist() == [600, 200, BINS + 1]
    assert found.thresholds(0.01).tolist() == [900, 300, BINS + 1]  # at least one pixel


def test_only_unlabelled_sure_pixels_are_filled() -> None:
    labels = np.array([[2, 255, 255]], np.uint8)
    top, bins = np.array([[0, 0, 1]], np.uint8), np.array([[999, 800, 299]], np.uint16)
    assert fill(labels, top, bins, np.array([800, 300, 1])).tolist() == [[2, 0, 255]]
