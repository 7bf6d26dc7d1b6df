"""A batch that does not fit into the GPU's memory: halved, its gradient kept, or a named error.

There is no GPU in the tests: the step raises PyTorch's own error at a size of our choice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_helpers import end_to_end_config, tiny_config, tiny_snapshot

from training.checkpoints import Checkpoints
from training.dataset import Batch, ImageSource, region_samples
from training.errors import OutOfMemory
from training.loop import Progress, train_stage
from training.losses import stage1_loss
from training.memory import PartedBatch
from training.model import build


def batch_of(count: int) -> Batch:
    """Images of noise; targets that nobody looks at."""
    images = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return Batch(images, None, torch.zeros(count, 4, 4, dtype=torch.int64), None, True)


def limited(most: int, seen: list[int], weights: Tensor) -> Callable[[Batch], Tensor]:
    """A loss, mean over images, on a machine that takes `most` images at once."""

    def loss_of(part: Batch) -> Tensor:
        seen.append(len(part.targets))
        if len(part.targets) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        assert part.images is not None
        return ((part.images.mean((2, 3)) @ weights) ** 2).mean()

    return loss_of


@pytest.mark.guarantee(11)
@pytest.mark.parametrize(
    ("count", "most", "tried"),
    [(8, 8, [8]), (8, 4, [8, 4, 4]), (8, 2, [8, 4, 2, 2, 2, 2]), (5, 3, [5, 2, 3])],
)
def test_parts_have_the_gradient_of_the_whole(count: int, most: int, tried: list[int]) -> None:
    """Seen failing without the weight of a part, and without forgetting a try's gradients."""
    weights = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    whole = limited(99, [], weights)(batch_of(count))
    whole.backward()
    assert weights.grad is not None
    expected = weights.grad.clone()
    seen: list[int] = []

    def zero() -> None:
        weights.grad = None

    loss = PartedBatch(count).gradients(limited(most, seen, weights), batch_of(count), zero)
    assert seen == tried
    assert torch.allclose(weights.grad, expected, rtol=1e-5)
    assert torch.allclose(loss, whole.detach(), rtol=1e-5)


def test_the_smaller_size_stays(caplog: pytest.LogCaptureFixture) -> None:
    weights = torch.ones(3, requires_grad=True)
    seen: list[int] = []
    parts = PartedBatch(8)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            parts.gradients(limited(4, seen, weights), batch_of(8), lambda: None)
    assert seen == [8, 4, 4, 4, 4]
    assert caplog.text.count("4 images at once") == 1


@pytest.mark.guarantee(11)
def test_two_images_that_do_not_fit_are_named() -> None:
    weights = torch.ones(3, requires_grad=True)
    with pytest.raises(OutOfMemory, match=r"too small for 2 images.*2\.00 GiB.*augment\.crop"):
        PartedBatch(4).gradients(limited(1, [], weights), batch_of(4), lambda: None)


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_stage_goes_on_with_half_a_batch(tmp_path: Path, frozen: bool) -> None:
    """Every step is made, the weights are finite, and a later stage may be whole again."""
    config = (tiny_config if frozen else end_to_end_config)().with_overrides(
        ["stage1.batch_size=4"]
    )
    source = ImageSource(region_samples(tiny_snapshot(tmp_path / "data")), config.augment, 32)
    seen: list[int] = []
    steps: list[int] = []

    def loss_of(logits: Tensor, part: Batch) -> Tensor:
        seen.append(len(logits))
        if len(logits) > 2 and len(steps) >= 1:  # the first step still fits
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert part.candidates is not None
        return stage1_loss(logits, part.targets, part.candidates)

    def report(progress: Progress) -> None:
        steps.append(progress.step)

    model = build(config.model, 3, True)
    train_stage(model, source, loss_of, "stage1", config, Checkpoints(tmp_path / "c"), report)
    assert steps == [1, 2, 3, 4]
    assert seen == [4, 4, 2, 2, 2, 2, 2, 2]
    assert all(torch.isfinite(p).all() for p in model.parameters())
