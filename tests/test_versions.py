"""Version folders: whole or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from training_helpers import CLASSES, tiny_config, tiny_snapshot

from training.errors import CheckpointError, ConfigError
from training.rounds import run_round
from training.tensor_hash import tensors_hash
from training.versions import Version, load_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Version:
    folder = tmp_path_factory.mktemp("round")
    return run_round(tiny_snapshot(folder).path, tiny_config(), folder / "v", name="round-1")


@pytest.fixture
def copy(original: Version, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.path, tmp_path / "v"))


def test_loaded_is_what_was_published(original: Version) -> None:
    version = Version.load(original.path)
    assert version == original
    assert version.name == "round-1"
    assert version.classes == CLASSES
    assert version.num_outputs == 3
    assert version.config == tiny_config()


def test_a_moved_folder_is_still_whole(copy: Path, original: Version) -> None:
    assert Version.load(copy).weights_hash == original.weights_hash


def test_weights_hash_is_that_of_the_final_model(original: Version) -> None:
    model = load_model(original)
    assert tensors_hash(model.state_dict()) == original.weights_hash
    assert not model.training
    assert model.num_classes == 2
    assert tensors_hash(load_model(original, which="stage1").state_dict()) != original.weights_hash


@pytest.mark.parametrize("name", ["model.safetensors", "stage1.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "missing"])
def test_damaged_weights(copy: Path, name: str, damage: str) -> None:
    version = Version.load(copy)
    path = copy / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:1000])
    with pytest.raises(CheckpointError, match=name):
        Version.load(copy)
    with pytest.raises(CheckpointError, match=name):
        load_model(version, which="final" if name.startswith("model") else "stage1")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 9}', "null"])
def test_damaged_manifest(copy: Path, text: str) -> None:
    (copy / "version.json").write_text(text)
    with pytest.raises(CheckpointError):
        Version.load(copy)


@pytest.mark.parametrize(
    ("key", "value"), [("config", {"x": 1}), ("sha256", {}), ("sha256", 3), ("classes", None)]
)
def test_edited_manifest(copy: Path, key: str, value: object) -> None:
    path = copy / "version.json"
    sealed = json.loads(path.read_text())
    for edited in (sealed | {key: value}, sealed["content"] | {key: value}):
        path.write_text(json.dumps(edited))
        _refused(copy)


def _refused(copy: Path) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        Version.load(copy)


def test_weights_of_another_size(copy: Path) -> None:
    path = copy / "version.json"
    manifest = json.loads(path.read_text())["content"]  # as the first release wrote it: no seal
    manifest["classes"] = ["only"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not fit its config"):
        load_model(Version.load(copy))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model version"):
        Version.load(tmp_path / "v")


def test_unknown_model(original: Version) -> None:
    with pytest.raises(ConfigError, match="final, stage1"):
        load_model(original, which="stage2")


def test_tensor_hash_sees_names_types_shapes_and_values() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.tensor(1)}
    hashes = [
        tensors_hash(t)
        for t in (
            base,
            {"b": base["b"], "c": base["a"]},
            {**base, "a": torch.zeros(3, 2)},
            {**base, "a": torch.zeros(2, 3, dtype=torch.int32)},
            {**base, "b": torch.tensor(2)},
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert tensors_hash(dict(reversed(base.items()))) == hashes[0]
    assert tensors_hash({**base, "a": torch.zeros(3, 2).T}) == hashes[0]
