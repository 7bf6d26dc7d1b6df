"""ml_backend.mask_predictions: the final model's masks, one bad task aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_helpers import (
    assert_error,
    at,
    basic_auth,
    make_image,
    make_project,
    make_schema,
    make_settings,
    make_store,
)
from flask.testing import FlaskClient
from training_helpers import CLASSES, tiny_config, tiny_snapshot, write_pool

from label_config.brush import read_masks
from label_config.mask_control import template_control
from ml_backend import mask_predictions
from ml_backend.app import Services, create_app
from ml_backend.errors import NotReady
from ml_backend.store import Store, VersionRow
from training.images import read_image
from training.predict import predict_mask
from training.rounds import run_round
from training.versions import Version, load_model

SCHEMA = make_schema(*CLASSES)
MASKS = make_project(9, SCHEMA, template="image_masks", created_at=at(5))


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A model trained for seconds: that it is good is not the question here."""
    folder = tmp_path_factory.mktemp("version")
    return run_round(tiny_snapshot(folder).path, tiny_config(), folder / "r1", name="r1")


@pytest.fixture
def store(tmp_path: Path, version: Version) -> Iterator[Store]:
    """Region project 4 with a version; mask project 9 with the images of tasks 1 and 2."""
    with make_store(tmp_path, make_project(4, SCHEMA), MASKS) as opened:
        for number, (name, path, regions, _) in enumerate(write_pool(tmp_path / "pool", 2), 1):
            image = make_image(9, name, path=str(path), regions_path=str(regions))
            opened.add_images([replace(image, source=f"/data/upload/{name}", ls_task_id=number)])
        opened.add_version(row(4, version))
        yield opened


def row(project_id: int, version: Version, name: str = "r1") -> VersionRow:
    number = int(name[1:])
    return VersionRow(
        project_id, name, number, str(version.path), {}, version.weights_hash, at(number)
    )


@pytest.fixture
def client(tmp_path: Path, store: Store) -> FlaskClient:
    settings = make_settings(tmp_path, PIXBAL_DEVICE="cpu")
    return create_app(Services(settings, store)).test_client()


def predict(
    client: FlaskClient, *tasks: dict[str, Any], label_config: str = MASKS.label_config
) -> Any:
    body = {"project": "9.1", "label_config": label_config, "tasks": list(tasks)}
    return client.post("/predict", json=body, headers=basic_auth())


def own_setup(tag: str, *labels: str) -> str:
    """A labelling setup that is not ours."""
    items = "".join(f'<Label value="{label}"/>' for label in labels)
    control = f'<{tag} name="shape" toName="img">{items}</{tag}>'
    return f'<View><Image name="img" value="$photo"/>{control}</View>'


def test_masks_are_those_of_the_model(client: FlaskClient, store: Store, version: Version) -> None:
    (item,) = predict(client, {"id": 1, "data": {}}).get_json()["results"]
    image = store.image_by_task(9, 1)
    assert image is not None
    expected = predict_mask(load_model(version), read_image(Path(image.path)))
    found = read_masks(item["result"], template_control(SCHEMA))
    assert set(found) == {CLASSES[index] for index in np.unique(expected)}
    for name, (mask, width, height) in found.items():
        drawn = np.frombuffer(mask, np.uint8).reshape(height, width)
        assert np.array_equal(drawn == 1, expected == CLASSES.index(name))
    assert item["model_version"] == "r1"


def test_image_is_found_by_task_by_id_and_by_address(client: FlaskClient) -> None:
    tasks = [
        {"id": 1, "data": {"image": "something else"}},
        {"id": 50, "data": {"image": "x", "image_id": "scene0"}},
        {"id": 51, "data": {"image": "/data/upload/scene0"}},
    ]
    results = [item["result"] for item in predict(client, *tasks).get_json()["results"]]
    assert results[0] == results[1] == results[2] != []


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
def test_setup_of_somebody_gets_its_own_kind_of_masks(client: FlaskClient, tag: str) -> None:
    setup = own_setup(tag, "GRASS", "brick", "other")
    (item,) = predict(client, {"id": 1}, label_config=setup).get_json()["results"]
    assert {region["from_name"] for region in item["result"]} == {"shape"}
    kind = tag.lower()
    assert {region["type"] for region in item["result"]} == {kind}
    assert {region["value"][kind][0] for region in item["result"]} <= {"GRASS", "brick"}


def test_classes_without_a_label_are_left_out(client: FlaskClient) -> None:
    (whole,) = predict(client, {"id": 1}).get_json()["results"]
    names = [CLASSES[int(region["value"]["brushlabels"][0])] for region in whole["result"]]
    for name in CLASSES:
        setup = own_setup("BrushLabels", name)
        (item,) = predict(client, {"id": 1}, label_config=setup).get_json()["results"]
        assert len(item["result"]) == names.count(name)


@pytest.mark.parametrize("setup", ["<View/>", "<View", own_setup("BrushLabels", "sand")])
def test_setup_without_a_place_for_masks_is_409(client: FlaskClient, setup: str) -> None:
    assert assert_error(predict(client, {"id": 1}, label_config=setup), 409)["hint"]


def test_setup_shows_the_version_that_draws(client: FlaskClient, store: Store) -> None:
    def shown() -> str:
        answer = client.post("/setup", json={"project": "9.1"}, headers=basic_auth())
        return str(answer.get_json()["model_version"])

    assert shown() == "r1"
    store.add_version(replace(store.versions(4)[0], name="r2", round=2))
    assert shown() == "r2"
    store.add_project(make_project(11, make_schema("Other"), template="image_masks"))
    answer = client.post("/setup", json={"project": "11.1"}, headers=basic_auth())
    assert answer.get_json()["model_version"] == "r0"


def test_events_of_mask_projects_are_not_stored(client: FlaskClient, store: Store) -> None:
    body = {"action": "START_TRAINING", "project": {"id": 9}}
    answer = client.post("/webhook", json=body, headers=basic_auth())
    assert (answer.status_code, answer.get_json()["stored"]) == (200, False)
    assert store.pending_events(10) == []


def test_one_bad_task_does_not_take_the_others_with_it(client: FlaskClient, store: Store) -> None:
    image = store.image_by_task(9, 2)
    assert image is not None
    Path(image.path).write_bytes(b"torn")
    tasks = [{"id": 2}, {"id": 77, "data": {"image": "\x00"}}, {"id": 78, "data": []}, {"id": 1}]
    results = predict(client, *tasks).get_json()["results"]
    assert [bool(item["result"]) for item in results] == [False, False, False, True]


def test_no_version_yet(tmp_path: Path) -> None:
    other = make_project(4, make_schema("A", "B"))
    with make_store(tmp_path, other, MASKS) as store:
        store.add_version(VersionRow(4, "r1", 1, "p", {}, "h", at(0)))
        with pytest.raises(NotReady, match="No model version with the classes of project 9"):
            mask_predictions.serving_version(store, MASKS)
        client = create_app(Services(make_settings(tmp_path), store)).test_client()
        assert_error(predict(client, {"id": 1}), 409)


def test_newest_version_serves_and_an_own_one_first(store: Store, version: Version) -> None:
    assert mask_predictions.serving_version(store, MASKS).project_id == 4
    store.add_version(row(4, version, "r2"))
    assert mask_predictions.serving_version(store, MASKS).name == "r2"
    newer = make_project(5, SCHEMA, created_at=at(9))
    store.add_project(newer)
    assert mask_predictions.serving_version(store, MASKS).project_id == 4
    store.add_version(row(5, version, "r1"))
    assert mask_predictions.serving_version(store, MASKS).project_id == 5
    store.add_version(row(9, version, "r1"))
    assert mask_predictions.serving_version(store, MASKS).project_id == 9


def test_exchanged_weights_are_refused(client: FlaskClient, store: Store, version: Version) -> None:
    store.add_version(replace(row(9, version), weights_hash="0" * 64))
    error = assert_error(predict(client, {"id": 1}), 500)
    assert "not the one that was published" in error["error"]


def test_missing_version_folder_is_named(
    client: FlaskClient, store: Store, tmp_path: Path, version: Version
) -> None:
    gone = replace(row(9, version), path=str(tmp_path / "gone"), weights_hash="1" * 64)
    store.add_version(gone)
    error = assert_error(predict(client, {"id": 1}), 500)
    assert "no model version at" in error["error"]
