"""Model versions and checkpoints, damaged: a named error or the one before, never other weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_damage_files import damages, every_damage_is_seen
from training_helpers import CLASSES, tiny_config

from training.checkpoints import Checkpoints, write_tensors
from training.errors import CheckpointError
from training.files import write_json
from training.model import build
from training.tensor_hash import tensors_hash
from training.versions import FINAL, MANIFEST, STAGE1, Version, load_model, version_manifest


@pytest.fixture
def version(tmp_path: Path) -> Version:
    """A version folder around an untrained model."""
    config = tiny_config()
    torch.manual_seed(0)
    model = build(config.model, 3, True, pretrained=False)
    sha256 = {}

    for name in (FINAL, STAGE1):
        sha256[name] = write_tensors(tmp_path / name, model.state_dict())
    write_json(
        tmp_path / MANIFEST,
        version_manifest("r1", CLASSES, True, config, {"miou": 0.5}, model, "s" * 64, sha256),
    )
    return Version.load(tmp_path)


def test_versions(version: Version) -> None:
    """Seen failing with the manifest written without its seal, and with unchecked weights."""
    every_damage_is_seen(
        version.path / MANIFEST,
        lambda: Version.load(version.path),
        CheckpointError,
        lambda found: found == version,
        400,
    )
    for name, which in ((FINAL, "final"), (STAGE1, "stage1")):
        every_damage_is_seen(
            version.path / name,
            lambda which=which: load_model(version, which=which),
            CheckpointError,
            lambda model: tensors_hash(model.state_dict()) == version.weights_hash,
            8,
        )


def test_checkpoints(tmp_path: Path) -> None:
    """A damaged one is passed over for the one before, never loaded.

    Seen failing with the hash of `read_tensors` not compared.
    """
    config = tiny_config()
    torch.manual_seed(0)
    model = build(config.model, 3, True, pretrained=False)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    checkpoints = Checkpoints(tmp_path)
    hashes = {}
    for epoch in (1, 2):
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).add_(1.0)
        checkpoints.save(epoch, model, optimiser)
        hashes[epoch] = tensors_hash(model.state_dict())
    for path in sorted(tmp_path.glob("epoch-00002.*")):
        data = path.read_bytes()
        passed_over = 0
        for broken in damages(data, 7, 30):
            path.write_bytes(broken)
            epoch = checkpoints.restore(model, optimiser)
            assert tensors_hash(model.state_dict()) == hashes[epoch]
            passed_over += epoch == 1
        path.write_bytes(data)
        assert passed_over > 15
