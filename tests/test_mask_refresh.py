"""Masks that Label Studio keeps are drawn again in place, and nothing else there is touched."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import at, make_image, make_project, make_schema, make_settings, make_store
from training_helpers import CLASSES, tiny_config, tiny_snapshot, write_pool

from ml_backend.label_studio import Refused, Unreachable
from ml_backend.mask_predictions import mask_predictions
from ml_backend.mask_refresh import MaskRefresh, Redrawn, redraw
from ml_backend.runtime import Runtime
from ml_backend.store import Project, Store, VersionRow
from training.rounds import run_round
from training.versions import Version

SCHEMA = make_schema(*CLASSES)
MASKS = make_project(9, SCHEMA, template="image_masks", region_project=4)


@dataclass
class Shelf:
    """Label Studio as one project's tasks with their predictions."""

    label_config: str = MASKS.label_config
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    away: bool = False

    def project(self, project_id: int) -> dict[str, Any]:
        self._answer()
        return {"id": project_id, "label_config": self.label_config}

    def keep(self, task_id: int, prediction: dict[str, Any]) -> int:
        number = len(self.rows) + 1
        self.rows[number] = {"id": number, "task": task_id, **copy.deepcopy(prediction)}
        return number

    def tasks_with_versions(
        self, project_id: int
    ) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
        self._answer()
        for task_id, data in list(self.tasks.items()):
            names = {r["model_version"] for r in self.predictions(task_id)}
            yield {"id": task_id, "data": data}, frozenset(names)

    def predictions(self, task_id: int) -> list[dict[str, Any]]:
        self._answer()
        return [copy.deepcopy(r) for r in self.rows.values() if r["task"] == task_id]

    def update_prediction(self, prediction_id: int, **fields: Any) -> None:
        self._answer()
        if prediction_id not in self.rows:
            raise Refused("no such prediction", "", 404)
        self.rows[prediction_id].update(fields)

    def _answer(self) -> None:
        if self.away:
            raise Unreachable("Label Studio does not answer", "", sent=False)


@dataclass
class Site:
    """Region project 4 with a version, mask project 9 with a picture in each of tasks 1 and 2."""

    runtime: Runtime
    shelf: Shelf
    version: Version

    @property
    def store(self) -> Store:
        return self.runtime.store

    def masks(self) -> Project:
        found = self.store.project(9)
        assert found is not None
        return found

    def publish(self, name: str, project_id: int = 4, weights: Version | None = None) -> None:
        version = weights or self.version
        number = int(name.rpartition("r")[2])
        self.store.add_version(
            VersionRow(
                project_id, name, number, str(version.path), {}, version.weights_hash, at(number)
            )
        )
        self.store.update_project(project_id, current_version=name)

    def answer(self, task_id: int) -> dict[str, Any]:
        """What `/predict` would say now."""
        task = {"id": task_id, "data": self.shelf.tasks[task_id]}
        (found,) = mask_predictions(
            self.runtime.settings, self.store, self.masks(), self.shelf.label_config, [task]
        )
        return found

    def ask_all(self) -> None:
        """Label Studio keeps what it is given; a prediction more per task."""
        for task_id in self.shelf.tasks:
            self.shelf.keep(task_id, self.answer(task_id))

    def redraw(self) -> list[Redrawn]:
        ls: Any = self.shelf
        return list(redraw(self.runtime.settings, self.store, ls, self.masks()))

    def assert_shown(self, ids: tuple[int, ...] = (1, 2)) -> None:
        """Every kept prediction of these tasks is what would be answered now."""
        for row in self.shelf.rows.values():
            if row["task"] in ids:
                expected = self.answer(row["task"])
                assert {key: row[key] for key in expected} == expected


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """Two models that differ."""
    folder = tmp_path_factory.mktemp("versions")
    snapshot = tiny_snapshot(folder)
    return [
        run_round(snapshot.path, replace(tiny_config(), seed=seed), folder / f"v{seed}", name="r1")
        for seed in (0, 1)
    ]


@pytest.fixture
def site(tmp_path: Path, versions: list[Version]) -> Iterator[Site]:
    settings = make_settings(tmp_path, PIXBAL_DEVICE="cpu", PIXBAL_RECONCILE_S="0.01")
    with make_store(tmp_path, make_project(4, SCHEMA), MASKS) as store:
        shelf: Any = Shelf()
        for number, (name, path, regions, _) in enumerate(write_pool(tmp_path / "pool", 2), 1):
            url = f"/data/upload/9/{name}.png"
            image = make_image(9, name, path=str(path), regions_path=str(regions), source=url)
            store.add_images([image])
            shelf.tasks[number] = {"image": url}
        made = Site(Runtime(settings, store, shelf), shelf, versions[0])
        made.publish("r1")
        yield made


def test_nothing_is_drawn_twice(site: Site) -> None:
    site.ask_all()
    before = copy.deepcopy(site.shelf.rows)
    assert site.redraw() == [Redrawn(1, changed=False), Redrawn(2, changed=False)]
    assert site.shelf.rows == before


def test_a_new_version_is_shown_in_place_of_the_old(site: Site, versions: list[Version]) -> None:
    site.ask_all()
    old = copy.deepcopy(site.shelf.rows)
    site.publish("p4-r2", weights=versions[1])
    assert [step.changed for step in site.redraw()] == [True, True]
    site.assert_shown()
    assert {row["model_version"] for row in site.shelf.rows.values()} == {"p4-r2"}
    assert [r["result"] for r in site.shelf.rows.values()] != [r["result"] for r in old.values()]
    # An answer that was begun on the old one can still be given: it is the same prediction.
    assert set(site.shelf.rows) == set(old)


def test_both_predictions_of_a_task_become_the_new_one(
    site: Site, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "Label All Tasks" has asked for the new one already; from the list the oldest is shown."""
    site.ask_all()
    site.publish("p4-r2", weights=versions[1])
    site.ask_all()
    monkeypatch.setattr("ml_backend.mask_predictions._predict", lambda *_: pytest.fail("drawn"))
    assert [step.changed for step in site.redraw()] == [True, True]
    monkeypatch.undo()
    site.assert_shown()
    assert len(site.shelf.rows) == 4


def test_another_region_project_has_its_masks_drawn_although_the_names_are_equal(
    site: Site, versions: list[Version]
) -> None:
    site.store.add_project(make_project(5, SCHEMA))
    site.publish("r1", project_id=5, weights=versions[1])
    site.ask_all()
    old = copy.deepcopy(site.shelf.rows)
    site.store.update_project(9, region_project=5)
    assert [step.changed for step in site.redraw()] == [True, True]
    site.assert_shown()
    assert site.shelf.rows != old


def test_another_picture_in_a_task_is_drawn(site: Site) -> None:
    site.ask_all()
    site.shelf.tasks[1], site.shelf.tasks[2] = site.shelf.tasks[2], site.shelf.tasks[1]
    assert [step.changed for step in site.redraw()] == [True, True]
    site.assert_shown()
    assert [step.changed for step in site.redraw()] == [False, False]


def test_a_label_that_was_added_is_drawn(site: Site) -> None:
    def setup(*labels: str) -> str:
        items = "".join(f'<Label value="{label}"/>' for label in labels)
        control = f'<BrushLabels name="tag" toName="img">{items}</BrushLabels>'
        return f'<View><Image name="img" value="$image"/>{control}</View>'

    site.shelf.label_config = setup(CLASSES[0])
    site.ask_all()
    site.shelf.label_config = setup(*CLASSES)
    assert all(step.changed for step in site.redraw())
    site.assert_shown()


def test_what_is_not_ours_stays(site: Site) -> None:
    """Another model's predictions, and somebody's own under a name that we use too."""
    by_hand = [{"id": "Xy_1", "type": "brushlabels", "value": {}}]
    others = {"another": [], "r1": by_hand}
    kept = [
        site.shelf.keep(1, {"result": result, "model_version": name, "score": 0.5})
        for name, result in others.items()
    ]
    before = [copy.deepcopy(site.shelf.rows[number]) for number in kept]
    site.ask_all()
    site.publish("p4-r2")
    site.redraw()
    assert [site.shelf.rows[number] for number in kept] == before
    assert site.shelf.rows[3]["model_version"] == "p4-r2"


def test_masks_of_an_older_release_are_drawn_again(site: Site) -> None:
    """Their regions are named mask-0: something else was drawn as some class then."""
    site.ask_all()
    for row in site.shelf.rows.values():
        row["result"] = [
            {**item, "id": f"mask-{number}"} for number, item in enumerate(row["result"])
        ]
    assert [step.changed for step in site.redraw()] == [True, True]
    site.assert_shown()


def test_one_picture_that_is_gone_stops_no_other(site: Site) -> None:
    site.ask_all()
    image = site.store.image_by_source(9, site.shelf.tasks[1]["image"])
    assert image is not None
    Path(image.path).write_bytes(b"torn")
    site.publish("p4-r2")
    first, second = site.redraw()
    assert (first.changed, second.changed) == (False, True)
    assert "is not an image" in str(first.problem)
    assert site.shelf.rows[1]["model_version"] == "r1"


def test_a_prediction_deleted_meanwhile_is_no_error(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ask_all()
    site.publish("p4-r2")
    kept = site.shelf.predictions(1)
    task = {"id": 1, "data": site.shelf.tasks[1]}
    listed = [(task, frozenset({"r1"}))]
    monkeypatch.setattr(site.shelf, "predictions", lambda _: kept)
    monkeypatch.setattr(site.shelf, "tasks_with_versions", lambda _: listed)
    site.shelf.rows.clear()
    assert site.redraw() == [Redrawn(1, changed=False)]


# -- the worker's part -------------------------------------------------------------------------


def test_the_worker_follows_each_version_that_comes_into_use(
    site: Site, versions: list[Version]
) -> None:
    site.ask_all()
    refresh = MaskRefresh(site.runtime)
    settle(refresh, site, "r1")
    for name, weights in (("p4-r2", versions[1]), ("p4-r3", versions[0])):
        site.publish(name, weights=weights)
        settle(refresh, site, name)
        site.assert_shown()
    site.store.update_project(4, current_version="p4-r2")  # rolled back
    settle(refresh, site, "p4-r2")
    site.assert_shown()
    # Another worker, or this one started again, has nothing to do.
    site.shelf.away = True
    MaskRefresh(site.runtime).look()


def test_the_worker_draws_a_little_at_a_time(site: Site) -> None:
    site.ask_all()
    settle(MaskRefresh(site.runtime), site, "r1")
    site.publish("p4-r2")
    refresh = MaskRefresh(site.runtime, budget_s=0.0)
    refresh.look()
    versions = [row["model_version"] for row in site.shelf.rows.values()]
    assert versions == ["p4-r2", "r1"]
    settle(refresh, site, "p4-r2")
    site.assert_shown()


def test_an_answer_that_was_on_its_way_is_caught_up_with(site: Site) -> None:
    """The old version's answer to /predict is kept after the walk over the tasks."""
    site.ask_all()
    late = site.answer(1)
    site.publish("p4-r2")
    refresh = MaskRefresh(site.runtime)
    refresh.look()
    site.shelf.keep(1, late)
    settle(refresh, site, "p4-r2")
    site.assert_shown()


def test_the_worker_waits_for_a_round_and_for_label_studio(site: Site) -> None:
    site.ask_all()
    site.publish("p4-r2")
    site.store.start_round(4, 1, "labels", "key")
    refresh = MaskRefresh(site.runtime)
    refresh.look()
    assert {row["model_version"] for row in site.shelf.rows.values()} == {"r1"}
    site.store.update_round(4, 1, state="done")
    site.shelf.away = True
    refresh.look()  # no error
    site.shelf.away = False
    settle(refresh, site, "p4-r2")
    site.assert_shown()


def settle(refresh: MaskRefresh, site: Site, version: str) -> None:
    """Look until the project is known to show a version."""
    for _ in range(10_000):
        refresh.look()
        if site.masks().model_version == version:
            return
    raise AssertionError(f"{version} is not shown: {site.shelf.rows}")
