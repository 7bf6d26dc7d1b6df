"""A batch that does not fit into the GPU's memory: halved, its gradient kept, then the CPU.

There is no GPU in the tests: the step raises PyTorch's own error at a size of our choice, and the
CPU is taken for one. Images one at a time: tests/test_out_of_memory_images.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_helpers import end_to_end_config, tiny_config, tiny_snapshot

from training import memory
from training.checkpoints import Checkpoints
from training.config import TrainConfig
from training.dataset import Batch, ImageSource, region_samples
from training.errors import OutOfMemory
from training.gpu_memory import out_of_memory
from training.loop import Progress, train_stage
from training.losses import stage1_loss
from training.memory import PartedBatch, single_image, ways
from training.model import build
from training.tensor_hash import tensors_hash


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
    [
        (8, 8, [8]),
        (8, 4, [8, 4, 4]),
        (8, 2, [8, 4, 2, 2, 2, 2]),
        (5, 3, [5, 2, 3]),
        (5, 2, [5, 2, 3, 1, 2, 2]),
        (12, 3, [12, 6, 3, 3, 3, 3]),
        (12, 2, [12, 6, 3, *[2] * 6]),
        (12, 1, [12, 6, 3, 2, *[1] * 12]),
        (3, 2, [3, 1, 2]),
        (3, 1, [3, 1, 2, 1, 1, 1]),
    ],
)
def test_parts_have_the_gradient_of_the_whole(count: int, most: int, tried: list[int]) -> None:
    """Seen failing without the weight of a part, and without forgetting a try's gradients; and with
    12 images that fit by twos given up at 3.
    """
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
@pytest.mark.parametrize(("fewest", "words"), [(1, "1 image at once"), (2, "2 images at once")])
def test_an_image_that_does_not_fit_is_named(fewest: int, words: str) -> None:
    weights = torch.ones(3, requires_grad=True)
    with pytest.raises(OutOfMemory, match=rf"too small for {words}.*2\.00 GiB.*augment\.crop"):
        PartedBatch(4, fewest).gradients(limited(0, [], weights), batch_of(4), lambda: None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), False),
        (MemoryError("CUDA out of memory"), False),
    ],
)
def test_how_a_gpu_says_that_it_is_full(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_another_error_is_no_reason_for_smaller_parts() -> None:
    def broken(part: Batch) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        PartedBatch(4).gradients(broken, batch_of(4), lambda: None)


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


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_stage_goes_on_with_one_image_at_once(tmp_path: Path, frozen: bool) -> None:
    """Of one image the pooled branch has no variance: its running statistics are used.

    Seen failing with PyTorch's "Expected more than 1 value per channel when training".
    """
    config = small((tiny_config if frozen else end_to_end_config)())
    source = ImageSource(region_samples(tiny_snapshot(tmp_path / "data")), config.augment, 32)
    seen: list[int] = []

    def loss_of(logits: Tensor, part: Batch) -> Tensor:
        seen.append(len(logits))
        if len(logits) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return first_loss(logits, part)

    model = build(config.model, 3, True)
    before = {n: p.clone() for n, p in model.named_parameters()}
    train_stage(model, source, loss_of, "stage1", config, Checkpoints(tmp_path / "c"))
    assert seen == [2, *[1] * 8]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not torch.equal(model.head.classifier.weight, before["head.classifier.weight"])


def test_batch_normalisation_of_a_single_image() -> None:
    """Only layers that see one value per channel, and only meanwhile."""
    pooled, spread = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    network = nn.ModuleList([pooled, spread])
    with single_image(network):
        out = pooled(torch.full((1, 2, 1, 1), 3.0))
        spread(torch.arange(8.0).view(1, 2, 2, 2))
    torch.testing.assert_close(out, torch.full((1, 2, 1, 1), 3.0), rtol=1e-4, atol=0)
    assert pooled.running_mean is not None
    assert spread.running_mean is not None
    assert pooled.running_mean.tolist() == [0.0, 0.0]
    assert spread.running_mean.tolist() != [0.0, 0.0]
    assert pooled.training
    assert spread.training
    with pytest.raises(ValueError, match="more than 1 value"):
        pooled(torch.zeros(1, 2, 1, 1))


# Beyond the batch: the optimiser, then the CPU


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a GPU."""
    monkeypatch.setattr(memory, "is_gpu", lambda device: True)


def test_ways_to_train() -> None:
    assert [w.device.type for w in ways(torch.device("cpu"))] == ["cpu"]
    found = ways(torch.device("cuda:1"))
    assert [(str(w.device), w.foreach) for w in found] == [
        ("cuda:1", None), ("cuda:1", False), ("cpu", None),
    ]  # fmt: skip


def small(config: TrainConfig) -> TrainConfig:
    return replace(config, model=replace(config.model, encoder="test_efficientnet"))


def first_loss(logits: Tensor, part: Batch) -> Tensor:
    assert part.candidates is not None
    return stage1_loss(logits, part.targets, part.candidates)


def trained(
    folder: Path, loss_of: Callable[[Tensor, Batch], Tensor] = first_loss, ema: float = 0.0
) -> tuple[str, list[int]]:
    """Hash of the weights after a stage of 2 epochs of 2 steps, and the steps that were made."""
    config = small(end_to_end_config(ema=ema))
    source = ImageSource(region_samples(tiny_snapshot(folder / "data")), config.augment, None)
    model = build(config.model, 3, True)
    steps: list[int] = []

    def report(progress: Progress) -> None:
        steps.append(progress.step)

    train_stage(model, source, loss_of, "stage1", config, Checkpoints(folder / "c"), report)
    return tensors_hash(model.state_dict()), steps


class Full:
    """An optimiser that runs out of memory in the middle of some of its steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
        self.number, self.calls, self.foreach = 0, calls, []  # type: ignore[var-annotated]
        real = torch.optim.AdamW.step

        def step(optimiser: torch.optim.AdamW) -> None:
            self.number += 1
            real(optimiser)  # half of the weights are as good as all: it must be taken back
            if self.number in self.calls:
                self.foreach.append(optimiser.defaults["foreach"])
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

        monkeypatch.setattr(torch.optim.AdamW, "step", step)


@pytest.mark.guarantee(11)
@pytest.mark.parametrize(
    ("calls", "steps", "tried"),
    [
        ({1}, [1, 2, 3, 4], [None]),  # before there is any checkpoint
        ({4}, [1, 2, 3, 3, 4], [None]),  # from the end of epoch 1
        ({1, 2}, [1, 2, 3, 4], [None, False]),
        ({2, 6}, [1, 1, 2, 3, 3, 4], [None, False]),
    ],
)
def test_an_optimiser_step_that_does_not_fit(
    gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: set[int], steps: list[int],
    tried: list[bool | None], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Tensor by tensor, then on the CPU; a step that was made in part is not made twice.

    Seen failing with the error passed on, and with the half-made step kept.
    """
    undisturbed, _ = trained(tmp_path / "a", ema=0.5)
    full = Full(monkeypatch, calls)
    assert trained(tmp_path / "b", ema=0.5) == (undisturbed, steps)
    assert full.foreach == tried
    assert ("on the CPU" in caplog.text) is (len(tried) == 2)


@pytest.mark.guarantee(11)
def test_one_image_that_does_not_fit_is_trained_on_the_cpu(
    gpu: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No optimiser would help. Seen failing with the round."""
    undisturbed, _ = trained(tmp_path / "a")
    seen: list[int] = []

    def loss_of(logits: Tensor, part: Batch) -> Tensor:
        seen.append(len(logits))
        if len(seen) in (4, 5):  # the last step, of two images and of one
            raise torch.OutOfMemoryError("CUDA out of memory")
        return first_loss(logits, part)

    assert trained(tmp_path / "b", loss_of) == (undisturbed, [1, 2, 3, 3, 4])
    assert seen == [2, 2, 2, 2, 1, 2, 2]
    assert "stage1 goes on from its last whole epoch on the CPU" in caplog.text


def test_without_a_gpu_there_is_nothing_to_fall_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Full(monkeypatch, {1})
    with pytest.raises(OutOfMemory, match=r"too small for a step of stage1.*9\.00 GiB.*nvidia-smi"):
        trained(tmp_path)
