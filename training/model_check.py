"""Whether a model can be had, before anything hangs on it; nothing is downloaded.

As a program it reads a model config (JSON) and answers with JSON, for a process that must not load
torch: `python -m training.model_check`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from training.config import ModelConfig
from training.config_parsing import parse_dataclass
from training.errors import ConfigError, TrainingError

TIMEOUT_S = 10.0


def check_model(config: ModelConfig) -> None:
    """Build the model once, with weights that are here; look for those that would be downloaded.

    Raises:
        ConfigError: no such encoder, one that the head cannot be put on, weights of another
            encoder, or weights that cannot be had from here.
    """
    from training.model import build  # imports torch
    from training.pretrained import WHEEL_ENCODER

    downloads = config.weights == "imagenet" and config.encoder != WHEEL_ENCODER
    build(config, 1, pretrained=not downloads)
    if downloads:
        _check_download(config.encoder)


def _check_download(encoder: str) -> None:
    """The weights lie in a cache, or whoever has them answers."""
    import timm

    pretrained = timm.get_pretrained_cfg(encoder)
    if pretrained is None or not pretrained.has_weights:
        raise _no_weights(encoder, "timm knows none")
    hub = pretrained.hf_hub_id
    try:
        if hub and not pretrained.file:
            _check_hub(str(hub), pretrained.hf_hub_filename)
        elif pretrained.url:
            _check_address(str(pretrained.url))
    except Exception as error:  # each hub client fails in its own way without a network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _no_weights(encoder, reason) from error


def _no_weights(encoder: str, reason: str) -> ConfigError:
    from training.pretrained import WHEEL_ENCODER

    return ConfigError(
        f"The ImageNet weights of {encoder} cannot be had from here: {reason}",
        hint=f"Set model.weights to a local state dict, or model.encoder to {WHEEL_ENCODER}, whose "
        "weights are installed with PixBal.",
    )


def _check_hub(repository: str, filename: str | None) -> None:
    import huggingface_hub as hub

    names = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    if any(isinstance(hub.try_to_load_from_cache(repository, name), str) for name in names):
        return
    # timm takes the first of them that there is.
    hub.get_hf_file_metadata(hub.hf_hub_url(repository, names[-1]), timeout=TIMEOUT_S)


def _check_address(url: str) -> None:
    import torch

    if (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).exists():
        return
    try:
        urlopen(Request(url, method="HEAD"), timeout=TIMEOUT_S).close()
    except HTTPError as error:
        if error.code != 405:  # it is there, and does not like the question
            raise


def main() -> None:
    """Answer {} or {"message", "hint"}."""
    answer: dict[str, Any] = {}
    try:
        check_model(parse_dataclass(ModelConfig, json.load(sys.stdin), "model"))
    except TrainingError as error:
        answer = {"message": error.message, "hint": error.hint}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
