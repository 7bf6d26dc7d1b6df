"""The training config of a project: from a preset or a file and overrides, checked, compared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml_backend.errors import BackendError
from training.config import CONFIGS, ModelConfig, TrainConfig
from training.errors import ConfigError

CHECK_TIMEOUT_S = 120.0
# Settings of a config that something else decides: to take them and do nothing would be a trap.
ELSEWHERE: Mapping[str, str] = {
    "seed": "The seed of a project is fixed: `pixbal init --seed` gives it to a new one.",
    "device": "It is the worker's: set PIXBAL_DEVICE and restart the worker.",
    "threads": "It is the worker's: set PIXBAL_THREADS and restart the worker.",
}


def train_config(spec: str, overrides: Sequence[str], seed: int) -> TrainConfig:
    """A training config by preset name or JSON file, with overrides.

    Raises:
        BackendError: unknown preset, a file that is not a JSON object, a setting decided elsewhere.
        ConfigError: an override that names no setting, or a value out of range.
    """
    if spec in CONFIGS:
        config = CONFIGS[spec]
    elif Path(spec).is_file():
        try:
            config = TrainConfig.from_json(json.loads(Path(spec).read_text(encoding="utf-8")))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BackendError(f"{spec} is not JSON: {error}", hint="Correct the file.") from error
    else:
        raise BackendError(
            f"unknown training config {spec!r}",
            hint=f"Give one of {', '.join(sorted(CONFIGS))}, or a JSON file.",
        )
    return overridden(config, overrides).with_overrides([f"seed={seed}"])


def overridden(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """A config with overrides.

    Raises:
        BackendError: a setting decided elsewhere. ConfigError: as `TrainConfig.with_overrides`.
    """
    for text in overrides:
        name = text.partition("=")[0].strip()
        if name in ELSEWHERE:
            raise BackendError(f"{name} cannot be set for a project", hint=ELSEWHERE[name])
    return config.with_overrides(overrides)


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, each "stage1.lr=0.0001" with the value of `after`."""
    found = []
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            found += differences(old, value, f"{prefix}{name}.")
        elif old != value:
            found.append(f"{prefix}{name}={json.dumps(value)}")
    return found


def preset_of(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The preset that a config is nearest to, and the overrides that make it of the preset."""
    kept = {name: value for name, value in config.items() if name not in ELSEWHERE}
    distances = {
        name: differences(preset.to_json(), kept) for name, preset in sorted(CONFIGS.items())
    }
    return min(distances.items(), key=lambda item: len(item[1]))


def check_model_aside(config: ModelConfig) -> None:
    """`training.model_check` in a process of its own, for one that must not load torch.

    Raises:
        ConfigError: the encoder or its weights cannot be had.
    """
    command = [sys.executable, "-m", "training.model_check"]
    try:
        done = subprocess.run(
            command, input=json.dumps(asdict(config)), text=True, capture_output=True,
            timeout=CHECK_TIMEOUT_S, check=True,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise BackendError(
            f"The model cannot be checked: {type(error).__name__}.",
            "Set it by command, which shows why: `pixbal project set`.",
            status=500,
        ) from error
    if answer:
        raise ConfigError(answer["message"], answer["hint"])
