"""Choice of regions, quality of pseudo labels, and data of an experiment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from simulate_helpers import tiny_method, tiny_scenes

from training.datasets import CAMVID_CLASSES
from training.errors import ConfigError, DataError, SuperpixelError
from training.images import read_mask
from training.pool_scores import ImageScores, PoolScores
from training.regions import RegionId, RegionMap
from training.simulate_choice import choose
from training.simulate_config import DataConfig, SelectionConfig
from training.simulate_data import VOID, PoolEntry, count_regions, prepare, region_maps, side_px
from training.simulate_gallery import GREY, _coloured
from training.simulate_quality import PseudoQuality, pseudo_quality
from training.superpixels import available_methods


def scores(**images: list[float]) -> PoolScores:
    def one(values: list[float]) -> ImageScores:
        count = len(values)
        shares = np.eye(2, dtype=np.float16)[np.arange(count) % 2]
        return ImageScores(np.array(values), np.ones(count, np.float32), shares)

    return PoolScores({name: one(values) for name, values in images.items()}, "v", "pixbal")


POOL = scores(a=[0.9, 0.1, 0.5], b=[0.8, np.nan])
CLICKS = {"a": np.array([2, 1, 1]), "b": np.array([3, 1])}


def chosen(budget: float, asked: set[RegionId] | None = None, **options: float) -> list[str]:
    config = SelectionConfig(**options)  # type: ignore[arg-type]
    found = choose(POOL, CLICKS, asked or set(), budget, config, {}, seed=0, round_number=1)
    return [str(region) for region in found]


def test_best_first_until_real_clicks_pass_the_budget() -> None:
    assert chosen(1) == ["a:0"]
    assert chosen(2) == ["a:0", "b:0"]  # equality goes on, as in the paper
    assert chosen(5) == ["a:0", "b:0", "a:2"]
    assert chosen(99) == ["a:0", "b:0", "a:2", "a:1"]  # b:1 cannot be asked


def test_asked_ones_are_left_out() -> None:
    assert chosen(3, {RegionId("a", 0)}) == ["b:0", "a:2"]
    everything = {RegionId("a", i) for i in range(3)} | {RegionId("b", 0)}
    assert chosen(3, everything) == []


def test_classes_in_turn() -> None:
    # Even regions have main class 0, odd ones 1: a:1 is the only one of class 1.
    assert set(chosen(2, by_class=True)[:2]) == {"a:0", "a:1"}


def test_distance_between_regions(tmp_path: Path) -> None:
    ids = np.repeat(np.arange(3), 4)[None].repeat(4, axis=0).astype(np.int32)  # centres 4 px apart
    RegionMap(ids, 3, "grid", {}).save(tmp_path / "a.npz")
    config = SelectionConfig(min_distance=5.0)
    pool = scores(a=[0.9, 0.8, 0.7])
    found = choose(
        pool, {"a": np.ones(3, np.int64)}, set(), 99, config, {"a": tmp_path / "a.npz"},
        seed=0, round_number=0,
    )  # fmt: skip
    assert [region.index for region in found] == [0, 2]


def test_quality_of_pseudo_labels(tmp_path: Path) -> None:
    mask = np.array([[0, 0, 1, VOID]], np.uint8).repeat(2, axis=0)
    labels = np.array([[0, 1, VOID, 0]], np.uint8).repeat(2, axis=0)
    entries = []
    for name in ("a", "unseen"):
        Image.fromarray(mask).save(tmp_path / f"{name}-mask.png")
        entries.append(PoolEntry(name, tmp_path / "x", tmp_path / f"{name}-mask.png", ""))
    Image.fromarray(labels).save(tmp_path / "a.png")
    # Of three pixels with a class two have a label, of which one is right.
    assert pseudo_quality(entries, tmp_path, 2) == PseudoQuality(1 / 2, 2 / 3)
    assert pseudo_quality(entries[1:], tmp_path, 2) == PseudoQuality(None, None)


def test_an_undefined_label_on_a_class_is_wrong(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "mask.png")
    Image.fromarray(np.full((2, 2), 2, np.uint8)).save(tmp_path / "a.png")
    entry = PoolEntry("a", tmp_path / "x", tmp_path / "mask.png", "")
    assert pseudo_quality([entry], tmp_path, 2) == PseudoQuality(0.0, 1.0)


def test_something_else_is_black_in_the_gallery_and_no_class_is() -> None:
    labels = np.array([[0, 1, 2, VOID, 1]], np.uint8)
    shown = np.array([[True, True, True, True, False]])
    road, sky, other, void, hidden = _coloured(labels, shown, classes=2)[0].tolist()
    assert other == void == [0, 0, 0]
    assert hidden == [GREY] * 3
    assert road != sky
    assert [0, 0, 0] not in (road, sky)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scenes(tmp_path_factory.mktemp("scenes"))


def nothing(_what: str, _step: int, _steps: int) -> None:
    return None


def test_data_is_checked_spread_and_named(root: Path, tmp_path: Path) -> None:
    config = DataConfig(root=str(root), pool_images=2, test_images=1)
    data = prepare(config, tmp_path / "data", nothing)
    assert data.classes == CAMVID_CLASSES
    assert [entry.image.stem for entry in data.pool] == ["scene_0000", "scene_0003"]
    assert len(data.test) == 1
    stored = read_mask(root / "train" / "masks" / "scene_0000.png")
    assert np.array_equal(
        read_mask(data.pool[0].mask), np.where(stored == 11, VOID, stored).astype(np.uint8)
    )
    again = prepare(config, tmp_path / "elsewhere", nothing)
    assert again.hash == data.hash
    assert prepare(replace(config, pool_images=3), tmp_path / "data", nothing).hash != data.hash


def test_pool_and_test_share_no_image(root: Path, tmp_path: Path) -> None:
    config = DataConfig(root=str(root), test_split="train")
    with pytest.raises(DataError, match="4 images are in the pool"):
        prepare(config, tmp_path, nothing)


def test_a_mask_with_an_unknown_class_is_named(tmp_path: Path) -> None:
    folder = tiny_scenes(tmp_path / "scenes")
    path = folder / "train" / "masks" / "scene_0001.png"
    mask = read_mask(path)
    mask[0, 0] = 77
    Image.fromarray(mask).save(path)
    with pytest.raises(DataError, match=r"scene_0001\.png holds class ids \[77\]"):
        prepare(DataConfig(root=str(folder)), tmp_path / "data", nothing)


def test_folder_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder of camvid is not known") as caught:
        prepare(DataConfig(), tmp_path, nothing)
    assert "--root" in caught.value.hint


def test_region_maps_are_made_once(root: Path, tmp_path: Path) -> None:
    data = prepare(DataConfig(root=str(root)), tmp_path / "data", nothing)
    paths = region_maps(data, tiny_method(), tmp_path / "regions", 1, nothing)
    assert count_regions(paths) == 4 * (64 // 16) * (96 // 16)
    before = [path.stat().st_mtime_ns for path in paths]
    assert region_maps(data, tiny_method(), tmp_path / "regions", 1, nothing) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_side_relative_to_the_image() -> None:
    method = tiny_method(side_share=0.25)
    assert (side_px(method, (64, 96)), side_px(method, (360, 200))) == (16, 50)
    assert side_px(method, (8, 8)) == 4  # no smaller regions
    assert side_px(tiny_method(), (1000, 1000)) == 16


def test_images_without_superpixels_are_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepare(DataConfig(root=str(root)), tmp_path / "data", nothing)
    assert "grid" in available_methods()
    broken = replace(data.pool[1], image=tmp_path / "gone.png")
    monkeypatch.setattr("training.simulate_data.image_size", lambda _path: (64, 96))
    data = replace(data, pool=(data.pool[0], broken))
    with pytest.raises(SuperpixelError, match=r"1 of 2 images .*gone\.png"):
        region_maps(data, tiny_method(), tmp_path / "regions", 1, nothing)
