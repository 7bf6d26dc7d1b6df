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
from backend_helpers import (
    at,
    make_image,
    make_label,
    make_project,
    make_schema,
    make_settings,
    make_store,
)
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
from ml_backend.doctor_project import examine_project, mask_version
from ml_backend.errors import Conflict, NotFound
from ml_backend.init import InitRequest, initialise
from ml_backend.init import _masks as init_masks
from ml_backend.label_studio import LabelStudio
from ml_backend.masks import MasksReport, show_masks
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


def ask(
    store: Store, tmp_path: Path, label_config: str, project: int = 7, region: int | None = 4
) -> MasksReport:
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


def test_the_region_project_is_named_once_and_kept(tmp_path: Path) -> None:
    setups = setup("BrushLabels")
    regions = [make_project(number, SCHEMA, title=f"regions {number}") for number in (4, 5)]
    with make_store(tmp_path, *regions) as store:
        for number in (4, 5):
            row = VersionRow(number, "r1", 1, "p", {}, "h", at(1))
            store.add_version(row)
            store.update_project(number, current_version="r1")
        with pytest.raises(NotFound, match="2 region projects could draw") as caught:
            ask(store, tmp_path, setups, region=None)
        assert "pixbal masks --project 7 --region-project M" in caught.value.hint
        assert store.project(7) is None

        said = [ask(store, tmp_path, setups, region=region) for region in (4, None, 5, None)]
        assert [report.change for report in said] == [
            "created", "unchanged", "updated", "unchanged",
        ]  # fmt: skip
        drawn_by = [line for report in said for line in report.lines() if "drawn by" in line]
        assert drawn_by == [
            "  drawn by the model of project 4: r1",
            "  drawn by the model of project 4: r1",
            "  drawn by the model of project 5 (until now by that of project 4): r1",
            "  drawn by the model of project 5: r1",
        ]
        found = store.project(7)
        assert found is not None
        assert (found.region_project, found.model_version) == (5, "r1")


def test_a_project_of_before_must_say_whose_masks_it_shows(tmp_path: Path) -> None:
    old = make_project(7, SCHEMA, template="image_masks")
    with make_store(tmp_path, make_project(4, SCHEMA), make_project(6), old) as store:
        ask(store, tmp_path, setup("BrushLabels"), region=None)  # only one has these classes
        found = store.project(7)
        assert found is not None
        assert found.region_project == 4
        store.update_project(7, region_project=None)
        store.add_project(make_project(5, SCHEMA))
        with pytest.raises(NotFound, match="2 region projects"):
            ask(store, tmp_path, setup("BrushLabels"), region=None)
        found = store.project(7)
        assert found is not None
        ok, said, hint = mask_version(store, found)
        assert ok is None
        assert "those with its classes are: 4, 5" in said
        assert "--region-project M" in hint


def test_init_leaves_masks_with_the_project_that_was_named(tmp_path: Path) -> None:
    with make_store(tmp_path, make_project(4, SCHEMA), make_project(5, SCHEMA)) as store:
        ask(store, tmp_path, setup("BrushLabels"), region=5)
        ls = FakeLabelStudio()
        ls.server.add_project(7, setup("BrushLabels"), title="photos")
        (said,) = init_masks(make_settings(tmp_path), store, ls, 4, 7)
        assert said == (
            "masks in project 7 stay those of project 5; "
            "`pixbal masks --project 7 --region-project 4` changes that"
        )
        found = store.project(7)
        assert found is not None
        assert found.region_project == 5
        assert init_masks(make_settings(tmp_path), store, ls, 5, 7)[0].startswith(
            "masks in project 7: unchanged"
        )


def test_the_picture_that_is_painted_on_is_imported(tmp_path: Path) -> None:
    """The region project has the first image of each task; the labels are on the second one."""
    label_config = (
        '<View><Image name="rgb" value="$rgb"/><Image name="depth" value="$depth"/>'
        '<BrushLabels name="tag" toName="depth"><Label value="grass"/></BrushLabels></View>'
    )

    ls = FakeLabelStudio()
    ls.server.add_project(7, label_config, title="photos")
    ls.server.add_task(7, 1, {"rgb": "/data/upload/7/a", "depth": "/data/upload/7/b"})
    ls.server.files["/data/upload/7/b"] = png(3)[0]
    region = make_project(4, SCHEMA, method="grid", side_px=16)
    with make_store(tmp_path, region) as store:
        store.add_images([make_image(4, source="/data/upload/7/a", ls_task_id=1)])
        for added, known in ((1, 0), (0, 1)):
            report = show_masks(make_settings(tmp_path), store, ls, 7, 4)
            assert (report.images.added, report.images.known) == (added, known)
        (image,) = store.images(7)
        assert (image.source, image.width, image.height) == ("/data/upload/7/b", 160, 120)


def test_trouble_of_a_region_project_is_not_that_of_the_masks(tmp_path: Path) -> None:
    paused = make_project(4, SCHEMA, state="paused", trouble="gone", push_held=True)
    with make_store(tmp_path, paused) as store:
        for _ in range(2):
            ask(store, tmp_path, setup("BrushLabels"))
        found = store.project(7)
        assert found is not None
        assert (found.state, found.trouble, found.push_held) == ("active", None, False)


def test_commands_about_rounds_look_at_region_projects_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXBAL_HOME", str(tmp_path))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    image_project = make_project(9, SCHEMA, template="image_masks")
    store = make_store(tmp_path, make_project(4, SCHEMA), image_project, open_tasks=1)
    store.apply_label(make_label(1, classes=SCHEMA.names[:1]))  # something to train on
    store.close()
    result = CliRunner().invoke(main, ["status", "--json"])
    assert '"project": 4' in result.output
    assert '"project": 9' not in result.output
    assert CliRunner().invoke(main, ["train"]).exit_code == 0
    result = CliRunner().invoke(main, ["train", "--project", "9"])
    assert "Name one with --project: 4." in result.output
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


def publish(stack: Stack, project: Project, version: Version, name: str = "r1") -> None:
    row = VersionRow(project.id, name, 1, str(version.path), {}, version.weights_hash, at(1))
    assert stack.store.add_version(row)
    stack.store.update_project(project.id, current_version=name)


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
    publish(stack, region, version, f"p{region.id}-r2")
    task = ls.next_task(project_id)
    assert task is not None
    newest = [p for p in task["predictions"] if p["model_version"] == f"p{region.id}-r2"]
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
def test_the_masks_of_a_new_version_are_shown_when_a_task_is_opened(
    stack: Stack, api: Api, version: Version, tmp_path: Path
) -> None:
    """Label Studio asks only where a task has no prediction, and shows the first that it has."""
    store, ls, region = stack.store, stack.ls, region_project(stack, 2)
    project_id, pictures, _ = image_project(ls, api, "BrushLabels")
    publish(stack, region, version, "r1")
    show_masks(stack.settings, store, ls, project_id, region.id)
    old = {task_id: api.open_task(project_id, task_id)["predictions"] for task_id in pictures}
    assert [p["model_version"] for found in old.values() for p in found] == ["r1", "r1"]

    name = f"p{region.id}-r2"
    snapshot = tiny_snapshot(tmp_path, classes=SCHEMA.names)
    newer = run_round(snapshot.path, replace(tiny_config(), seed=7), tmp_path / "v", name=name)
    publish(stack, region, newer, name)
    for task_id in pictures:  # as Label Studio has it
        assert api.open_task(project_id, task_id)["predictions"] == old[task_id]
    # "Label All Tasks" asked for one of them meanwhile, which stands behind the old one.
    assert ls.next_task(project_id)

    def shown(task_id: int) -> bool:
        expected = predict_mask(load_model(newer), pictures[task_id])
        expected[expected >= 2] = 255  # "water" has no label in this setup
        found = api.open_task(project_id, task_id)["predictions"]
        control = read_mask_control(setup("BrushLabels"), SCHEMA)
        return all(
            p["model_version"] == name
            and np.array_equal(drawn(p["result"], control, expected.shape), expected)
            for p in found
        )

    stack.worker.start()
    try:
        stack.wait_for("the newer masks", lambda: all(shown(task_id) for task_id in pictures))
    finally:
        stack.worker.stop()
    # Who had the task open can still answer: her answer names the prediction it began with.
    for task_id, (first, *_) in old.items():
        answer = api.http.post(
            f"/api/tasks/{task_id}/annotations/",
            params={"project": project_id},
            json={"result": [], "lead_time": 1.0, "parent_prediction": first["id"]},
        )
        assert answer.status_code == 201, answer.text


@pytest.mark.server
@pytest.mark.slow
def test_masks_again_draws_a_changed_picture_and_another_region_project(
    stack: Stack, api: Api, version: Version, tmp_path: Path
) -> None:
    store, ls, region = stack.store, stack.ls, region_project(stack, 3)
    project_id, pictures, _ = image_project(ls, api, "BrushLabels")
    publish(stack, region, version)
    show_masks(stack.settings, store, ls, project_id, region.id)
    first, second = pictures
    before = {t: api.open_task(project_id, t)["predictions"][0] for t in pictures}
    data = api.open_task(project_id, second)["data"]
    changed = api.http.patch(f"/api/tasks/{first}/", json={"data": data})
    assert changed.status_code == 200, changed.text
    report = show_masks(stack.settings, store, ls, project_id)
    assert (report.change, [s.changed for s in report.redrawn]) == ("unchanged", [True, False])
    (now,) = api.open_task(project_id, first)["predictions"]
    assert now["id"] == before[first]["id"]
    assert now["result"] == before[second]["result"] != before[first]["result"]

    snapshot = tiny_snapshot(tmp_path, classes=SCHEMA.names)
    other = run_round(snapshot.path, replace(tiny_config(), seed=7), tmp_path / "v", name="r1")
    another = make_project(900_100, make_schema(*CLASSES, "water 3"), method="grid", side_px=16)
    store.add_project(another)
    publish(stack, another, other)  # "r1" too
    assert not any(s.changed for s in show_masks(stack.settings, store, ls, project_id).redrawn)
    report = show_masks(stack.settings, store, ls, project_id, another.id)
    assert (report.before, [s.changed for s in report.redrawn]) == (region.id, [True, True])
    assert api.open_task(project_id, first)["predictions"][0]["result"] != now["result"]


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
