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
from PIL import Image as PILImage
from training_helpers import CLASSES, scene, tiny_config, tiny_snapshot, write_pool

from label_config.brush import read_masks
from label_config.mask_control import template_control
from ml_backend import mask_images, mask_predictions
from ml_backend.app import Services, create_app
from ml_backend.errors import LabelStudioError, NotReady
from ml_backend.store import Store, VersionRow
from training.images import read_image
from training.predict import VOID, predict_mask
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
    number = int(name.rpartition("r")[2])
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


# A task as Label Studio sends it: its id, and the address of the picture it shows.
UPLOADED = {"id": 1, "data": {"image": "/data/upload/scene0"}}
PHOTO = {"id": 1, "data": {"photo": "/data/upload/scene0"}}


def own_setup(tag: str, *labels: str) -> str:
    """A labelling setup that is not ours."""
    items = "".join(f'<Label value="{label}"/>' for label in labels)
    control = f'<{tag} name="shape" toName="img">{items}</{tag}>'
    return f'<View><Image name="img" value="$photo"/>{control}</View>'


def test_masks_are_those_of_the_model(client: FlaskClient, store: Store, version: Version) -> None:
    (item,) = predict(client, UPLOADED).get_json()["results"]
    image = store.image_by_task(9, 1)
    assert image is not None
    expected = predict_mask(load_model(version), read_image(Path(image.path)))
    found = read_masks(item["result"], template_control(SCHEMA))
    assert set(found) == {CLASSES[i] for i in np.unique(expected) if i != VOID}
    for name, (mask, width, height) in found.items():
        drawn = np.frombuffer(mask, np.uint8).reshape(height, width)
        assert np.array_equal(drawn == 1, expected == CLASSES.index(name))
    assert item["model_version"] == "r1"


def test_a_task_shows_what_its_address_says(client: FlaskClient) -> None:
    """Whatever its id: ids are used again, and the address in a task can be changed."""
    first, second = ({"image": f"/data/upload/scene{i}"} for i in range(2))
    tasks = [{"id": i, "data": data} for i in (1, 2, 50) for data in (first, second)]
    results = [item["result"] for item in predict(client, *tasks).get_json()["results"]]
    assert results[0] == results[2] == results[4] != []
    assert results[1] == results[3] == results[5] != results[0]


def test_the_image_is_the_one_that_the_labels_are_about(
    client: FlaskClient, store: Store, tmp_path: Path
) -> None:
    """Regions are cut from the first image of the setup; the labels are painted on the second."""
    setup = (
        '<View><Image name="rgb" value="$rgb"/><Image name="depth" value="$depth"/>'
        '<BrushLabels name="tag" toName="depth"><Label value="grass"/><Label value="brick"/>'
        "</BrushLabels></View>"
    )
    pixels, _ = scene(5, 24, 32)
    PILImage.fromarray(pixels).save(tmp_path / "depth.png")
    image = make_image(9, "depth", path=str(tmp_path / "depth.png"), source="/data/upload/depth")
    store.add_images([image])
    data = {"rgb": "/data/upload/scene0", "depth": "/data/upload/depth", "image_id": "scene0"}
    data["above"] = "/data/upload/scene1"  # first, by name too
    (item,) = predict(client, {"id": 1, "data": data}, label_config=setup).get_json()["results"]
    sizes = {(r["to_name"], r["original_width"], r["original_height"]) for r in item["result"]}
    assert sizes == {("depth", 32, 24)}


class Shop:
    """Stands for what Label Studio fetches; `files` by address."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[str, bytes] = {}
        monkeypatch.setattr(mask_images, "_client", lambda *_: self)

    def fetch(self, url: str, task_id: int) -> bytes:
        if url not in self.files:
            raise LabelStudioError(f"no file at {url}")
        return self.files[url]


def test_a_file_exchanged_in_place_is_read_again(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, url = Shop(monkeypatch), "/data/local-files/?d=photos/a.png"
    paths = [Path(image.path) for image in store.images(9)]
    store.add_images([make_image(9, "local", path=str(paths[0]), source=url)])
    old, new = (
        predict(client, {"id": 1, "data": {"image": f"/data/upload/scene{i}"}}).get_json()
        for i in range(2)
    )
    for path, expected in zip(paths, (old, new), strict=True):
        shop.files[url] = path.read_bytes()
        found = predict(client, {"id": 7, "data": {"image": url}}).get_json()["results"][0]
        assert [r["value"] for r in found["result"]] == [
            r["value"] for r in expected["results"][0]["result"]
        ]
    shop.files.clear()  # not to be had just now: as it was at import
    found = predict(client, {"id": 7, "data": {"image": url}}).get_json()["results"][0]
    assert [r["value"] for r in found["result"]] == [
        r["value"] for r in old["results"][0]["result"]
    ]


def test_something_else_is_left_blank(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upper half is grass, the lower half nothing that is listed."""

    def half(_model: object, pixels: np.ndarray) -> np.ndarray:
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[len(mask) // 2 :] = VOID
        return mask

    monkeypatch.setattr("training.predict.predict_mask", half)
    (item,) = predict(client, UPLOADED).get_json()["results"]
    ((name, (mask, width, height)),) = read_masks(item["result"], template_control(SCHEMA)).items()
    drawn = np.frombuffer(mask, np.uint8).reshape(height, width)
    assert name == CLASSES[0]
    assert drawn[: height // 2].all()
    assert not drawn[height // 2 :].any()


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
def test_setup_of_somebody_gets_its_own_kind_of_masks(client: FlaskClient, tag: str) -> None:
    setup = own_setup(tag, "GRASS", "brick", "other")
    (item,) = predict(client, PHOTO, label_config=setup).get_json()["results"]
    assert {region["from_name"] for region in item["result"]} == {"shape"}
    kind = tag.lower()
    assert {region["type"] for region in item["result"]} == {kind}
    assert {region["value"][kind][0] for region in item["result"]} <= {"GRASS", "brick"}


def test_classes_without_a_label_are_left_out(client: FlaskClient) -> None:
    (whole,) = predict(client, UPLOADED).get_json()["results"]
    names = [CLASSES[int(region["value"]["brushlabels"][0])] for region in whole["result"]]
    assert names
    for name in CLASSES:
        setup = own_setup("BrushLabels", name)
        (item,) = predict(client, PHOTO, label_config=setup).get_json()["results"]
        assert len(item["result"]) == names.count(name)


@pytest.mark.parametrize("setup", ["<View/>", "<View", own_setup("BrushLabels", "sand")])
def test_setup_without_a_place_for_masks_is_409(client: FlaskClient, setup: str) -> None:
    assert assert_error(predict(client, {"id": 1}, label_config=setup), 409)["hint"]


def test_setup_shows_the_version_that_draws(client: FlaskClient, store: Store) -> None:
    def shown() -> str:
        answer = client.post("/setup", json={"project": "9.1"}, headers=basic_auth())
        return str(answer.get_json()["model_version"])

    assert shown() == "r1"
    publish(store, replace(store.versions(4)[0], name="p4-r2", round=2))
    assert shown() == "p4-r2"
    store.update_project(4, current_version="r1")  # rolled back
    assert shown() == "r1"
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
    second = {"id": 2, "data": {"image": "/data/upload/scene1"}}
    tasks = [second, {"id": 77, "data": {"image": "\x00"}}, {"id": 78, "data": []}, UPLOADED]
    results = predict(client, *tasks).get_json()["results"]
    assert [bool(item["result"]) for item in results] == [False, False, False, True]


def test_no_version_yet(tmp_path: Path) -> None:
    with make_store(tmp_path, make_project(4, SCHEMA), MASKS) as store:
        with pytest.raises(NotReady, match="Project 4, whose model draws the masks of project 9"):
            mask_predictions.serving_version(store, MASKS)
        client = create_app(Services(make_settings(tmp_path), store)).test_client()
        assert_error(predict(client, UPLOADED), 409)


def test_masks_are_drawn_by_the_named_project_only(store: Store, version: Version) -> None:
    """A newer project with the same classes has nothing to do with it."""
    store.add_project(make_project(5, SCHEMA, created_at=at(9)))
    publish(store, row(5, version, "r1"))
    for named in (4, 5):
        store.update_project(9, region_project=named)
        assert serving(store) == (named, "r1")
    publish(store, row(4, version, "p4-r2"))
    assert serving(store) == (5, "r1")
    publish(store, row(5, version, "p5-r2"))
    assert serving(store) == (5, "p5-r2")
    store.update_project(5, current_version="r1")
    assert serving(store) == (5, "r1")


def test_a_project_of_before_is_drawn_by_the_only_one_it_can_mean(
    client: FlaskClient, store: Store, version: Version
) -> None:
    assert serving(store) == (4, "r1")
    store.add_project(make_project(6, make_schema("Other")))
    assert serving(store) == (4, "r1")
    store.add_project(make_project(5, make_schema(*CLASSES, "one more")))
    publish(store, row(5, version, "r1"))
    error = assert_error(predict(client, UPLOADED), 409)
    assert error["error"].endswith("names no region project, and those with its classes are: 4, 5.")
    assert "pixbal masks --project 9 --region-project M" in error["hint"]
    store.update_project(9, region_project=77)
    error = assert_error(predict(client, UPLOADED), 409)
    assert error["error"] == "The region project 77 of project 9 is gone here."


def test_a_class_appended_later_is_drawn_too(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = make_schema(*CLASSES, "sand")
    store.update_project(4, schema_json=schema.to_json())
    monkeypatch.setattr(
        "training.predict.predict_mask",
        lambda _, pixels: np.full(pixels.shape[:2], len(CLASSES), np.uint8),
    )
    setup = own_setup("BrushLabels", *schema.names)
    (item,) = predict(client, PHOTO, label_config=setup).get_json()["results"]
    assert [r["value"]["brushlabels"] for r in item["result"]] == [["sand"]]


def publish(store: Store, version: VersionRow) -> None:
    store.add_version(version)
    store.update_project(version.project_id, current_version=version.name)


def serving(store: Store) -> tuple[int, str]:
    project = store.project(9)
    assert project is not None
    found = mask_predictions.serving_version(store, project)
    return found.project_id, found.name


def test_exchanged_weights_are_refused(client: FlaskClient, store: Store, version: Version) -> None:
    publish(store, replace(row(4, version, "r2"), weights_hash="0" * 64))
    error = assert_error(predict(client, UPLOADED), 500)
    assert "not the one that was published" in error["error"]


def test_missing_version_folder_is_named(
    client: FlaskClient, store: Store, tmp_path: Path, version: Version
) -> None:
    gone = replace(row(4, version, "r2"), path=str(tmp_path / "gone"), weights_hash="1" * 64)
    publish(store, gone)
    error = assert_error(predict(client, UPLOADED), 500)
    assert "no model version at" in error["error"]
