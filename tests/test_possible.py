"""A class that did not exist when a region was answered stays possible there, and only there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from backend_helpers import (
    at,
    make_image,
    make_label,
    make_project,
    make_query,
    make_schema,
    make_settings,
    make_store,
)
from PIL import Image as PILImage
from torch import Tensor
from training_helpers import CLASSES, grid, tiny_config, tiny_snapshot, write_pool

from label_config.append import appended
from ml_backend import round_steps
from ml_backend.errors import BackendError
from ml_backend.labels import possible_classes
from ml_backend.runtime import Runtime
from ml_backend.store import Store
from training.config import AugmentConfig
from training.dataset import ImageSource, possible_rows, region_samples
from training.errors import DataError, SnapshotError
from training.losses import stage1_loss, stage1_losses
from training.pseudo_label_files import _likely
from training.regions import RegionId
from training.rounds import run_round
from training.snapshot import Snapshot, SnapshotItem, write_snapshot


def table(*rows: tuple[int, ...], classes: int = 4) -> Tensor:
    found = torch.zeros(len(rows), classes, dtype=torch.bool)
    for row, names in enumerate(rows):
        found[row, list(names)] = True
    return found


def test_an_open_class_may_take_the_mass_and_is_not_demanded() -> None:
    """Softmax is 1/4 each. Y = {0}, open {2}: log 1/2 merged, log 1/4 demanded of class 0 alone."""
    logits, ids = torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    plain = stage1_losses(logits, ids, table((0,)))
    assert float(plain.one_hot) == pytest.approx(math.log(4) * 4 / 5)
    assert plain.counts.tolist() == [5, 1, 1]
    found = stage1_losses(logits, ids, table((0,)), possible=table((2,)))
    assert float(found.one_hot) == 0
    assert float(found.merged_positive) == pytest.approx(math.log(2) * 4 / 5)
    assert float(found.prototypical_pixel) == pytest.approx(math.log(4) / 2)
    assert found.counts.tolist() == [1, 5, 2]


def test_nothing_open_is_the_loss_as_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    ids = torch.randint(-1, 3, (2, 5, 6), generator=generator)
    candidates = table((0, 1), (2,), (1, 2, 3))
    found = stage1_losses(logits, ids, candidates, possible=torch.zeros_like(candidates))
    for one, other in zip(found, stage1_losses(logits, ids, candidates), strict=True):
        assert torch.equal(one, other)


def test_a_region_without_an_answer_is_not_labelled_by_what_is_open() -> None:
    logits, ids = torch.randn(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    found = stage1_losses(logits, ids, table(()), possible=table((2,)))
    assert found.counts.tolist() == [1, 1, 1]
    with pytest.raises(DataError, match="possible"):
        stage1_losses(logits, ids, table((0,)), possible=table((2,), (1,)))


def test_the_gradient_is_that_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 4, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(-1, 2, (1, 4, 5), generator=generator)

    def loss(z: Tensor) -> Tensor:
        return stage1_loss(z, ids, table((0,), (1, 3)), 0.7, possible=table((2,), (2,)))

    assert torch.autograd.gradcheck(loss, logits)


def write(
    folder: Path, possible: dict[int, tuple[int, ...]], labels: dict[int, list[int]]
) -> Snapshot:
    ((name, image, regions, _),) = write_pool(folder / "pool", 1)
    item = SnapshotItem(name, image, regions, labels, possible)
    return write_snapshot(folder / "s", classes=["a", "b", "c"], undefined=True, items=[item])


def test_a_snapshot_carries_what_is_open(tmp_path: Path) -> None:
    open_ = write(tmp_path / "one", {0: (2,)}, {0: [0], 1: [1]})
    assert Snapshot.load(open_.path).items[0].possible == {0: (2,)}
    closed = write(tmp_path / "two", {}, {0: [0], 1: [1]})
    # As older releases wrote it: none of it in the file.
    manifest = json.loads((closed.path / "manifest.json").read_text())
    assert "possible" not in json.dumps(manifest)
    assert closed.items[0].possible == {}
    assert closed.hash != open_.hash


@pytest.mark.parametrize("possible", [{0: (3,)}, {0: (-1,)}, {0: (0,)}, {5: (2,)}])
def test_a_snapshot_refuses_what_cannot_be_open(
    possible: dict[int, tuple[int, ...]], tmp_path: Path
) -> None:
    with pytest.raises(SnapshotError, match="possible"):
        write(tmp_path, possible, {0: [0]})


def test_batches_carry_what_is_open(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", 2)
    items = [
        SnapshotItem(name, image, regions, {0: [0], 3: [], 4: [1]}, {4: (2,)} if number else {})
        for number, (name, image, regions, _) in enumerate(pool)
    ]
    data = write_snapshot(tmp_path / "s", classes=["a", "b", "c"], undefined=True, items=items)
    assert possible_rows(data.items[0], 4) is None
    source = ImageSource(region_samples(data), AugmentConfig(crop=(32, 32)), None)
    rngs = [np.random.default_rng(n) for n in range(2)]
    batch = source.batch([0, 1], rngs).to(torch.device("cpu"))
    assert batch.possible is not None
    assert batch.possible.tolist() == table((), (), (), (2,)).tolist()
    assert source.batch([0, 0], rngs).possible is None


def test_pseudo_labels_take_an_open_class_only_where_the_model_sees_it() -> None:
    """Else each region that was answered before would get a pixel of it, at least."""
    ids = np.array([[0, 0, 1, 1, 2]])
    logits = torch.tensor([[3.0, 1, 3, 3, 0], [0, 0, 0, 0, 9], [1, 2, 1, 1, 5]])[:, None]
    ticked, open_ = np.eye(3, dtype=bool)[[0, 0]], np.eye(3, dtype=bool)[[2, 2]]
    found = _likely(logits, ids, [0, 1], ticked, open_)
    assert found.tolist() == [[False, False, True], [False, False, False]]


def test_a_round_with_open_classes_ends(tmp_path: Path) -> None:
    plain = tiny_snapshot(tmp_path / "a", classes=(*CLASSES, "Tram"))
    items = [replace(i, possible=dict.fromkeys(i.labels, (2,))) for i in plain.items]
    data = write_snapshot(
        tmp_path / "open", classes=plain.classes, undefined=True, items=items, heldout=plain.heldout
    )
    one = run_round(data.path, tiny_config(), tmp_path / "one")
    other = run_round(plain.path, tiny_config(), tmp_path / "other")
    assert one.weights_hash != other.weights_hash


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Regions 0 and 1 answered at second 0; Tram appended at second 10."""
    schema = appended(make_schema("Grass", "Brick"), ["Tram"])
    project = make_project(schema=schema, classes_added={"Tram": at(10).isoformat()})
    store = make_store(tmp_path, project)
    map_ = grid(40, 56)
    ((name, image, regions, _),) = write_pool(tmp_path / "pool", 1)
    store.add_images([
        make_image(4, name, path=str(image), width=56, height=40, regions_path=str(regions),
                   regions_hash=map_.hash, region_count=map_.count)
    ])  # fmt: skip
    store.plan_queries([make_query(4, n, image_id=name, regions_hash=map_.hash) for n in range(3)])
    store.set_task_ids({q.id: q.id for q in store.queries(4)})
    answer(store, 0, ("Grass",), 0)
    answer(store, 1, ("Brick",), 0)
    return store


def answer(store: Store, region: int, classes: tuple[str, ...], second: float) -> None:
    (query,) = [q for q in store.queries(4) if q.region_index == region]
    label = make_label(query.id, task_id=query.task_id, query_id=query.id, classes=classes)
    store.apply_label(replace(label, updated_at=at(second), seen_at=at(second)))


def snapshot(store: Store, home: Path, number: int) -> Snapshot:
    store.start_round(4, number, "labels", f"w{number}")
    runtime = Runtime(make_settings(home), store, None)  # type: ignore[arg-type]
    return Snapshot.load(Path(round_steps.write_round_snapshot(runtime, 4, number)))


def test_answers_from_before_leave_the_new_class_open_until_asked_again(
    store: Store, tmp_path: Path
) -> None:
    answer(store, 2, ("Grass",), 11)
    first = snapshot(store, tmp_path, 1).items[0]
    assert first.labels == {0: (0,), 1: (1,), 2: (0,)}
    assert first.possible == {0: (2,), 1: (2,)}
    answer(store, 0, ("Grass", "Tram"), 20)
    answer(store, 1, ("Brick",), 20)
    second = snapshot(store, tmp_path, 2).items[0]
    assert second.labels == {0: (0, 2), 1: (1,), 2: (0,)}
    assert second.possible == {}


def test_a_mask_of_an_old_home_is_looked_at_before_the_training(
    store: Store, tmp_path: Path
) -> None:
    """0.1 never read it. Seen failing (the snapshot was written) without `check_stored`."""
    (pool,) = store.images(4)
    bad = tmp_path / "rgb.png"
    PILImage.new("RGB", (56, 40), (0, 9, 0)).save(bad)
    held = replace(pool, image_id="h" * 24, split="heldout", mask_path=str(bad))
    store.add_images([held])
    with pytest.raises(BackendError, match=r"cannot measure: .* 3 channels"):
        snapshot(store, tmp_path, 1)
    PILImage.new("L", (55, 40)).save(bad)
    with pytest.raises(BackendError, match="its mask has 40 x 55 px"):
        snapshot(store, tmp_path, 1)
    PILImage.new("L", (56, 40)).save(bad)
    store.put_image(replace(held, image_id=pool.image_id))
    with pytest.raises(BackendError, match="among the images to label") as caught:
        snapshot(store, tmp_path, 1)
    assert f"pixbal images heldout remove {pool.image_id}" in caught.value.hint
    store.put_image(replace(held, image_id=pool.image_id, status="removed"))
    assert len(snapshot(store, tmp_path, 1).heldout) == 1


def test_without_appended_classes_nothing_is_open(tmp_path: Path, store: Store) -> None:
    project = store.project(4)
    assert project is not None
    name = store.images(4)[0].image_id
    assert set(possible_classes(store, project)) == {RegionId(name, 0), RegionId(name, 1)}
    earlier = {"Tram": (at(0) - timedelta(seconds=1)).isoformat()}
    assert possible_classes(store, replace(project, classes_added=earlier)) == {}
    assert possible_classes(store, replace(project, classes_added={})) == {}


def test_a_region_asked_again_with_the_same_answer_is_learned_from_anew(tmp_path: Path) -> None:
    """The answer now says that the new class is not there; a stage begun before must not stand.

    Seen failing with `labelled_hash` made of the ticks alone.
    """
    pool = write_pool(tmp_path / "pool", 1)
    _, image, regions, _ = pool[0]

    def content(number: int, possible: dict[int, list[int]]) -> str:
        item = SnapshotItem("a", image, regions, {0: [0], 1: [1]}, possible)
        return write_snapshot(
            tmp_path / str(number), classes=CLASSES, undefined=True, items=[item]
        ).labelled_hash

    before = content(1, {0: [1], 1: [0]})
    assert content(2, {0: [1]}) != before
    assert content(3, {1: [0], 0: [1]}) == before
    assert content(4, {}) == content(5, {0: []})
