"""The running mean of the weights."""

from __future__ import annotations

import pytest
import torch
from training_helpers import end_to_end_config

from training.model import SegmentationModel, build
from training.weight_average import WeightAverage

NAME = "head.classifier.weight"


@pytest.fixture
def model() -> SegmentationModel:
    return build(end_to_end_config().model, 3, True)


def _weights(model: SegmentationModel, value: float) -> None:
    with torch.no_grad():
        model.head.classifier.weight.fill_(value)


def test_mean_by_hand(model: SegmentationModel) -> None:
    average = WeightAverage(0.15)
    for step, value in enumerate((7.0, 1.0, 2.0)):
        _weights(model, value)
        average.update(model, step)
    average.load_into(model)
    first = 7 + (1 - 1 / 11) * (1 - 7)  # d = min(.15, 1 / 11)
    expected = first + (1 - 0.15) * (2 - first)  # d = min(.15, 2 / 12)
    torch.testing.assert_close(
        model.state_dict()[NAME], torch.full_like(model.state_dict()[NAME], expected)
    )


def test_zero_keeps_nothing(model: SegmentationModel) -> None:
    average = WeightAverage(0.0)
    average.update(model, 0)
    _weights(model, 5.0)
    average.load_into(model)
    assert average.state() == {}
    assert bool((model.state_dict()[NAME] == 5).all())


def test_state_is_taken_up_again(model: SegmentationModel) -> None:
    average, other = WeightAverage(0.9), WeightAverage(0.9)
    _weights(model, 1.0)
    average.update(model, 3)
    other.restore(average.state() | {"model.x": torch.zeros(1)}, torch.device("cpu"))
    _weights(model, 3.0)
    average.update(model, 4)
    other.update(model, 4)
    assert other.state().keys() == average.state().keys()
    assert all(torch.equal(other.state()[n], t) for n, t in average.state().items())
