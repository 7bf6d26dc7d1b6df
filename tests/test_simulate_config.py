"""Experiments: what they vary, read from JSON, faults by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.acquisition import ACQUISITIONS as REGISTRY
from training.config import PseudoLabelConfig, TrainConfig
from training.dataset_formats import DATASETS
from training.errors import ConfigError
from training.oracle_noise import ClassRate, OracleNoise
from training.simulate_config import ACQUISITIONS, DataConfig, Experiment, Method
from training.simulate_oracle import ANNOTATORS
from training.simulate_presets import PRESETS, preset_experiment


def test_names_are_those_of_the_registries() -> None:
    assert set(ACQUISITIONS) == set(REGISTRY)
    for query in ANNOTATORS:
        assert Method(query=query, stages=1).query == query
    with pytest.raises(ConfigError, match="unknown query"):
        Method(query="anything else")


def test_defaults_are_the_paper() -> None:
    assert Method().train_config(TrainConfig(), 0) == TrainConfig()


def test_a_method_changes_the_training_config() -> None:
    method = Method(
        acquisition="bvsb", tau=0.5, nu=12.0, loss_weights=(1.0, 2.0, 3.0), stages=3,
        pseudo_labels=PseudoLabelConfig(expand=False), overrides=("stage1.lr=0.5",),
    )  # fmt: skip
    config = method.train_config(TrainConfig(), seed=4)
    assert config.seed == 4
    assert (config.temperature, config.acquisition.temperature) == (0.5, 0.5)
    assert (config.acquisition.name, config.acquisition.nu) == ("bvsb", 12.0)
    assert (config.loss_weights, config.stages) == ((1.0, 2.0, 3.0), 3)
    assert (config.pseudo_labels.expand, config.stage1.lr) == (False, 0.5)
    assert config.stage2 == TrainConfig().stage2


def test_json_and_back(tmp_path: Path) -> None:
    experiment = Experiment(
        name="mine", size="full", data=DataConfig("voc2012", "voc", undefined=False),
        methods=(
            Method("a", noise=OracleNoise(0.1, missed_by_class=(ClassRate("cat", 0.5),))),
            Method("b", query="pixels", stages=1, side_share=0.1, overrides=("stage1.lr=0.1",)),
        ),
        budgets=(10.0, 20.5), budget_unit="clicks", notes=("one", "two"),
    )  # fmt: skip
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(experiment.to_json()))
    assert Experiment.load(path) == experiment
    path.write_text('{"methods": [{"name": "x", "acquisition": "random"}]}')
    assert Experiment.load(path).methods == (Method("x", acquisition="random"),)


@pytest.mark.parametrize(
    ("values", "message", "known"),
    [
        ({"method": []}, "no setting named 'method'", "methods"),
        ({"methods": [{"acquisition": "pixbol"}]}, "unknown acquisition 'pixbol'", "pixbal"),
        ({"methods": [{"superpixels": "squares"}]}, "unknown superpixels 'squares'", "slic"),
        ({"methods": [{"query": "box"}]}, "unknown query 'box'", "multi, dominant, mask, pixels"),
        ({"methods": [{"noise": {"wrong": 1}}]}, "no setting named 'wrong'", "missed"),
        ({"methods": [{"overrides": ["stage1.rate=1"]}]}, "no setting named 'rate'", "lr"),
        ({"methods": [{"name": "a"}, {"name": "a"}]}, "names of their own", "methods"),
        ({"methods": []}, "at least one method", "methods"),
        ({"methods": [{"name": " "}]}, r"method\.name", "name"),
        ({"methods": [{"query": "mask"}]}, "stages must be 1 for mask", "stages"),
        (
            {"methods": [{"query": "mask", "stages": 1, "noise": {"missed": 0.1}}]},
            "none for mask queries", "noise",
        ),
        ({"methods": [{"side_share": 1.5}]}, "side_share", "side_share"),
        ({"methods": [{"stages": 0}]}, "stages must be at least 1", "stages"),
        ({"budgets": [0.1, 0.1]}, "rising numbers", "budgets"),
        ({"budgets": []}, "rising numbers", "budgets"),
        ({"budgets": [0.1, "much"]}, r"budgets\[1\] must be a finite number", "budgets"),
        ({"budgets": 0.1}, "budgets must be a list, each a finite number", "budgets"),
        ({"budget_unit": "euros"}, "unknown budget_unit", "share, clicks"),
        ({"size": "huge"}, "unknown size", "cpu, full"),
        ({"config": "tiny"}, "no training config named 'tiny'", "demo"),
        ({"overrides": ["stage3.lr=1"]}, "no setting named 'stage3'", "stage1"),
        ({"seeds": 0}, "seeds must be at least 1", "seeds"),
        ({"data": {"trim": 2}}, r"data\.trim must be 0 or odd", "trim"),
        ({"data": {"pool_images": 0}}, r"data\.pool_images", "pool_images"),
        ({"cost": {"key_s": -1}}, "cost must be", "cost"),
        ([], "must be an object", "JSON"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, values: Any, message: str, known: str) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message) as caught:
        Experiment.load(path)
    assert known in caught.value.hint


@pytest.mark.parametrize("text", ["{", None])
def test_unreadable_file(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "experiment.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"experiment\.json cannot be read"):
        Experiment.load(path)


@pytest.fixture
def lead_times(tmp_path: Path) -> Path:
    path = tmp_path / "times.csv"
    path.write_text("clicks,lead_time_s\n1,2.0\n2,3.0\n")
    return path


@pytest.mark.parametrize("size", ["cpu", "full"])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name: str, size: str, lead_times: Path) -> None:
    experiment = preset_experiment(name, size, root="data", lead_times=lead_times)
    assert (experiment.name, experiment.size, experiment.seeds) == (name, size, 3)
    assert Experiment.from_json(experiment.to_json()) == experiment
    assert experiment.cost.key_s == pytest.approx(1.0)
    # Only the cpu size is reduced, and it says so.
    reduced = any("Size cpu" in note for note in experiment.notes)
    assert reduced == (experiment.data.pool_images is not None) == (size == "cpu")
    assert experiment.base_config().model.frozen_encoder == (size == "cpu")


def test_acquisitions_compare_the_whole_registry() -> None:
    for size in ("cpu", "full"):
        methods = preset_experiment("acquisitions", size).methods
        assert {method.acquisition for method in methods} == set(REGISTRY)


def test_region_size_is_not_chosen_on_test() -> None:
    data = preset_experiment("region-size").data
    assert (data.pool_split, data.test_split) == ("fit", "heldout")


@pytest.mark.parametrize("data", [*DATASETS, "scenes"])
def test_data_sets_have_their_splits_and_nu(data: str) -> None:
    experiment = preset_experiment("datasets", data=data)
    assert experiment.data.undefined == (data != "voc2012")
    assert {method.nu for method in experiment.methods} == {12.0 if data == "voc2012" else 6.0}


def test_annotation_time_needs_times() -> None:
    with pytest.raises(ConfigError, match="recorded lead times, and there are none") as caught:
        preset_experiment("annotation-time")
    assert "--lead-times" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "size", "message", "known"),
    [
        ("multi", "cpu", "no preset 'multi'", "multi-vs-dominant"),
        ("noise", "big", "no size 'big'", "full"),
    ],
)
def test_unknown_presets_list_the_known(name: str, size: str, message: str, known: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        preset_experiment(name, size)
    assert known in caught.value.hint
