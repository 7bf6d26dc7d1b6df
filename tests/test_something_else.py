"""Road and "Something else" ticked together: both reach training, all the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backend_helpers import at, make_image, make_project, make_query, make_settings, make_store
from training_helpers import grid, tiny_config, write_pool

from label_config import ClassSchema, build
from ml_backend.cycle import Cycle
from ml_backend.ingest import apply_annotation
from ml_backend.labels import RegionLabel, trainable_labels, trained_labels
from ml_backend.round_steps import write_round_snapshot
from ml_backend.runtime import Runtime
from ml_backend.store import Project, Store
from training.config import PseudoLabelConfig
from training.dataset import candidate_rows
from training.one_image import OneImage
from training.pseudo_label_files import pseudo_labels
from training.regions import RegionId, RegionMap
from training.rounds import run_round
from training.snapshot import Snapshot
from training.transforms import resize_nearest
from training.versions import load_model

NAMES = ("Road", "Sky")
SCHEMA = ClassSchema.of(NAMES)


def project(**fields: Any) -> Project:
    return make_project(4, SCHEMA, train_config=tiny_config().to_json(), method="grid", **fields)


def opened(folder: Path, row: Project) -> Store:
    """A store with questions about the first regions of a picture, asked by tasks 1, 2, ..."""
    store = make_store(folder, row)
    images = []
    for name, image, regions, _ in write_pool(folder / "pool", 2):
        map_ = grid(40, 56)
        images.append(
            make_image(4, name, source=str(image), path=str(image), width=56, height=40,
                       regions_path=str(regions), regions_hash=map_.hash, region_count=map_.count)
        )  # fmt: skip
    store.add_images(images)
    asked = [
        make_query(4, index, image_id=images[0].image_id, regions_hash=images[0].regions_hash)
        for index in range(8)
    ]
    store.plan_queries(asked)
    store.set_task_ids({q.id: q.region_index + 1 for q in store.queries(4)})
    return store


def answer(store: Store, row: Project, task: int, *ticked: str, second: int = 0) -> None:
    """What Label Studio sends when these choices of a task are submitted."""
    value = {"choices": list(ticked)}
    annotation = {
        "id": 100 + task, "updated_at": at(second).isoformat(),
        "result": [{"from_name": "classes", "to_name": "region", "type": "choices",
                    "value": value}],
    }  # fmt: skip
    apply_annotation(store, row, task, annotation, at(second))


def runtime(folder: Path, store: Store) -> Runtime:
    return Runtime(make_settings(folder / "home", PIXBAL_DEVICE="cpu"), store, None)  # type: ignore[arg-type]


def snapshot_of(folder: Path, store: Store, number: int = 1) -> Snapshot:
    store.start_round(4, number, "labels", f"r{number}")
    return Snapshot.load(Path(write_round_snapshot(runtime(folder, store), 4, number)))


def test_road_and_something_else_train_as_both(tmp_path: Path) -> None:
    row = project()
    store = opened(tmp_path, row)
    answer(store, row, 1, "0", "other")
    answer(store, row, 2, "other")
    answer(store, row, 3, "0", "1")
    answer(store, row, 4, "0", "other", "unsure")
    image = store.queries(4)[0].image_id
    assert trainable_labels(store, 4) == {
        RegionId(image, 0): RegionLabel(("Road",), other=True),
        RegionId(image, 1): RegionLabel((), other=True),
        RegionId(image, 2): RegionLabel(("Road", "Sky")),
    }
    assert store.clicks(4) == 2 + 1 + 2 + 1


@pytest.mark.parametrize("template", ["region_multiclass", "region_dominant"])
def test_setups_of_release_0_1_are_read_as_before(tmp_path: Path, template: str) -> None:
    """Road + "Nothing listed" is nothing there, and so is a row that 0.1 wrote."""
    row = project(template=template, label_config=build(SCHEMA, template, undefined_alias="none"))
    store = opened(tmp_path, row)
    answer(store, row, 1, *(["none"] if template == "region_dominant" else ["0", "none"]))
    (label,) = store.labels(4)
    assert (label.kind, label.classes, label.clicks) == ("nothing", (), 1)
    assert set(trainable_labels(store, 4).values()) == {RegionLabel((), other=True)}


def test_the_snapshot_holds_both_and_knows_them_again(tmp_path: Path) -> None:
    row = project()
    store = opened(tmp_path, row)
    answer(store, row, 1, "1", "other")
    answer(store, row, 2, "other")
    snapshot = snapshot_of(tmp_path, store)
    (item,) = snapshot.items
    assert dict(item.labels) == {0: (1, 2), 1: (2,)}
    assert trained_labels(snapshot) == trainable_labels(store, 4)
    _, table = candidate_rows(item, snapshot.num_outputs)
    assert table.tolist() == [[False, True, True], [False, False, True]]


def test_adding_something_else_counts_as_a_changed_answer(tmp_path: Path) -> None:
    row = project()
    store = opened(tmp_path, row)
    answer(store, row, 1, "0")
    answer(store, row, 2, "1", "other")
    snapshot_of(tmp_path, store)
    store.update_round(4, 1, state="done")
    cycle = Cycle(runtime(tmp_path, store))
    assert cycle.state(row).new_labels == 0
    answer(store, row, 1, "0", "other", second=1)
    assert cycle.state(row).new_labels == 1
    answer(store, row, 2, "1", second=2)
    assert cycle.state(row).new_labels == 2


@pytest.mark.parametrize("spreads", [True, False])
def test_a_round_learns_from_classes_with_something_else(tmp_path: Path, spreads: bool) -> None:
    row = project()
    store = opened(tmp_path, row)
    said = (["0", "other"], ["1", "other"], ["other"], ["0", "1", "other"])
    for task, ticked in enumerate(said, start=1):
        answer(store, row, task, *ticked)
    snapshot = snapshot_of(tmp_path, store)
    pseudo = PseudoLabelConfig(expand_undefined=spreads)
    version = run_round(snapshot.path, tiny_config(pseudo_labels=pseudo), tmp_path / "version")
    assert (version.num_outputs, version.undefined) == (3, True)
    assert version.metrics["labelled_regions"] == 4
    # Every pixel of the answered regions got one of the labels its region may have.
    one = OneImage(load_model(version, which="stage1"))
    (item,) = snapshot.items
    labels, inside = pseudo_labels(one, snapshot, item, pseudo)
    ids = resize_nearest(RegionMap.load(item.regions).ids, labels.shape)
    assert set(ids[inside].tolist()) == {0, 1, 2, 3}
    for region, classes in item.labels.items():
        assert set(labels[ids == region].tolist()) <= set(classes)
