"""Version folders: whole or refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training_helpers import CLASSES, tiny_config, tiny_snapshot

from training.errors import CheckpointError, ConfigError, NewerRelease
from training.files import file_sha256, sealed, write_json
from training.model import build
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


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ((), {"format": 2}),
        (("config",), {"momentum": 0.9}),
        (("config", "stage1"), {"warm_up": 10}),
        (("config",), {"precision": "fp8"}),
    ],
)
def test_a_version_of_a_newer_release_is_not_called_damaged(
    copy: Path, where: tuple[str, ...], change: dict[str, object]
) -> None:
    """Seen failing: "is damaged: config has no setting named 'momentum'", "train again"."""
    content = json.loads((copy / "version.json").read_text())["content"]
    target = content
    for key in where:
        target = target[key]
    target |= change
    write_json(copy / "version.json", sealed(content))
    with pytest.raises(NewerRelease, match=r"written by a newer release: .*Install that") as error:
        Version.load(copy)
    assert "damaged" not in str(error.value)


def test_a_version_with_an_acquisition_that_was_never_there(copy: Path, original: Version) -> None:
    """Release 0.1.0 trained under any name, then failed to score: its weights are good."""
    content = json.loads((copy / "version.json").read_text())["content"]
    content["config"]["acquisition"]["name"] = "pixball"
    write_json(copy / "version.json", sealed(content))
    assert Version.load(copy).config == original.config


# As `version_manifest` of release 0.1.0 wrote it, for tiny_config().
OLD = """{"classes": ["grass", "brick"], "config": {"acquisition": {"max_pixels": 4000000,
"min_share": 0.15, "model": "stage1", "name": "pixbal", "nu": 6.0, "per_click": 0.0,
"prior_clicks": 1.4, "temperature": 0.1}, "augment": {"crop": [384, 384], "hflip": 0.5,
"scale": [0.5, 2.0]}, "compile": false, "device": "cpu", "ema": 0.0, "loader_threads": 0,
"loss_weights": [16.0, 8.0, 1.0], "model": {"atrous_rates": [6, 12, 18], "dropout": 0.1,
"encoder": "tf_efficientnet_lite0", "frozen_encoder": true, "head_channels": 8,
"low_level_channels": 4, "output_stride": 16, "short_side": 32, "weights": "none"},
"precision": "fp32", "pseudo_labels": {"confident": 0.0, "conflicts": "later", "expand": true,
"expand_undefined": true, "normalise": false, "passing_only": false, "temperature": 1.0,
"threshold": "median"}, "seed": 0, "stage1": {"batch_size": 2, "epochs": 2,
"head_lr_scale": 10.0, "lr": 0.001, "min_lr": 1e-06, "power": 0.9, "steps_per_epoch": 2,
"weight_decay": 1e-05}, "stage2": {"batch_size": 2, "epochs": 2, "head_lr_scale": 10.0,
"lr": 0.001, "min_lr": 1e-06, "power": 0.9, "steps_per_epoch": 2, "weight_decay": 1e-05},
"stages": 2, "temperature": 0.1, "threads": 1}, "format": 1, "metrics": {"miou": 0.5},
"name": "r1", "snapshot_hash": "5555", "undefined": true}"""


@pytest.mark.parametrize("seal", [True, False])
def test_a_version_of_the_first_release_loads(tmp_path: Path, seal: bool) -> None:
    """Both forms that 0.1.0 wrote; weights written here, since any would do."""
    model = build(tiny_config().model, 3, True, seed=4)
    for name in ("model.safetensors", "stage1.safetensors"):
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, tmp_path / name)
    content = json.loads(OLD) | {
        "weights_hash": tensors_hash(model.state_dict()),
        "sha256": {p.name: file_sha256(p) for p in tmp_path.glob("*.safetensors")},
    }
    text = json.dumps(content, sort_keys=True, indent=1) + "\n"
    if seal:
        digest = hashlib.sha256(text.encode()).hexdigest()
        text = json.dumps({"content": content, "sha256": digest})
    (tmp_path / "version.json").write_text(text)
    version = Version.load(tmp_path)
    assert version.config == tiny_config()
    assert (version.name, version.classes, version.undefined) == ("r1", CLASSES, True)
    assert version.metrics == {"miou": 0.5}
    for which in ("final", "stage1"):
        state = load_model(version, which=which).state_dict()
        assert tensors_hash(state) == version.weights_hash


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
