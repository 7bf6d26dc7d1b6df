"""Scoring, pseudo labels, held-out scores and masks on a full GPU: less of it, then the CPU.

There is no GPU in the tests: the CPU is taken for one, and the network raises PyTorch's own error
where a GPU would. A fallback gives the very numbers that the usual way gives.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import end_to_end_config, scene, tiny_config, tiny_snapshot

from training import device as devices
from training import gpu_memory, memory, one_image
from training.config import TrainConfig
from training.device import pick_device
from training.errors import ConfigError, OutOfMemory
from training.features_cache import FeatureCache
from training.gpu_memory import CPU, placed
from training.model import SegmentationModel, build
from training.one_image import OneImage
from training.predict import evaluate, predict_mask
from training.pseudo_label_files import write_pseudo_labels
from training.rounds import run_round
from training.scoring import PoolImage, score_pool
from training.snapshot import Snapshot
from training.versions import load_model

FULL = "CUDA out of memory. Tried to allocate 8.00 GiB\nSee documentation for Memory Management"
pytestmark = pytest.mark.guarantee(11)


class Gpu:
    """A GPU without room: for the maps of an image's size, or for the network itself."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.refused = patch, 0
        for module in (gpu_memory, memory, one_image):
            patch.setattr(module, "is_gpu", lambda device: True)

    def refuse(self) -> None:
        self.refused += 1
        raise torch.OutOfMemoryError(FULL)

    def no_room_for_maps(self) -> None:
        """The maps' device is this very object where a fallback has chosen it."""
        for name in ("logits", "decode"):
            real = getattr(SegmentationModel, name)

            def maps_on(model: Any, *args: Any, real: Any = real, **options: Any) -> Any:
                eligible = not model.training  # steps of training have their own fallback
                chosen = options.get("maps", args[3] if len(args) > 3 else None)
                if eligible and chosen is not CPU:
                    self.refuse()
                return real(model, *args, **options)

            self.patch.setattr(SegmentationModel, name, maps_on)

    def no_room_for_the_network(self) -> None:
        real_encode, real_copy = SegmentationModel.encode, OneImage._on_cpu
        on_cpu: list[SegmentationModel] = []

        def encode(model: SegmentationModel, images: Tensor) -> list[Tensor]:
            if not model.training and not any(model is copy for copy in on_cpu):
                self.refuse()
            return real_encode(model, images)

        def copied(one: OneImage) -> SegmentationModel:
            on_cpu.append(real_copy(one))
            return on_cpu[-1]

        self.patch.setattr(SegmentationModel, "encode", encode)
        self.patch.setattr(OneImage, "_on_cpu", copied)

    def fill(self, what: str) -> None:
        {"maps": self.no_room_for_maps, "network": self.no_room_for_the_network}[what]()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def small(config: TrainConfig) -> TrainConfig:
    return replace(config, model=replace(config.model, encoder="test_efficientnet"))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("data"), heldout=2)


@pytest.fixture(params=[True, False], ids=["frozen", "end to end"])
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return small(tiny_config() if request.param else end_to_end_config())


full = pytest.mark.parametrize("what", ["maps", "network"])


@full
def test_masks_and_heldout_scores(
    snapshot: Snapshot, config: TrainConfig, gpu: Gpu, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen failing with the error passed on: a whole round was lost to its last look."""
    model = build(config.model, 3, True)
    image = scene(5)[0]

    def found() -> tuple[Any, list[list[int]]]:
        cache = FeatureCache(None, model) if config.model.frozen_encoder else None
        iou = evaluate(model, snapshot.heldout, lambda i: snapshot.file_hash(i.image), cache)
        return iou, predict_mask(model, image).tolist()

    undisturbed = found()
    gpu.fill(what)
    assert found() == undisturbed
    assert gpu.refused >= 3  # each image is tried on the GPU again: the next may be smaller
    assert caplog.text.count("the large maps of an image are made on the CPU") <= 3  # said once


@full
def test_pseudo_labels(
    snapshot: Snapshot, config: TrainConfig, gpu: Gpu, what: str, tmp_path: Path
) -> None:
    """With those of self-training. Seen failing with the error passed on."""
    model = build(config.model, 3, True)
    settings = replace(config.pseudo_labels, confident=0.5)

    def found(folder: Path) -> tuple[Any, list[bytes]]:
        cache = FeatureCache(None, model) if config.model.frozen_encoder else None
        summary = write_pseudo_labels(
            model, snapshot, settings, folder, cache, lambda *_: None, 0.1
        )  # fmt: skip
        return summary, [path.read_bytes() for path in sorted(folder.glob("*.png"))]

    undisturbed = found(tmp_path / "a")
    gpu.fill(what)
    assert found(tmp_path / "b") == undisturbed
    assert gpu.refused >= 3


@full
@pytest.mark.parametrize("cached", [True, False])
def test_scoring(
    snapshot: Snapshot, config: TrainConfig, gpu: Gpu, what: str, cached: bool, tmp_path: Path
) -> None:
    """Seen failing with the error passed on: no questions after a round."""
    version = run_round(snapshot.path, config, tmp_path / "v", cache_dir=tmp_path / "round")
    pool = [PoolImage(i.image_id, i.image, i.regions) for i in snapshot.items]

    def found(name: str) -> list[list[float]]:
        cache = tmp_path / name if cached else None
        scores = score_pool(version, pool, config, seed=0, cache_dir=cache)
        return [scores.images[image.image_id].score.tolist() for image in pool]

    undisturbed = found("a")
    gpu.fill(what)
    assert found("b") == undisturbed
    assert gpu.refused >= len(pool)


def test_a_whole_round_on_a_full_gpu(
    snapshot: Snapshot, config: TrainConfig, gpu: Gpu, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Optimiser, features, pseudo labels and scores, each refused once or always."""
    undisturbed = run_round(snapshot.path, config, tmp_path / "v", cache_dir=tmp_path / "a")
    gpu.no_room_for_maps()
    gpu.no_room_for_the_network()
    real, calls = torch.optim.AdamW.step, []

    def step(optimiser: torch.optim.AdamW) -> None:
        calls.append(1)
        real(optimiser)
        if len(calls) in (2, 3):
            gpu.refuse()

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    version = run_round(snapshot.path, config, tmp_path / "w", cache_dir=tmp_path / "b")
    assert gpu.refused > 8
    assert version.weights_hash == undisturbed.weights_hash
    assert version.sha256 == undisturbed.sha256
    same = {n: v for n, v in version.metrics.items() if n != "seconds"}
    assert same == {n: v for n, v in undisturbed.metrics.items() if n != "seconds"}


def test_where_nothing_is_left_it_is_named(config: TrainConfig, gpu: Gpu) -> None:
    def never(model: SegmentationModel, maps: torch.device) -> None:
        gpu.refuse()

    with pytest.raises(OutOfMemory, match=r"too small for one image.*8\.00 GiB\).*nvidia-smi"):
        OneImage(build(config.model, 3)).run(never)
    assert gpu.refused == 3


def test_another_error_is_passed_on(config: TrainConfig, gpu: Gpu) -> None:
    def broken(model: SegmentationModel, maps: torch.device) -> None:
        gpu.refused += 1
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        OneImage(build(config.model, 3)).run(broken)
    assert gpu.refused == 1


def test_the_copy_is_the_model(config: TrainConfig) -> None:
    """Its normalisation, too, which is in no state dict; and nobody's random numbers are used."""
    model = build(config.model, 3, True, seed=3)
    model.mean.fill_(7.0)
    before = torch.get_rng_state()
    copy = OneImage(model)._on_cpu()
    assert torch.equal(torch.get_rng_state(), before)
    assert (copy.num_classes, copy.training) == (2, False)
    assert torch.equal(copy.mean, model.mean)
    assert all(torch.equal(copy.state_dict()[n], t) for n, t in model.state_dict().items())


def test_a_network_without_room_is_left_on_the_cpu(
    snapshot: Snapshot, config: TrainConfig, gpu: Gpu, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Its weights do not fit: `.to` fails half-way. Seen failing with the error passed on."""
    version = run_round(snapshot.path, config, tmp_path / "v")
    real, asked = SegmentationModel.to, []

    def to(model: SegmentationModel, where: Any = None, **options: Any) -> Any:
        asked.append(where)
        if isinstance(where, torch.device) and where is not CPU:
            gpu.refuse()
        return real(model, where, **options) if where is not None else real(model, **options)

    monkeypatch.setattr(SegmentationModel, "to", to)
    model = load_model(version, torch.device("cpu", 0))
    assert model.mean.device.type == "cpu"
    assert asked[-1] is CPU
    assert gpu.refused == 1
    assert "no room for the network, using the CPU: CUDA out of memory" in caplog.text
    pool = [PoolImage(i.image_id, i.image, i.regions) for i in snapshot.items]
    assert np.isfinite(score_pool(version, pool, config, seed=0).images["scene0"].score).all()


def test_other_errors_of_placing_are_passed_on(gpu: Gpu) -> None:
    class Broken(torch.nn.Module):
        def to(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("CUDA error: no kernel image is available for execution")

    with pytest.raises(RuntimeError, match="no kernel image"):
        placed(Broken(), torch.device("cpu"))


def test_a_full_device_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen failing with "There is no device 'cuda' here", and a round failed for good."""

    def empty(*_: object, **__: object) -> Tensor:
        raise RuntimeError(words)

    monkeypatch.setattr(devices.torch, "empty", empty)
    words = "CUDA error: out of memory"
    assert pick_device("cuda") == torch.device("cuda")
    words = "Torch not compiled with CUDA enabled"
    with pytest.raises(ConfigError, match="no device 'cuda' here"):
        pick_device("cuda")
