"""Cached features: of this very encoder, and finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from training_helpers import scene, tiny_config

from training.config import ModelConfig
from training.errors import NonFiniteError
from training.features_cache import FeatureCache
from training.files import file_sha256
from training.model import SegmentationModel, build

CONFIG = replace(tiny_config().model, encoder="test_efficientnet")


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "scene.png"
    Image.fromarray(scene(0)[0]).save(path)
    return path, file_sha256(path)


def one(config: ModelConfig) -> SegmentationModel:
    """Equal weights in every model."""
    torch.manual_seed(0)
    return build(config, 2, seed=0)


def fresh(config: ModelConfig, image: tuple[Path, str]) -> list[Tensor]:
    return FeatureCache(None, one(config)).get(*image)


@pytest.mark.parametrize("change", [{"output_stride": 8}, {"short_side": 48}])
def test_two_models_of_one_project_do_not_share_features(
    tmp_path: Path, image: tuple[Path, str], change: dict[str, int]
) -> None:
    """Seen failing with the stride left out of the key: stride-16 features in a stride-8 model."""
    other = replace(CONFIG, **change)  # type: ignore[arg-type]
    folder = tmp_path / "features"
    first = FeatureCache(folder, one(CONFIG)).get(*image)
    second = FeatureCache(folder, one(other)).get(*image)
    expected = fresh(other, image)
    assert [f.shape for f in second] == [f.shape for f in expected]
    assert all(torch.equal(a, b) for a, b in zip(second, expected, strict=True))
    again = FeatureCache(folder, one(CONFIG)).get(*image)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_equal_weights_in_another_network(tmp_path: Path, image: tuple[Path, str]) -> None:
    """efficientnet_b0 and tf_efficientnet_b0 have equal tensors and pad otherwise.

    Seen failing with the encoder's name left out of the key.
    """
    names = ("efficientnet_b0", "tf_efficientnet_b0")
    models = [one(replace(CONFIG, encoder=name)) for name in names]
    models[1].encoder.load_state_dict(models[0].encoder.state_dict())
    found = [FeatureCache(tmp_path / "f", m).get(*image) for m in models]
    alone = [FeatureCache(None, m).get(*image) for m in models]
    assert not torch.equal(alone[0][1], alone[1][1])
    for cached, expected in zip(found, alone, strict=True):
        assert torch.equal(cached[1], expected[1])


def test_another_normalisation(tmp_path: Path, image: tuple[Path, str]) -> None:
    """It is no part of the weights. Seen failing with it left out of the key."""
    first, second = one(CONFIG), one(CONFIG)
    second.mean.fill_(0.0)
    found = [FeatureCache(tmp_path / "f", m).get(*image) for m in (first, second)]
    assert not torch.equal(found[0][0], found[1][0])


def test_large_activations_stay_finite(
    tmp_path: Path, image: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 ends at 65,504. Seen failing with infinity in the file."""
    model = one(CONFIG)
    real = model.encode
    monkeypatch.setattr(model, "encode", lambda images: [f * 1e8 for f in real(images)])
    for _ in range(2):  # computed, then read
        features = FeatureCache(tmp_path / "f", model).get(*image)
        assert all(torch.isfinite(f).all() for f in features)
    expected = real(torch.tensor(np.asarray(Image.open(image[0]).resize((48, 32)))[None])
                    .permute(0, 3, 1, 2))  # fmt: skip
    assert features[1].shape == expected[1][0].shape
    assert features[1].abs().max() > 65_504


def test_features_that_are_no_numbers_are_not_kept(
    tmp_path: Path, image: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen failing with them written, and read ever after."""
    model = one(CONFIG)
    real = model.encode
    monkeypatch.setattr(model, "encode", lambda images: [f * torch.nan for f in real(images)])
    with pytest.raises(NonFiniteError, match="features"):
        FeatureCache(tmp_path / "f", model).get(*image)
    assert not list((tmp_path / "f").rglob("*.features"))
