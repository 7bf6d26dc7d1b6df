"""Masks in image projects of somebody's own: in a real Label Studio, from a trained model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from backend_helpers import at, make_project, make_schema, make_settings, make_store
from click.testing import CliRunner
from fake_label_studio import FakeLabelStudio
from PIL import Image as PILImage
from skimage.draw import polygon2mask
from stack import Stack
from training_helpers import CLASSES, scene, tiny_config, tiny_snapshot

from label_config import LabelConfigError
from label_config.brush import read_masks
from label_config.mask_control import MaskControl, read_mask_control
from ml_backend.cli import main
from ml_backend.connect import TITLE
from ml_backend.doctor_project import examine_project
from ml_backend.errors import Conflict, NotFound
from ml_backend.init import InitRequest, initialise
from ml_backend.label_studio import LabelStudio
from ml_backend.masks import show_masks
from ml_backend.processes import LabelStudioServer
from ml_backend.store import Project, Store, VersionRow
from training.predict import predict_mask
from training.rounds import run_round
from training.versions import Version, load_model

# The last one is in no setup, and its name tells the tests' projects apart.
SCHEMA = make_schema(*CLASSES, "water")


def setup(tag: str) -> str:
    """A setup that is not ours: other names, labels in other case, one more, one missing."""
    labels = '<Label value="Grass" alias="meadow"/><Label value="BRICK"/><Label value="Unknown"/>'
    return (
        '<View><Header value="Draw"/><Image name="photo" value="$picture"/>'
        f'<{tag} name="shape" toName="photo">{labels}</{tag}></View>'
    )


# -- what can be said without a server ---------------------------------------------------------


def ask(store: Store, tmp_path: Path, label_config: str, project: int = 7, region: int = 4) -> Any:
    ls = FakeLabelStudio()
    ls.server.add_project(project, label_config, title="photos")
    return show_masks(make_settings(tmp_path), store, ls, project, region)


def test_nothing_is_recorded_where_masks_have_no_place(tmp_path: Path) -> None:
    with make_store(tmp_path) as store:
        with pytest.raises(LabelConfigError, match="offers 'Grass', 'BRICK'"):
            ask(store, tmp_path, setup("BrushLabels"))
        with pytest.raises(LabelConfigError, match="found 0"):
            ask(store, tmp_path, "<View/>")
        with pytest.raises(NotFound, match="Project 5 is no region project"):
            ask(store, tmp_path, setup("BrushLabels"), region=5)
        assert [project.id for project in store.projects()] == [4]


def test_a_region_project_shows_no_masks(tmp_path: Path) -> None:
    with (
        make_store(tmp_path, make_project(4, SCHEMA)) as store,
        pytest.raises(Conflict, match="Project 4 asks about regions"),
    ):
        ask(store, tmp_path, setup("BrushLabels"), project=4)


def test_commands_about_rounds_look_at_region_projects_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXBAL_HOME", str(tmp_path))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    image_project = make_project(9, SCHEMA, template="image_masks")
    make_store(tmp_path, make_project(4, SCHEMA), image_project).close()
    result = CliRunner().invoke(main, ["status", "--json"])
    assert '"project": 4' in result.output
    assert '"project": 9' not in result.output
    assert CliRunner().invoke(main, ["train"]).exit_code == 0
    result = CliRunner().invoke(main, ["train", "--project", "9"])
    assert "Region projects: [4]" in result.output
    with Store.open(f"sqlite:///{tmp_path}/pixbal.db") as store:
        assert [event.project_id for event in store.pending_events(10)] == [4]


# -- with real servers -------------------------------------------------------------------------


class Api:
    """The requests that a browser makes."""

    def __init__(self, server: LabelStudioServer) -> None:
        self.http = httpx.Client(
            base_url=server.url,
            headers={"Authorization": f"Token {server.token}"},
            timeout=60,
        )

    def upload(self, project_id: int, name: str, data: bytes) -> str:
        """Upload a file without making a task; its address."""
        made = self.http.post(
            f"/api/projects/{project_id}/import",
            params={"commit_to_project": "false"},
            files={"file": (name, data, "image/png")},
        )
        made.raise_for_status()
        [file_id] = made.json()["file_upload_ids"]
        found = self.http.get(f"/api/import/file-upload/{file_id}")
        found.raise_for_status()
        return "/data/" + str(found.json()["file"])

    def open_task(self, project_id: int, task_id: int) -> dict[str, Any]:
        """What the page gets when somebody opens the task."""
        answer = self.http.get(f"/api/tasks/{task_id}", params={"project": project_id})
        assert answer.status_code == 200, answer.text
        task: dict[str, Any] = answer.json()
        return task

    def retrieve(self, project_id: int) -> None:
        """The data manager's "Retrieve predictions" for every task."""
        answer = self.http.post(
            "/api/dm/actions",
            params={"id": "retrieve_tasks_predictions", "project": project_id},
            json={"selectedItems": {"all": True, "excluded": []}},
        )
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A model trained for seconds on the same classes."""
    folder = tmp_path_factory.mktemp("version")
    snapshot = tiny_snapshot(folder, classes=SCHEMA.names)
    return run_round(snapshot.path, tiny_config(), folder / "r1", name="r1")


@pytest.fixture(scope="module")
def stack(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A backend; no worker is needed for masks."""
    made = Stack(tmp_path_factory.mktemp("stack"), label_studio, {"PIXBAL_DEVICE": "cpu"})
    made.backend.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def api(label_studio: LabelStudioServer) -> Iterator[Api]:
    made = Api(label_studio)
    with made.http:
        yield made


def region_project(stack: Stack, number: int) -> Project:
    """A region project whose classes no other project has."""
    schema = make_schema(*CLASSES, f"water {number}")
    row = make_project(900_000 + number, schema, method="grid", side_px=16)
    stack.store.add_project(row)
    return row


def publish(stack: Stack, project: Project, version: Version) -> None:
    row = VersionRow(project.id, "r1", 1, str(version.path), {}, version.weights_hash, at(1))
    assert stack.store.add_version(row)


def png(seed: int) -> tuple[bytes, np.ndarray]:
    pixels, _ = scene(seed, 120, 160)
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), pixels


def image_project(ls: LabelStudio, api: Api, tag: str) -> tuple[int, dict[int, np.ndarray], int]:
    """Project, its readable tasks with their pixels, and a task whose file is torn."""
    project_id = ls.create_project(f"photos {tag}", setup(tag))
    pictures = [png(seed) for seed in (11, 12)]
    urls = [api.upload(project_id, f"{i}.png", data) for i, (data, _) in enumerate(pictures)]
    urls.append(api.upload(project_id, "torn.png", pictures[0][0][:100]))
    *good, torn = ls.import_tasks(project_id, [{"data": {"picture": url}} for url in urls])
    return project_id, dict(zip(good, (pixels for _, pixels in pictures), strict=True)), torn


def drawn(result: list[dict[str, Any]], control: MaskControl, shape: tuple[int, int]) -> np.ndarray:
    """A prediction as an index mask; 255 where nothing is drawn."""
    height, width = shape
    mask = np.full(shape, 255, np.uint8)
    if control.kind == "brush":
        for name, (data, *size) in read_masks(result, control).items():
            assert size == [width, height]
            mask[np.frombuffer(data, np.uint8).reshape(shape) == 1] = SCHEMA.index(name)
        return mask
    names = {stored: name for name, stored in control.stored.items()}
    for item in result:
        assert (item["from_name"], item["to_name"], item["type"]) == (
            "shape", "photo", "polygonlabels",
        )  # fmt: skip
        points = np.array(item["value"]["points"]) / 100 * (width, height)
        [stored] = item["value"]["polygonlabels"]
        mask[polygon2mask(shape, points[:, ::-1] - 0.5)] = SCHEMA.index(names[stored])
    return mask


def iou(first: np.ndarray, second: np.ndarray) -> float:
    both = (first & second).sum()
    either = (first | second).sum()
    return float(both / either) if either else 1.0


def prediction_of(api: Api, project_id: int, task_id: int, version: str) -> Any:
    (found,) = [
        p
        for p in api.open_task(project_id, task_id)["predictions"]
        if p["model_version"] == version
    ]
    return found["result"]


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
def test_opening_a_task_brings_the_predicted_segmentation(
    stack: Stack, api: Api, version: Version, tag: str
) -> None:
    store, ls = stack.store, stack.ls
    region = region_project(stack, len(tag))
    project_id, pictures, torn = image_project(ls, api, tag)
    before = ls.project(project_id)
    report = show_masks(stack.settings, store, ls, project_id, region.id)
    assert report.change == "created"
    assert report.control.missing == (f"water {len(tag)}",)
    assert (report.images.added, len(report.images.unreadable)) == (2, 1)
    again = show_masks(stack.settings, store, ls, project_id, region.id)
    assert again.change == "unchanged"
    assert {how for _, how in again.connected} == {"unchanged"}
    assert (again.images.added, again.images.known) == (0, 2)
    after = ls.project(project_id)
    assert [after[k] for k in ("label_config", "sampling")] == [
        before[k] for k in ("label_config", "sampling")
    ]
    assert after["model_version"] == TITLE
    checks = examine_project(stack.settings, store, ls, report.project)
    assert [check for check in checks if check.ok is False] == []
    (config,) = [check for check in checks if check.name.endswith("label config")]
    assert config.ok is None
    assert "no label for water " in config.detail

    for task_id in (*pictures, torn):
        assert api.open_task(project_id, task_id)["predictions"] == []
    publish(stack, region, version)
    api.retrieve(project_id)
    model, control = load_model(version), read_mask_control(setup(tag), SCHEMA)
    for task_id, pixels in pictures.items():
        (prediction,) = api.open_task(project_id, task_id)["predictions"]
        assert prediction["model_version"] == "r1"
        expected = predict_mask(model, pixels)
        found = drawn(prediction["result"], control, expected.shape)
        expected[expected == SCHEMA.index("water")] = 255
        if control.kind == "brush":
            assert np.array_equal(found, expected)
        for index in np.unique(expected):
            assert iou(found == index, expected == index) > 0.9
        assert prediction["result"]
    (empty,) = api.open_task(project_id, torn)["predictions"]
    assert empty["result"] == []

    # "Label All Tasks" asks for what the newest version draws.
    store.add_version(replace(store.versions(region.id)[0], name="r2", round=2))
    task = ls.next_task(project_id)
    assert task is not None
    newest = [p for p in task["predictions"] if p["model_version"] == "r2"]
    assert [p["result"] for p in newest] == [prediction_of(api, project_id, task["id"], "r1")]
    assert "Traceback" not in stack.backend.log.read_text()


@pytest.mark.server
@pytest.mark.slow
def test_a_task_that_came_later_is_drawn_when_it_is_opened(
    stack: Stack, api: Api, version: Version
) -> None:
    """Not imported, and a second task of the same picture: fetched when asked for."""
    ls, region = stack.ls, region_project(stack, 1)
    project_id = ls.create_project("later photos", setup("BrushLabels"))
    show_masks(stack.settings, stack.store, ls, project_id, region.id)
    publish(stack, region, version)
    data, pixels = png(13)
    urls = [api.upload(project_id, f"{i}.png", data) for i in range(2)]
    urls.append(f"{urls[0]}.gone")
    first, second, gone = ls.import_tasks(project_id, [{"data": {"picture": u}} for u in urls])
    expected = predict_mask(load_model(version), pixels)
    control = read_mask_control(setup("BrushLabels"), SCHEMA)
    for task_id in (first, second):
        (prediction,) = api.open_task(project_id, task_id)["predictions"]
        found = drawn(prediction["result"], control, expected.shape)
        assert np.array_equal(found[found != 255], expected[found != 255])
        assert (found != 255).sum() == np.isin(expected, [0, 1]).sum()
    (prediction,) = api.open_task(project_id, gone)["predictions"]
    assert prediction["result"] == []


@pytest.mark.server
@pytest.mark.slow
def test_init_from_a_project_shows_masks_there_or_says_why_not(
    stack: Stack, api: Api, tmp_path: Path
) -> None:
    project_id, _, _ = image_project(stack.ls, api, "BrushLabels")
    path = tmp_path / "classes.json"
    path.write_text('["grass", "brick", "sand"]', encoding="utf-8")
    request = InitRequest(
        classes=str(path),
        from_project=project_id,
        title="regions of photos",
        method="grid",
        side=16,
        push=False,
    )
    report = initialise(stack.settings, stack.store, stack.ls, request)
    assert report.masks[0].startswith(f"masks in project {project_id}: created; brush labels")
    row = stack.store.project(project_id)
    assert row is not None
    assert row.template == "image_masks"
    assert stack.store.images(project_id, status="ready") == []  # those of the region project
    assert stack.store.image_by_task(report.project.id, min(report_tasks(stack, project_id)))
    again = initialise(stack.settings, stack.store, stack.ls, request)
    assert again.masks[0].startswith(f"masks in project {project_id}: unchanged")

    plain = '<View><Image name="i" value="$picture"/></View>'
    stack.ls.update_project(project_id, label_config=plain)
    last = initialise(stack.settings, stack.store, stack.ls, request)
    assert last.masks[0].startswith(f"masks are not shown in project {project_id}: Expected one")


def report_tasks(stack: Stack, project_id: int) -> list[int]:
    return [int(task["id"]) for task in stack.ls.tasks(project_id, with_annotations=False)]
