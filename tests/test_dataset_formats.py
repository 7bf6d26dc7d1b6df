"""Public data sets on tiny folders in their real layouts, and what is said when one is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import io as matlab

from label_config.classes import ClassSchema
from training import class_names
from training.class_lists import read_class_list
from training.dataset_formats import (
    CITYSCAPES_LABEL_IDS,
    COCO_UNUSED_IDS,
    DATASETS,
    SOURCES,
    camvid_development_split,
    load,
)
from training.datasets import CAMVID_CLASSES, UNKNOWN, ImageMaskSet, Pair
from training.datasets import camvid as camvid_set
from training.errors import DataError, ImageError
from training.voc import add_sbd

# One row of stored ids per data set, and what they become; void is the last value.
LAYOUTS = {
    "camvid": ("train/images/0001TP_1.png", "train/masks/0001TP_1.png", [0, 10, 11], [0, 10, 11]),
    "cityscapes": (
        "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
        "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png",
        [7, 8, 33, 26, 0, 9, 29, 255], [0, 1, 18, 13, 255, 255, 255, 255],
    ),
    "voc2012": ("JPEGImages/2007_000032.jpg", "SegmentationClass/2007_000032.png",
                [0, 20, 15, 255], [0, 20, 15, 255]),
    "ade20k": ("images/training/ADE_train_00000001.jpg",
               "annotations/training/ADE_train_00000001.png", [1, 150, 2, 0], [0, 149, 1, 255]),
    "coco_stuff": ("images/train2017/000000000009.jpg", "stuffthingmaps/train2017/000000000009.png",
                   [0, 10, 12, 89, 91, 181, 255], [0, 10, 11, 79, 80, 170, 255]),
    "folder": ("train/images/x.webp", "train/masks/x.png", [0, 1, 9], [0, 1, 9]),
}  # fmt: skip


def write_row(path: Path, values: list[int], mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.array([values], np.uint8)
    Image.fromarray(row if mode == "L" else np.repeat(row[:, :, None], 3, axis=2)).save(path)


def build(root: Path, name: str) -> tuple[Path, Path]:
    """The data set with one image; paths of the image and its mask."""
    image, mask, stored, _ = LAYOUTS[name]
    write_row(root / image, stored, "RGB")
    write_row(root / mask, stored)
    if name == "cityscapes":  # lies beside the label ids and must be left alone
        write_row(root / mask.replace("labelIds", "color"), stored, "RGB")
    if name == "voc2012":
        palette = Image.fromarray(np.array([stored], np.uint8))
        palette.putpalette([value for i in range(256) for value in (i, 0, 255 - i)])
        palette.save(root / mask)
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("2007_000032\n\n")
    if name == "folder":
        (root / "classes.json").write_text(json.dumps({"names": ["a", "b"], "void": 9}))
    return root / image, root / mask


@pytest.mark.parametrize("name", DATASETS)
def test_stored_ids_become_classes(name: str, tmp_path: Path) -> None:
    build(tmp_path, name)
    found = load(name, tmp_path, "train")
    assert (len(found), len(found.names)) == (1, found.num_classes)
    image, mask = found.read(0)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [LAYOUTS[name][3]]
    assert image.shape == (*mask.shape, 3)


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_missing_is_named_with_its_source(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder") as caught:
        load(name, tmp_path / "nowhere")
    assert caught.value.hint == SOURCES[name].get
    with pytest.raises(DataError, match=r" lacks .* and ") as caught:
        load(name, tmp_path)
    assert caught.value.hint == SOURCES[name].get
    _, mask = build(tmp_path, name)
    mask.rename(tmp_path / "elsewhere.png")
    with pytest.raises(DataError, match=r"no masks|no mask of the same name|not there"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", DATASETS)
def test_unknown_ids_and_sizes_are_named(name: str, tmp_path: Path) -> None:
    _, mask = build(tmp_path, name)
    write_row(mask, [200] * len(LAYOUTS[name][2]))
    with pytest.raises(DataError, match=r"holds class ids \[200\]; known are 0|\[200\]; known"):
        load(name, tmp_path).read(0)
    write_row(mask, [0] * 20)
    with pytest.raises(DataError, match=r"is 1 x \d px .* 1 x 20"):
        load(name, tmp_path)
    late = load(name, tmp_path, sizes=False)
    with pytest.raises(DataError, match=r"1 x 20"):
        late.read(0)
    mask.write_bytes(b"text")
    with pytest.raises(ImageError, match="not an image"):
        load(name, tmp_path)


def test_known_ids_are_shown_in_short(tmp_path: Path) -> None:
    _, mask = build(tmp_path, "coco_stuff")
    write_row(mask, [11] * 7)
    with pytest.raises(DataError, match=r"\[11\]; known are 0\.\.10, 12\.\.24, 26\.\.27, 30\.\."):
        load("coco_stuff", tmp_path).read(0)


def test_names_and_splits_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set 'kitti'.*camvid, cityscapes"):
        load("kitti", tmp_path)
    with pytest.raises(DataError, match=r"Cityscapes has no split 'test'.*train, val"):
        load("cityscapes", tmp_path, "test")


def test_class_names_are_those_of_the_presets() -> None:
    sets = {"cityscapes": class_names.CITYSCAPES, "voc2012": class_names.VOC2012,
            "ade20k": class_names.ADE20K, "coco_stuff": class_names.COCO_STUFF,
            "camvid": CAMVID_CLASSES}  # fmt: skip
    for name, names in sets.items():
        assert names == ClassSchema.preset(name).names
    assert len(CITYSCAPES_LABEL_IDS) == 19
    assert 182 - len(COCO_UNUSED_IDS) == 171


def test_archives_unpacked_as_they_are(tmp_path: Path) -> None:
    build(tmp_path / "VOCdevkit" / "VOC2012", "voc2012")
    build(tmp_path / "ADEChallengeData2016", "ade20k")
    assert len(load("voc2012", tmp_path)) == len(load("ade20k", tmp_path)) == 1
    write_row(tmp_path / "val2017" / "7.jpg", [1], "RGB")
    write_row(tmp_path / "stuffthingmaps" / "val2017" / "7.png", [1])
    assert len(load("coco_stuff", tmp_path, "val")) == 1
    write_row(tmp_path / "test" / "0001TP_1.png", [1], "RGB")
    write_row(tmp_path / "testannot" / "0001TP_1.png", [1])
    assert load("camvid", tmp_path, "test").pairs[0].mask.parent.name == "testannot"


def test_voc_lists(tmp_path: Path) -> None:
    build(tmp_path, "voc2012")
    names = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    names.write_text("/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png\n")
    assert load("voc2012", tmp_path).pairs[0].name == "2007_000032"
    names.write_text("2007_000032\n2007_000033\n")
    with pytest.raises(DataError, match=r"2 files that are not there: JPEGImages/2007_000033\.jpg"):
        load("voc2012", tmp_path)
    names.write_text("a\na\n")
    with pytest.raises(DataError, match=r"2 names, of which \['a'\] stand more than once"):
        load("voc2012", tmp_path)
    names.write_text("\n")
    with pytest.raises(DataError, match="has 0 names"):
        load("voc2012", tmp_path)
    names.write_bytes(b"\xff")
    with pytest.raises(DataError, match="cannot be read"):
        load("voc2012", tmp_path)


def test_sbd_is_added_without_the_val_images(tmp_path: Path) -> None:
    voc, sbd = tmp_path / "voc", tmp_path / "sbd"
    build(voc, "voc2012")
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    (sbd / "cls").mkdir(parents=True)
    (sbd / "train.txt").write_text("a\n2007_000032\n")
    (sbd / "val.txt").write_text("b\n")
    mask = np.array([[0, 3]], np.uint8)
    matlab.savemat(sbd / "cls" / "a.mat", {"GTcls": {"Segmentation": mask, "CategoriesPresent": 3}})
    write_row(voc / "JPEGImages" / "a.jpg", [0, 3], "RGB")
    assert add_sbd(sbd, voc) == 2
    found = load("voc2012", voc, "train_aug")
    assert [pair.name for pair in found] == ["2007_000032", "a"]
    assert found.read(0)[1].tolist() == [LAYOUTS["voc2012"][2]]  # VOC's own, void kept
    assert found.read(1)[1].tolist() == [[0, 3]]
    (sbd / "cls" / "a.mat").write_bytes(b"no mat")
    with pytest.raises(DataError, match=r"a\.mat holds no mask of SBD"):
        add_sbd(sbd, voc)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"colors": []}', "There is no list of classes"),
        ("[]", "has 0 names"),
        ('["a", "a"]', r"\['a'\] stand more than once"),
        ('["a", " "]', r"those at \[1\] are blank"),
        ('["a", 7]', "A class has the name 7"),
        ('{"names": ["a", "b"], "void": 1}', "void value 1 does not fit 2 classes"),
        ('{"names": ["a"], "void": "x"}', "void value 'x' does not fit"),
    ],
)
def test_class_lists_that_do_not_fit(text: str, message: str, tmp_path: Path) -> None:
    build(tmp_path, "folder")
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load("folder", tmp_path)


def test_class_lists_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    for raw in (["a", "b"], {"names": ["a", "b"]}, ClassSchema.of(["a", "b"]).to_json()):
        path.write_text(json.dumps(raw))
        assert read_class_list(path).names == ("a", "b")
        assert read_class_list(path).void == 255
    path.write_text(json.dumps({"names": ["a"], "ignore_index": 1}))
    assert read_class_list(path).void == 1


def test_a_folder_without_splits(tmp_path: Path) -> None:
    build(tmp_path, "folder")
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind).rename(tmp_path / kind)
    assert len(load("folder", tmp_path, "all")) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ("a",)}, "names 1 classes, the masks have 2"),
        ({"table": bytes(255)}, "A table of 255 entries"),
        ({"table": bytes([7] * 256)}, r"leads to \[7\]"),
        ({"table": bytes(256), "void": UNKNOWN}, "A table of 256 entries"),
    ],
)
def test_sets_that_contradict_themselves(fields: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageMaskSet((), 2, **fields)  # type: ignore[arg-type]


def test_sequences_are_held_out_whole() -> None:
    pairs = tuple(Pair(Path(f"{n}.png"), Path(f"{n}.png")) for n in ("A_1", "B_1", "A_2", "C_9"))
    train = ImageMaskSet(pairs, 11, 11)
    fit, choose = camvid_development_split(train, ("A",))
    assert [p.name for p in fit] == ["B_1", "C_9"]
    assert [p.name for p in choose] == ["A_1", "A_2"]
    for held_out in ((), ("D",), ("A", "B", "C")):
        with pytest.raises(DataError, match=r"of the sequences \['A', 'B', 'C'\]"):
            camvid_development_split(train, held_out)


def test_camvid(camvid: Path) -> None:
    assert [len(load("camvid", camvid, s)) for s in ("train", "val", "test")] == [367, 101, 233]
    fit, choose = load("camvid", camvid, "fit"), load("camvid", camvid, "heldout")
    assert (len(fit), len(choose)) == (266, 101)
    assert set(fit.pairs) | set(choose.pairs) == set(camvid_set(camvid, "train").pairs)
    assert set(choose.read(0)[1].ravel().tolist()) <= set(range(12))


def test_camvid_with_another_class_list(tmp_path: Path) -> None:
    build(tmp_path, "camvid")
    (tmp_path / "classes.json").write_text('["road", "sky"]')
    with pytest.raises(DataError, match=r"lists \['road', 'sky'\], CamVid has \['Sky'"):
        load("camvid", tmp_path)
