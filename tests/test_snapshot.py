"""Snapshots: frozen, verified, refused when anything is off."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from training_helpers import CLASSES, tiny_snapshot, write_pool

from training.errors import RegionMapError, SnapshotError
from training.snapshot import HeldoutItem, Snapshot, SnapshotItem, write_snapshot


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return tiny_snapshot(tmp_path)


def item_of(folder: Path, labels: dict[int, list[int]], image_id: str = "scene0") -> SnapshotItem:
    _, image, regions, _ = write_pool(folder / "pool", 1)[0]
    return SnapshotItem(image_id, image, regions, labels)


def write(folder: Path, *items: SnapshotItem, undefined: bool = True) -> Snapshot:
    return write_snapshot(folder / "s", classes=CLASSES, undefined=undefined, items=items)


def test_written_is_what_is_read(snapshot: Snapshot) -> None:
    loaded = Snapshot.load(snapshot.path)
    assert loaded == snapshot
    assert loaded.classes == CLASSES
    assert loaded.num_outputs == 3
    assert [item.image_id for item in loaded.items] == ["scene0", "scene1", "scene2"]
    assert [item.image_id for item in loaded.heldout] == ["scene3"]
    assert loaded.label_count == sum(len(item.labels) for item in loaded.items)
    assert loaded.clicks >= loaded.label_count
    assert all(item.image.is_relative_to(loaded.path) for item in loaded.items)


def test_counts_by_hand(tmp_path: Path) -> None:
    snapshot = write(tmp_path, item_of(tmp_path, {4: [1, 0, 1], 2: [2], 7: []}))
    assert snapshot.items[0].labels == {2: (2,), 4: (0, 1), 7: ()}
    assert (snapshot.label_count, snapshot.clicks) == (2, 3)
    assert snapshot.labelled == snapshot.items
    assert write_snapshot(
        tmp_path / "t", classes=CLASSES, undefined=True, items=[item_of(tmp_path, {7: []})]
    ).labelled == ()  # fmt: skip


def test_writing_again_returns_the_same(tmp_path: Path) -> None:
    first = write(tmp_path, item_of(tmp_path, {0: [1]}))
    before = (first.path / "manifest.json").stat().st_mtime_ns
    assert write(tmp_path, item_of(tmp_path, {0: [1]})) == first
    assert (first.path / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(SnapshotError, match="another snapshot"):
        write(tmp_path, item_of(tmp_path, {0: [0]}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pool", "s"]


def test_order_of_items_does_not_matter(tmp_path: Path, snapshot: Snapshot) -> None:
    again = write_snapshot(
        tmp_path / "again",
        classes=CLASSES,
        undefined=True,
        items=snapshot.items[::-1],
        heldout=snapshot.heldout,
    )
    assert again.hash == snapshot.hash


def test_survives_the_loss_of_the_originals(tmp_path: Path) -> None:
    snapshot = write(tmp_path, item_of(tmp_path, {0: [1]}))
    for file in (tmp_path / "pool").iterdir():
        file.unlink()
    assert Snapshot.load(snapshot.path) == snapshot


@pytest.mark.parametrize("kind", ["images/scene1.png", "regions/scene1.npz", "masks/scene3.png"])
def test_a_changed_byte_is_named(snapshot: Snapshot, kind: str) -> None:
    path = snapshot.path / kind
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match=f"{kind} of the snapshot has changed"):
        Snapshot.load(snapshot.path)


def test_a_missing_file_is_named(snapshot: Snapshot) -> None:
    (snapshot.path / "regions" / "scene1.npz").unlink()
    with pytest.raises(SnapshotError, match=r"lacks its file regions/scene1\.npz"):
        Snapshot.load(snapshot.path)


def test_no_snapshot_there(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no snapshot at"):
        Snapshot.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1}', "\xff"])
def test_damaged_manifest(snapshot: Snapshot, text: str) -> None:
    (snapshot.path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SnapshotError):
        Snapshot.load(snapshot.path)


@pytest.mark.parametrize("labels", [{"999": [0]}, {"0": [3]}, {"-1": [0]}, {"0": ["a"]}, {"x": []}])
def test_edited_manifest(snapshot: Snapshot, labels: dict[str, list[int]]) -> None:
    path = snapshot.path / "manifest.json"
    manifest = json.loads(path.read_text())["content"]  # as the first release wrote it: no seal
    manifest["items"][0]["labels"] = labels
    path.write_text(json.dumps(manifest))
    with pytest.raises(SnapshotError):
        Snapshot.load(snapshot.path)


@pytest.mark.parametrize(
    ("labels", "undefined", "message"),
    [
        ({0: [3]}, True, r"scene0:0 has class index 3, known are 0\.\.2"),
        ({0: [2]}, False, r"class index 2, known are 0\.\.1"),
        ({0: [-1]}, True, r"class index -1"),
        ({35: [0]}, True, r"regions 0\.\.34, a label names region 35"),
        ({-1: [0]}, True, r"names region -1"),
    ],
)
def test_labels_out_of_range(
    tmp_path: Path, labels: dict[int, list[int]], undefined: bool, message: str
) -> None:
    with pytest.raises(SnapshotError, match=message):
        write(tmp_path, item_of(tmp_path, labels), undefined=undefined)
    assert [p.name for p in tmp_path.iterdir()] == ["pool"]


@pytest.mark.parametrize("image_id", ["", "../evil", "a/b", ".hidden", "x" * 101, "a b"])
def test_image_id_must_name_a_file(tmp_path: Path, image_id: str) -> None:
    with pytest.raises(SnapshotError, match="cannot name a file"):
        write(tmp_path, item_of(tmp_path, {0: [0]}, image_id))


def test_an_image_is_named_once(tmp_path: Path) -> None:
    item = item_of(tmp_path, {0: [0]})
    held = HeldoutItem(item.image_id, item.image, item.image)
    with pytest.raises(SnapshotError, match="occurs twice"):
        write(tmp_path, item, item)
    with pytest.raises(SnapshotError, match="must not be trained on"):
        write_snapshot(
            tmp_path / "s", classes=CLASSES, undefined=True, items=[item], heldout=[held]
        )


@pytest.mark.parametrize("classes", [(), ("a", "a")])
def test_classes_are_distinct(tmp_path: Path, classes: tuple[str, ...]) -> None:
    with pytest.raises(SnapshotError, match="distinct classes"):
        write_snapshot(tmp_path / "s", classes=classes, undefined=True, items=[])


def test_missing_or_damaged_sources(tmp_path: Path) -> None:
    item = item_of(tmp_path, {0: [0]})
    with pytest.raises(SnapshotError, match="no file"):
        write(tmp_path, replace(item, image=tmp_path / "gone.png"))
    with pytest.raises(SnapshotError, match="no file"):
        write(tmp_path, replace(item, regions=tmp_path / "gone.npz"))
    item.regions.write_bytes(b"PK")
    with pytest.raises(RegionMapError):
        write(tmp_path, item)


def test_import_needs_no_torch() -> None:
    names = "config errors images pool_scores regions snapshot"
    code = f"import sys; [__import__('training.' + n) for n in {names.split()!r}]; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
