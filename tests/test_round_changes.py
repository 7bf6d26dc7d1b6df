"""New settings after a failure: the first part of the round that they touch is made again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from training_helpers import end_to_end_config, tiny_config, tiny_snapshot

from training import model as models
from training import rounds
from training.config import TrainConfig
from training.errors import ConfigError, NonFiniteError
from training.loop import Progress
from training.round_plan import Part, first_touched
from training.rounds import run_round
from training.snapshot import HeldoutItem, Snapshot, write_snapshot
from training.versions import Version, load_model

ALL, LABELS, STAGE2, STAGE3 = Part(1, True), Part(2, False), Part(2, True), Part(3, False)
NOTHING = None

# Another value for every setting, and the first part that it touches.
TOUCHED: dict[str, tuple[object, Part | None]] = {
    "model.encoder": ("resnet18", ALL),
    "model.weights": ("imagenet", ALL),
    "model.frozen_encoder": (False, ALL),
    "model.short_side": (48, ALL),
    "model.output_stride": (8, ALL),
    "model.head_channels": (9, ALL),
    "model.low_level_channels": (5, ALL),
    "model.atrous_rates": ((1, 2, 3), ALL),
    "model.dropout": (0.2, ALL),
    **{
        f"{stage}.{name}": (value, part)
        for stage, part in (("stage1", ALL), ("stage2", STAGE2))
        for name, value in (
            ("lr", 0.1), ("head_lr_scale", 2.0), ("weight_decay", 0.5), ("power", 2.0),
            ("min_lr", 0.5), ("epochs", 7), ("steps_per_epoch", 7), ("batch_size", 7),
        )
    },
    "augment.scale": ((1.0, 1.5), NOTHING),  # a frozen encoder sees whole images
    "augment.crop": ((64, 64), NOTHING),
    "augment.hflip": (0.1, ALL),
    "pseudo_labels.expand": (False, LABELS),
    "pseudo_labels.temperature": (2.0, LABELS),
    "pseudo_labels.normalise": (True, LABELS),
    "pseudo_labels.threshold": ("min", LABELS),
    "pseudo_labels.passing_only": (True, LABELS),
    "pseudo_labels.conflicts": ("margin", LABELS),
    "pseudo_labels.expand_undefined": (False, LABELS),
    "pseudo_labels.confident": (0.5, LABELS),
    "acquisition.name": ("bvsb", NOTHING),
    "acquisition.model": ("final", NOTHING),
    "acquisition.nu": (12.0, NOTHING),
    "acquisition.temperature": (0.5, NOTHING),
    "acquisition.per_click": (1.0, NOTHING),
    "acquisition.min_share": (0.5, NOTHING),
    "acquisition.prior_clicks": (2.0, NOTHING),
    "acquisition.max_pixels": (1000, NOTHING),
    "loss_weights": ((1.0, 1.0, 1.0), ALL),
    "temperature": (0.5, ALL),
    "ema": (0.5, ALL),
    "stages": (3, STAGE3),
    "seed": (7, ALL),
    "device": ("cuda:7", NOTHING),
    "threads": (7, NOTHING),
    "loader_threads": (7, NOTHING),
    "precision": ("bf16", ALL),
    "compile": (True, NOTHING),
}  # fmt: skip


class Stop(Exception):
    """Raised by a caller that wants to stop."""


def changed(config: TrainConfig, **settings: object) -> TrainConfig:
    """By "group__name" or "name"."""
    for name, value in settings.items():
        group, _, rest = name.rpartition("__")
        inner = replace(getattr(config, group), **{rest: value}) if group else value
        config = replace(config, **{group or rest: inner})
    return config


def names_of(config: Any, prefix: str = "") -> set[str]:
    found = set()
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        found |= names_of(value, f"{name}.") if dataclasses.is_dataclass(value) else {name}
    return found


def test_every_setting_is_judged() -> None:
    """A new one must be entered above; in the program it touches everything until it is."""
    assert names_of(TrainConfig()) == set(TOUCHED)


@pytest.mark.parametrize("name", sorted(TOUCHED))
def test_the_first_part_that_a_setting_touches(name: str) -> None:
    value, part = TOUCHED[name]
    before = tiny_config()
    after = changed(before, **{name.replace(".", "__"): value})
    assert before != after
    assert first_touched(before, after) == first_touched(after, before) == part
    assert first_touched(before, before) is None


def test_crops_touch_an_encoder_that_learns() -> None:
    before = end_to_end_config()
    for name, value in (("augment__crop", (64, 64)), ("augment__scale", (1.0, 1.5))):
        assert first_touched(before, changed(before, **{name: value})) == ALL


def test_of_several_the_first_counts() -> None:
    before = tiny_config()
    both = changed(before, stage2__lr=0.1, pseudo_labels__expand=False, stages=1)
    assert first_touched(before, both) == LABELS
    assert first_touched(before, changed(both, seed=3)) == ALL


# Whole rounds, with a network of 0.4 million weights


def small(config: TrainConfig) -> TrainConfig:
    return changed(config, model__encoder="test_efficientnet")


CONFIG = small(tiny_config())


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("data"))


def stopped(
    snapshot: Snapshot, out: Path, stage: str, step: int, config: TrainConfig = CONFIG
) -> None:
    def stop(progress: Progress) -> None:
        if (progress.stage, progress.step) == (stage, step) and (progress.epoch or step == 0):
            raise Stop

    with pytest.raises(Stop):
        run_round(snapshot.path, config, out, progress=stop)


def steps(seen: list[Progress]) -> dict[str, list[int]]:
    """Steps made by stage; pseudo labels by image."""
    found: dict[str, list[int]] = {}
    for progress in seen:
        if progress.epoch or progress.stage == "pseudo_labels":
            found.setdefault(progress.stage, []).append(progress.step)
    return found


def gone_on(snapshot: Snapshot, config: TrainConfig, out: Path) -> tuple[Version, dict[str, Any]]:
    seen: list[Progress] = []
    version = run_round(snapshot.path, config, out, progress=seen.append)
    assert version.config == config
    return version, steps(seen)


WHOLE = [1, 2, 3, 4]  # steps of a stage


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"stage2": [3, 4]}),
        ({"loader_threads": 2, "device": "auto"}, {"stage2": [3, 4]}),
        ({"acquisition__nu": 12.0}, {"stage2": [3, 4]}),
        ({"augment__crop": (64, 64)}, {"stage2": [3, 4]}),
        ({"stage2__lr": 3e-4}, {"stage2": WHOLE}),
        ({"pseudo_labels__expand": False}, {"pseudo_labels": [1, 2, 3], "stage2": WHOLE}),
        ({"stage1__lr": 3e-4}, {"stage1": WHOLE, "pseudo_labels": [1, 2, 3], "stage2": WHOLE}),
        ({"stages": 1}, {}),
    ],
    ids=lambda value: "-".join(value) or "none",
)
def test_new_settings_restart_the_first_stage_they_touch(
    snapshot: Snapshot, tmp_path: Path, settings: dict[str, object], expected: dict[str, Any]
) -> None:
    """And the end is that of a round that was begun with them.

    Seen failing: "was begun with another snapshot or config", at every try, for ever.
    """
    config = changed(CONFIG, **settings)
    stopped(snapshot, tmp_path / "v", "stage2", 4)
    version, made = gone_on(snapshot, config, tmp_path / "v")
    assert made == expected
    assert version.weights_hash == run_round(snapshot.path, config, tmp_path / "w").weights_hash


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 3), (3, 2)])
def test_more_or_fewer_stages_keep_those_that_stay(
    snapshot: Snapshot, tmp_path: Path, before: int, after: int
) -> None:
    """Stage 2 is called otherwise where it is not the last."""
    stopped(snapshot, tmp_path / "v", "publishing", 0, replace(CONFIG, stages=before))
    config = replace(CONFIG, stages=after)
    version, made = gone_on(snapshot, config, tmp_path / "v")
    again = {"pseudo_labels": [1, 2, 3], "stage2": WHOLE}
    assert made == (again if after > before else {})
    assert version.weights_hash == run_round(snapshot.path, config, tmp_path / "w").weights_hash


def test_twice_and_back(snapshot: Snapshot, tmp_path: Path) -> None:
    stopped(snapshot, tmp_path / "v", "stage2", 4)
    lower = changed(CONFIG, stage2__lr=1e-5)
    stopped(snapshot, tmp_path / "v", "stage2", 2, lower)
    version, made = gone_on(snapshot, CONFIG, tmp_path / "v")
    assert made == {"stage2": WHOLE}
    assert version.weights_hash == run_round(snapshot.path, CONFIG, tmp_path / "w").weights_hash


def test_killed_before_its_publication_a_version_says_how_it_was_made(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen failing with the finished manifest published under the old settings."""

    def killed(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "finish", killed)
        with pytest.raises(Stop):
            run_round(snapshot.path, CONFIG, tmp_path / "v")
    _, made = gone_on(snapshot, changed(CONFIG, acquisition__nu=12.0), tmp_path / "v")
    assert made == {}


def other_snapshot(
    snapshot: Snapshot, folder: Path, change: Callable[[Snapshot], dict[str, Any]]
) -> Snapshot:
    values = {"items": snapshot.items, "heldout": snapshot.heldout} | change(snapshot)
    return write_snapshot(folder, classes=snapshot.classes, undefined=True, **values)


def test_a_corrected_mask_trains_nothing_again(snapshot: Snapshot, tmp_path: Path) -> None:
    """A round that failed on a held-out mask has both trainings behind it.

    Seen failing: "was begun with another snapshot or config".
    """
    stopped(snapshot, tmp_path / "v", "publishing", 0)

    def corrected(old: Snapshot) -> dict[str, Any]:
        (item,) = old.heldout
        return {"heldout": [HeldoutItem("corrected", item.image, item.mask)]}

    new = other_snapshot(snapshot, tmp_path / "s", corrected)
    version, made = gone_on(new, CONFIG, tmp_path / "v")
    assert made == {}
    assert version.snapshot_hash == new.hash != snapshot.hash


def test_other_labels_train_everything_again(snapshot: Snapshot, tmp_path: Path) -> None:
    stopped(snapshot, tmp_path / "v", "stage2", 4)

    def fewer(old: Snapshot) -> dict[str, Any]:
        return {"items": [replace(item, labels={0: (0,), 3: (1,)}) for item in old.items]}

    new = other_snapshot(snapshot, tmp_path / "s", fewer)
    version, made = gone_on(new, CONFIG, tmp_path / "v")
    assert set(made) == {"stage1", "pseudo_labels", "stage2"}
    assert made["stage1"] == WHOLE
    assert version.weights_hash == run_round(new.path, CONFIG, tmp_path / "w").weights_hash


def test_work_of_the_first_release_goes_on(snapshot: Snapshot, tmp_path: Path) -> None:
    """It recorded the snapshot's hash and the config."""
    stopped(snapshot, tmp_path / "v", "stage2", 4)
    record = tmp_path / "v.partial" / "round.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps({n: values[n] for n in ("snapshot", "config")}))
    _, made = gone_on(snapshot, CONFIG, tmp_path / "v")
    assert made == {"stage2": [3, 4]}


@pytest.mark.parametrize("change", ["none", "replaced", "gone"])
def test_a_file_of_pretrained_weights_is_known_by_its_content(
    snapshot: Snapshot, tmp_path: Path, change: str
) -> None:
    """Replaced, everything follows from it; gone, what was made from it stands.

    Seen failing with its path alone compared: stage 2 began from other weights than stage 1.
    """
    file = tmp_path / "weights.safetensors"
    config = changed(CONFIG, model__weights=str(file))
    states = [models.build(CONFIG.model, 3, seed=seed).encoder.state_dict() for seed in (5, 6)]
    save_file(states[0], file)
    stopped(snapshot, tmp_path / "v", "stage2", 4, config)
    if change == "replaced":
        save_file(states[1], file)
    elif change == "gone":
        file.unlink()
    version, made = gone_on(snapshot, config, tmp_path / "v")
    if change == "replaced":
        assert set(made) == {"stage1", "pseudo_labels", "stage2"}
    else:
        assert made == {"stage2": [3, 4]}
    found = load_model(version).encoder.state_dict()
    assert all(torch.equal(found[n], t) for n, t in states[change == "replaced"].items())


@pytest.mark.parametrize("stages", [2, 3])
def test_what_was_made_with_damaged_weights_is_made_again(
    snapshot: Snapshot, tmp_path: Path, stages: int
) -> None:
    """On a GPU a stage trained again is another one, and labels of the old one would not fit it.

    Seen failing with the labels kept.
    """
    config = replace(CONFIG, stages=stages)
    stopped(snapshot, tmp_path / "v", "publishing", 0, config)
    (tmp_path / "v.partial" / "stage1.safetensors").write_bytes(b"")
    version, made = gone_on(snapshot, config, tmp_path / "v")
    assert made == {
        "stage1": WHOLE, "pseudo_labels": [1, 2, 3] * (stages - 1), "stage2": WHOLE * (stages - 1),
    }  # fmt: skip
    assert version.weights_hash == run_round(snapshot.path, config, tmp_path / "w").weights_hash


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"snapshot": 1, "config": {"x": 1}}'])
def test_work_whose_record_is_damaged_is_done_again(
    snapshot: Snapshot, tmp_path: Path, text: str
) -> None:
    """What it follows from cannot be told. Seen failing: refused at every try."""
    stopped(snapshot, tmp_path / "v", "stage2", 4)
    (tmp_path / "v.partial" / "round.json").write_text(text)
    _, made = gone_on(snapshot, CONFIG, tmp_path / "v")
    assert set(made) == {"stage1", "pseudo_labels", "stage2"}


# Numbers that are none


@pytest.mark.guarantee(11)
def test_a_learning_rate_lowered_after_a_failure_is_used(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 2 ends in NaN at its very last step, where no loss shows it; stage 1 is kept.

    Seen failing: the version was published with NaN in all weights; and then, with the weights
    looked at, the lower rate refused.
    """
    real, calls = rounds.stage2_loss, []

    def loss(logits: Tensor, *rest: object) -> Tensor:
        calls.append(1)
        value: Tensor = real(logits, *rest)  # type: ignore[arg-type]
        if len(calls) < 4:
            return value
        return value + (logits * 0).sum().sqrt()  # the number 0 with a gradient that is none

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "stage2_loss", loss)
        with pytest.raises(NonFiniteError, match=r"weights of stage2.*epoch 2.*Lower stage2\.lr"):
            run_round(snapshot.path, CONFIG, tmp_path / "v")
    kept = sorted(p.name for p in (tmp_path / "v.partial" / "stage2-epochs").iterdir())
    assert kept == ["epoch-00001.json", "epoch-00001.safetensors"]
    assert not (tmp_path / "v").exists()
    version, made = gone_on(snapshot, changed(CONFIG, stage2__lr=1e-5), tmp_path / "v")
    assert made == {"stage2": WHOLE}
    assert all(torch.isfinite(p).all() for p in load_model(version).parameters())


# Pretrained weights


def gone(*_: object) -> None:
    raise ConfigError("The weights cannot be downloaded.")


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("stage", "step"), [("stage2", 4), ("publishing", 0)])
def test_a_finished_stage_asks_nobody_for_weights(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool, stage: str,
    step: int,
) -> None:  # fmt: skip
    """The hub is gone, the file was moved: what is done is done, and an epoch is, too.

    Seen failing: every stage was built with its pretrained weights before its file was read.
    """
    config = CONFIG if frozen else small(end_to_end_config())
    stopped(snapshot, tmp_path / "v", stage, step, config)
    with monkeypatch.context() as patch:
        for module in (models, rounds):
            patch.setattr(module, "load_pretrained", gone)
        version, _ = gone_on(snapshot, config, tmp_path / "v")
    assert version.weights_hash == run_round(snapshot.path, config, tmp_path / "w").weights_hash


def test_one_that_is_not_finished_does(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (models, rounds):
        monkeypatch.setattr(module, "load_pretrained", gone)
    for config in (CONFIG, small(end_to_end_config())):
        with pytest.raises(ConfigError, match="cannot be downloaded"):
            run_round(snapshot.path, config, tmp_path / config.model.encoder, resume=False)
