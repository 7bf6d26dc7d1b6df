"""Where training stands after an epoch, on disk: weights and optimiser state, checked by hash."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from training.atomic import write_atomically
from training.errors import CheckpointError, NonFiniteError
from training.files import read_json, write_json
from training.model import SegmentationModel
from training.tensor_checks import expect_finite

log = logging.getLogger(__name__)

_SUFFIXES = (".safetensors", ".json")
KEEP = 2  # the newest, and one before it in case the newest is damaged


class Checkpoints:
    """The newest epochs of one stage under `folder`.

    A frozen encoder is not stored. Random state is not either: it follows from seed, stage and
    epoch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(
        self,
        epoch: int,
        model: SegmentationModel,
        optimiser: torch.optim.Optimizer,
        extra: dict[str, Tensor] | None = None,
    ) -> None:
        """Store the state after `epoch` and `extra` tensors, then drop all but the newest two.

        Raises: NonFiniteError for NaN or infinity in any of it; nothing is stored then.
        """
        tensors = {f"model.{n}": t for n, t in trained_state(model).items()} | (extra or {})
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{n}": t for n, t in state.items()}
        path = self._path(epoch)
        digest = write_tensors(path, tensors)
        # Written last: a checkpoint without it does not exist.
        write_json(path.with_suffix(".json"), {"epoch": epoch, "sha256": digest})
        kept = {self._path(e).with_suffix(ext) for e in self._epochs()[:KEEP] for ext in _SUFFIXES}
        # Records first: weights whose record is gone are no checkpoint. What a killed writer left
        # half done goes, too.
        for old in sorted(set(self.folder.iterdir()) - kept):
            old.unlink(missing_ok=True)

    def restore(
        self,
        model: SegmentationModel,
        optimiser: torch.optim.Optimizer,
        take: Callable[[dict[str, Tensor]], None] | None = None,
    ) -> int:
        """Load the newest whole checkpoint; its epoch, or 0 where none is whole.

        `take` is given all its tensors, `extra` ones among them.
        A damaged one is logged and passed over. Raises CheckpointError for one of another model.
        """
        for epoch in self._epochs():
            path = self._path(epoch)
            try:
                record = read_json(path.with_suffix(".json"))
                tensors = read_tensors(path, str(record["sha256"]))
            except (CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
                log.warning("Checkpoint %s is damaged, trying the one before: %s", path.name, error)
                continue
            _fill(model, optimiser, tensors)
            if take is not None:
                take(tensors)
            return epoch
        return 0

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:05d}.safetensors"

    def _epochs(self) -> list[int]:
        names = (p.stem.removeprefix("epoch-") for p in self.folder.glob("epoch-*.json"))
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def trained_state(model: SegmentationModel) -> dict[str, Tensor]:
    """The state dict without a frozen encoder."""
    frozen = model.config.frozen_encoder
    return {
        n: t for n, t in model.state_dict().items() if not (frozen and n.startswith("encoder."))
    }


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write .safetensors atomically; the SHA-256 of the file.

    Raises: NonFiniteError for NaN or infinity: no file here ever holds any.
    """
    held = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    for name, tensor in held.items():
        if tensor.is_floating_point():
            expect_finite(name, tensor)
    data = save(held)
    write_atomically(path, lambda file: file.write(data))
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read .safetensors whose hash is known.

    Raises: CheckpointError if it is missing, changed, or holds NaN or infinity, as a file of an
        earlier release may.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read: {error.strerror}.", hint="Train the round again."
        ) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(
            f"{path.name} has changed since it was written.", hint="Train the round again."
        )
    try:
        tensors = dict(load(data))
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                expect_finite(name, tensor)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name} holds no tensors: {error}.", hint="Train the round again."
        ) from error
    except NonFiniteError as error:
        raise CheckpointError(
            f"{path.name} is of no use: {error.message}", hint="Train the round again."
        ) from error
    return tensors


def _fill(
    model: SegmentationModel, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    expected = trained_state(model)
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in expected.items()}:
        raise CheckpointError(
            "The checkpoint is of another model.",
            hint="Give this round another output folder, or remove its .partial folder.",
        )
    model.load_state_dict(weights, strict=False)
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
