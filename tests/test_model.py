"""The network: sizes, cosines, the parameter count of the paper's, bad encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from training.config import ModelConfig
from training.errors import ConfigError, DataError
from training.model import CosineClassifier, Head, SegmentationModel, build, upsample

TINY = ModelConfig(weights="none", head_channels=8, low_level_channels=4)


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return build(TINY, 4, undefined=True)


def test_parameters_of_the_papers_head() -> None:
    """3,174,416 for ResNet-50 and 20 outputs, as counted in the authors' network."""
    head = Head(256, 2048, 20, ModelConfig())
    assert sum(p.numel() for p in head.parameters()) == 3_174_416


def test_parameters_of_the_papers_backbone() -> None:
    """23,631,808 in the authors' deep-stem ResNet-50; timm calls it resnet50s."""
    config = ModelConfig(encoder="resnet50s", weights="none", frozen_encoder=False)
    encoder = build(config, 2).encoder
    assert sum(p.numel() for p in encoder.parameters()) == 23_631_808


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (1, 1), (5, 70), (64, 17)])
def test_output_has_the_size_of_the_input(model: SegmentationModel, size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        logits, features = model(images)
    assert logits.shape == (2, 4, *size)
    assert features.shape == (2, 8, *size)
    assert logits.dtype == features.dtype == torch.float32
    assert logits.abs().max() <= 1 + 1e-5
    assert features.min() >= 0
    assert features.square().sum(1).max() <= 1 + 1e-5


def test_decode_is_logits_and_features(model: SegmentationModel) -> None:
    with torch.no_grad():
        encoded = model.encode(torch.randint(0, 256, (1, 3, 20, 30), dtype=torch.uint8))
        logits, features = model.decode(encoded, (20, 30))
        alone = model.logits(encoded, (40, 60), (20, 30))
    assert alone.shape[-2:] == (40, 60)
    torch.testing.assert_close(
        alone, F.interpolate(logits, size=(40, 60), mode="bilinear", align_corners=False)
    )
    assert features.shape == (1, 8, 20, 30)


def test_cosine_by_hand() -> None:
    classifier = CosineClassifier(2, 3)
    classifier.weight.data = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, -2.0]])
    features = torch.tensor([0.0, 5.0]).view(1, 2, 1, 1)
    expected = torch.tensor([0.0, 0.5**0.5, -1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(classifier(features), expected)
    assert torch.equal(classifier(torch.zeros(1, 2, 1, 1)), torch.zeros(1, 3, 1, 1))


def test_cosine_ignores_lengths_and_has_a_gradient() -> None:
    classifier = CosineClassifier(4, 3).double()
    torch.manual_seed(0)
    torch.nn.init.normal_(classifier.weight)
    features = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    before = classifier(features)
    classifier.weight.data *= torch.tensor([[2.0], [0.1], [7.0]], dtype=torch.float64)
    torch.testing.assert_close(classifier(features * 9), before, atol=1e-5, rtol=1e-5)
    features.requires_grad_()
    classifier(features).sum().backward()
    # Turning a vector changes its cosine, stretching does not: the gradient is orthogonal to it.
    along = (features.grad * features).sum(1).abs().max()  # type: ignore[operator]
    assert along < 1e-5


def test_upsample_drops_the_padding() -> None:
    maps = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    # 16 x 32 px padded from 16 x 20: only columns 0..19 may be seen.
    whole = F.interpolate(maps, size=(16, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(maps, (16, 20), (16, 20)), whole[..., :20])
    assert upsample(maps, (4, 8), (16, 32)).data_ptr() == maps.data_ptr()


def test_frozen_encoder_takes_no_gradient_and_no_statistics(model: SegmentationModel) -> None:
    model.train()
    before = {n: t.clone() for n, t in model.encoder.state_dict().items()}
    logits, _ = model(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    logits.sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.head.classifier.weight.grad is not None
    assert not model.encoder.training
    assert model.head.training
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, before[name])
    model.eval()


def test_end_to_end_encoder_learns() -> None:
    model = build(ModelConfig(weights="none", head_channels=8, frozen_encoder=False), 3).train()
    logits, _ = model(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    logits[:, 0].sum().backward()
    gradient = model.encoder.get_parameter("model.conv_stem.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_seed_decides_the_head() -> None:
    before = torch.get_rng_state()
    first, again, other = (build(TINY, 4, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["head.classifier.weight"], other["head.classifier.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_wheel_weights_are_imagenet() -> None:
    """The first filters of a trained network are no noise: neighbouring weights agree."""
    model = build(ModelConfig(head_channels=8), 2)
    stem = model.encoder.get_parameter("model.conv_stem.weight")
    random = build(ModelConfig(head_channels=8, weights="none"), 2).encoder.get_parameter(
        "model.conv_stem.weight"
    )
    assert stem.std() > random.std()
    with torch.no_grad():
        high = model.encode(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8))[1]
    assert high.shape == (1, 320, 4, 4)
    assert torch.isfinite(high).all()


def test_weights_from_a_file(tmp_path: Path, model: SegmentationModel) -> None:
    other = build(TINY, 4, seed=9).encoder.state_dict()
    save_file(other, tmp_path / "a.safetensors")
    torch.save({"state_dict": other}, tmp_path / "b.pt")
    for name in ("a.safetensors", "b.pt"):
        config = ModelConfig(weights=str(tmp_path / name), head_channels=8, low_level_channels=4)
        loaded = build(config, 4).encoder.state_dict()
        assert all(torch.equal(loaded[n], other[n]) for n in other)


def write_bad(path: Path, kind: str) -> None:
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not weights")
    elif kind == "pickle":
        torch.save({"weights": Path("x")}, path)
    elif kind == "number":
        torch.save(3, path)
    elif kind == "other":
        torch.save({"conv.weight": torch.zeros(2)}, path)


@pytest.mark.parametrize("kind", ["empty", "text", "pickle", "number", "other", "missing"])
@pytest.mark.parametrize("end", [".pt", ".safetensors"])
def test_bad_weights(tmp_path: Path, kind: str, end: str) -> None:
    path = tmp_path / f"weights{end}"
    write_bad(path, kind)
    with pytest.raises(ConfigError) as error:
        build(ModelConfig(weights=str(path), head_channels=8), 2)
    assert error.value.hint


@pytest.mark.parametrize("encoder", ["resnet51", "no such model", "vit_tiny_patch16_224"])
def test_bad_encoder(encoder: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(ModelConfig(encoder=encoder, weights="none"), 2)
    assert error.value.hint


def test_bad_input(model: SegmentationModel) -> None:
    with pytest.raises(DataError, match=r"\(B, 3, H, W\)"):
        model(torch.zeros(3, 32, 32))
    with pytest.raises(ConfigError, match="at least one class"):
        build(TINY, 1, undefined=True)
