"""Trained models on disk: weights, config, metrics and hashes, published by one rename."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.checkpoints import read_tensors
from training.config import TrainConfig
from training.errors import CheckpointError, ConfigError, NewerRelease
from training.files import file_sha256, read_json, sealed, unsealed
from training.gpu_memory import placed
from training.model import SegmentationModel, build
from training.tensor_hash import tensors_hash

FORMAT = 1
MANIFEST = "version.json"
FINAL, STAGE1 = "model.safetensors", "stage1.safetensors"
_AGAIN = "Train the round again."
_UPGRADE = "Install that release, or train the round again with this one."


@dataclass(frozen=True)
class Version:
    """A version folder: FINAL answers predictions, STAGE1 asks the next questions."""

    path: Path
    name: str
    classes: tuple[str, ...]
    undefined: bool
    config: TrainConfig
    metrics: Mapping[str, Any]
    weights_hash: str  # of the tensors of FINAL
    snapshot_hash: str
    sha256: Mapping[str, str]  # by file name

    @property
    def num_outputs(self) -> int:
        """K: the classes, and the undefined one where there is one."""
        return len(self.classes) + self.undefined

    @classmethod
    def load(cls, path: Path) -> Version:
        """Read and verify; CheckpointError names the file that is missing or has changed."""
        version = _parse(path)
        for name, digest in version.sha256.items():
            try:
                found = file_sha256(path / name)
            except OSError as error:
                raise CheckpointError(f"{path} lacks its file {name}.", hint=_AGAIN) from error
            if found != digest:
                raise CheckpointError(f"The file {name} of {path} has changed.", hint=_AGAIN)
        return version


def load_model(
    version: Version, device: str | torch.device = "cpu", which: str = "final"
) -> SegmentationModel:
    """The model in eval mode; `which` is "final" or "stage1". Raises CheckpointError.

    On the CPU where `device` has no room for it.
    """
    files = {"final": FINAL, "stage1": STAGE1}
    if which not in files:
        raise ConfigError(f"A version has no model {which!r}.", hint=f"Known: {', '.join(files)}.")
    name = files[which]
    tensors = read_tensors(version.path / name, version.sha256[name])
    model = build(version.config.model, version.num_outputs, version.undefined, pretrained=False)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{name} of {version.name} does not fit its config: {error}", hint=_AGAIN
        ) from error
    return placed(model, torch.device(device)).eval()


def version_manifest(
    name: str,
    classes: tuple[str, ...],
    undefined: bool,
    config: TrainConfig,
    metrics: Mapping[str, Any],
    model: SegmentationModel,
    snapshot_hash: str,
    sha256: Mapping[str, str],
) -> dict[str, Any]:
    """A version's manifest as JSON values, sealed with its hash."""
    content = {
        "format": FORMAT,
        "name": name,
        "classes": list(classes),
        "undefined": undefined,
        "config": config.to_json(),
        "metrics": dict(metrics),
        "weights_hash": tensors_hash(model.state_dict()),
        "snapshot_hash": snapshot_hash,
        "sha256": dict(sha256),
    }
    return sealed(content)


def _parse(path: Path) -> Version:
    try:
        written = read_json(path / MANIFEST)
        raw = unsealed(written)
        _check_format(path, raw["format"])
        sha256 = {str(k): str(v) for k, v in raw["sha256"].items()}
        if not {FINAL, STAGE1} <= sha256.keys():
            raise ValueError("weights are not listed")
        return Version(
            path,
            str(raw["name"]),
            tuple(raw["classes"]),
            bool(raw["undefined"]),
            _config(path, raw["config"], whole=raw is not written),
            raw["metrics"],
            str(raw["weights_hash"]),
            str(raw["snapshot_hash"]),
            sha256,
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no model version at {path}.", hint=_AGAIN) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
            ConfigError) as error:  # fmt: skip
        raise CheckpointError(f"{path}/{MANIFEST} is damaged: {error}.", hint=_AGAIN) from error


def _check_format(path: Path, found: Any) -> None:
    if found == FORMAT:
        return
    if isinstance(found, int) and found > FORMAT:
        raise NewerRelease(
            f"{path} was written by a newer release: its format is {found}, this release reads "
            f"{FORMAT}.",
            hint=_UPGRADE,
        )
    raise CheckpointError(f"Version format {found} is not {FORMAT}.", hint=_AGAIN)


def _config(path: Path, values: Any, whole: bool) -> TrainConfig:
    """`whole`: the seal fits, so what this release refuses is no damage: another one wrote it."""
    try:
        return TrainConfig.of_weights(values)
    except ConfigError as error:
        if not whole:
            raise
        raise NewerRelease(
            f"{path} is whole and was written by a newer release: {error.message}", hint=_UPGRADE
        ) from error
