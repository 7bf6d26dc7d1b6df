"""The simulated annotator: what each region costs in clicks, and what its answer teaches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.images import read_mask
from training.oracle import dominant_targets, region_targets
from training.oracle_noise import noisy_answers, noisy_choices
from training.regions import RegionMap
from training.simulate_config import DataConfig, Method
from training.simulate_data import VOID, PoolEntry
from training.snapshot import SnapshotItem
from training.transforms import resize_nearest, working_size

# A drawn border costs a click every so many px of it (an assumption, as with polygons), and every
# class of the region one more.
BORDER_PX_PER_CLICK = 10

Labels = dict[int, tuple[int, ...]]
Learn = Callable[[Sequence[int]], tuple[RegionMap | None, Labels]]


@dataclass(frozen=True)
class Annotator:
    """Answers of one image: clicks (R,) int64 by region.

    `learn(asked)` gives the labels of regions that were asked about, and the region map they are
    on where it is not the one that was asked about.
    """

    clicks: NDArray[np.int64]
    learn: Learn


@dataclass(frozen=True)
class _Truth:
    """What an annotator looks at."""

    mask: NDArray[np.uint8]
    regions: RegionMap
    classes: tuple[str, ...]
    config: DataConfig
    method: Method
    short_side: int | None
    rng: np.random.Generator

    @property
    def column(self) -> int:
        """Index of "something else"; -1 where void is no answer."""
        return len(self.classes) if self.config.undefined else -1


def annotator(
    entry: PoolEntry,
    regions: Path,
    classes: tuple[str, ...],
    config: DataConfig,
    method: Method,
    seed: int,
    short_side: int | None,
) -> Annotator:
    """The annotator of a method for one image; errors and pixels follow from `seed` and image.

    Raises: DataError if mask and region map differ in size, ConfigError for noise about an unknown
    class.
    """
    words = np.frombuffer(hashlib.sha256(entry.image_id.encode()).digest(), np.uint32)
    rng = np.random.default_rng([seed, *words.tolist()])
    mask, region_map = read_mask(entry.mask), RegionMap.load(regions)
    truth = _Truth(mask, region_map, classes, config, method, short_side, rng)
    return ANNOTATORS[method.query](truth)


def snapshot_item(
    entry: PoolEntry, regions: Path, answers: Annotator, asked: Sequence[int], folder: Path
) -> SnapshotItem:
    """Labels of an image for a snapshot; a region map of its own is written to `folder`."""
    changed, labels = answers.learn(asked)
    if changed is not None:
        folder.mkdir(parents=True, exist_ok=True)
        regions = folder / f"{entry.image_id}.npz"
        changed.save(regions)
    return SnapshotItem(entry.image_id, entry.image, regions, labels)


def full_item(entry: PoolEntry, folder: Path) -> SnapshotItem:
    """Every pixel labelled with its class, void left out: what full supervision learns from."""
    mask = read_mask(entry.mask)
    classes, pieces = np.unique(mask, return_inverse=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{entry.image_id}.npz"
    ids = pieces.reshape(mask.shape).astype(np.int32)
    RegionMap(ids, len(classes), "mask", {}).save(path)
    labels = {i: (int(c),) for i, c in enumerate(classes) if c != VOID}
    return SnapshotItem(entry.image_id, entry.image, path, labels)


def _multi(truth: _Truth) -> Annotator:
    """Every class of the region, a click each."""
    config, classes = truth.config, len(truth.classes)
    least = truth.method.min_share
    targets = region_targets(
        truth.mask, truth.regions, classes, void=VOID, undefined=config.undefined,
        trim=config.trim, min_share=config.min_share if least is None else least,
    )  # fmt: skip
    if not truth.method.noise.none:
        main = _main(targets, truth)
        targets = noisy_answers(targets, main, truth.method.noise, truth.classes, truth.rng)
    return _ticked(targets)


def _dominant(truth: _Truth) -> Annotator:
    """The class of most pixels, one click."""
    targets = dominant_targets(
        truth.mask, truth.regions, len(truth.classes), void=VOID, undefined=truth.config.undefined
    )
    if not truth.method.noise.none:
        targets = noisy_choices(targets, truth.method.noise, truth.classes, truth.rng)
    return _ticked(targets)


def _ticked(targets: NDArray[np.uint8]) -> Annotator:
    def learn(asked: Sequence[int]) -> tuple[None, Labels]:
        return None, {i: tuple(np.flatnonzero(targets[i]).tolist()) for i in asked}

    # Where no choice fits, "Can't tell" is what is left to press: cost without a label.
    return Annotator(np.maximum(targets.sum(axis=1), 1).astype(np.int64), learn)


def _main(targets: NDArray[np.uint8], truth: _Truth) -> NDArray[np.int64]:
    """Of the ticked classes the one with most pixels, (R,); -1 where nothing is ticked."""
    columns = targets.shape[1]
    values = np.minimum(truth.mask, columns).astype(np.int64)
    if truth.config.undefined:
        values = np.where(truth.mask == VOID, columns - 1, values)
    keys = truth.regions.ids.astype(np.int64) * (columns + 1) + values
    counts = np.bincount(keys.ravel(), minlength=truth.regions.count * (columns + 1))
    pixels = (counts.reshape(-1, columns + 1)[:, :columns] + 1) * targets
    main: NDArray[np.int64] = np.where(targets.any(axis=1), pixels.argmax(axis=1), -1)
    return main


def _mask(truth: _Truth) -> Annotator:
    """The exact mask inside the region: a click per class and per stretch of border."""
    ids, mask = truth.regions.ids.astype(np.int64), truth.mask
    pieces = np.unique(ids * 256 + mask)
    classes = np.bincount(pieces // 256, minlength=truth.regions.count)
    border = np.zeros(truth.regions.count, np.int64)
    for a, b in (((slice(1, None),), (slice(None, -1),)),
                 ((slice(None), slice(1, None)), (slice(None), slice(None, -1)))):  # fmt: skip
        inside = (ids[a] == ids[b]) & (mask[a] != mask[b])
        border += np.bincount(ids[a][inside], minlength=truth.regions.count)
    clicks = classes + -(-border // BORDER_PX_PER_CLICK)

    def learn(asked: Sequence[int]) -> tuple[RegionMap, Labels]:
        return _pieces(np.where(np.isin(ids, list(asked)), ids * 256 + mask, -1), truth)

    return Annotator(clicks.astype(np.int64), learn)


def _pixels(truth: _Truth) -> Annotator:
    """The class of one pixel drawn at random in the region, one click."""
    places = _drawn_pixels(truth)
    values = truth.mask.ravel()[places]
    columns = len(truth.classes) + truth.config.undefined
    one_hot = np.zeros((len(places), len(truth.classes) + 1), np.uint8)
    one_hot[np.arange(len(places)), np.where(values == VOID, len(truth.classes), values)] = 1
    targets: NDArray[np.uint8] = one_hot[:, :columns]
    if not truth.method.noise.none:
        targets = noisy_choices(targets, truth.method.noise, truth.classes, truth.rng)

    def learn(asked: Sequence[int]) -> tuple[RegionMap, Labels]:
        chosen = sorted(asked)
        ids = np.zeros(truth.mask.size, np.int32)
        ids[places[chosen]] = np.arange(1, len(chosen) + 1)
        labels = {
            1 + row: tuple(np.flatnonzero(targets[region]).tolist())
            for row, region in enumerate(chosen)
        }
        return RegionMap(ids.reshape(truth.mask.shape), len(chosen) + 1, "pixels", {}), labels

    return Annotator(np.ones(len(places), np.int64), learn)


def _drawn_pixels(truth: _Truth) -> NDArray[np.int64]:
    """A pixel of each region, (R,) flat positions, one that training sees at its working size."""
    flat = np.arange(truth.mask.size).reshape(truth.mask.shape)
    size = working_size((flat.shape[0], flat.shape[1]), truth.short_side)
    seen = np.unique(resize_nearest(flat, size))
    # Pixels that are not seen come last: only a region without any other falls back on them.
    rest = np.setdiff1d(flat.ravel(), seen, assume_unique=True)
    order = np.concatenate([truth.rng.permutation(seen), rest])
    first: NDArray[np.int64] = np.unique(truth.regions.ids.ravel()[order], return_index=True)[1]
    places: NDArray[np.int64] = order[first].astype(np.int64)
    return places


def _pieces(keys: NDArray[np.int64], truth: _Truth) -> tuple[RegionMap, Labels]:
    """Every (region, class) piece as a region of its own; -1 = not asked about."""
    found, inverse = np.unique(keys, return_inverse=True)
    ids = inverse.reshape(keys.shape).astype(np.int32)
    labels: Labels = {}
    for index, key in enumerate(found.tolist()):
        value = key % 256
        if key >= 0 and (value != VOID or truth.column >= 0):
            labels[index] = (truth.column if value == VOID else value,)
    return RegionMap(ids, len(found), "mask", {}), labels


ANNOTATORS: dict[str, Callable[[_Truth], Annotator]] = {
    "multi": _multi,
    "dominant": _dominant,
    "mask": _mask,
    "pixels": _pixels,
}
