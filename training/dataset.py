"""Snapshot -> batches: images or cached features with region rows (stage 1) or labels (stage 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.config import AugmentConfig
from training.errors import SnapshotError
from training.features_cache import FeatureCache
from training.images import ACCEPTED_PIXELS, image_size, read_image, read_mask
from training.memo import Memo
from training.regions import RegionMap
from training.snapshot import Snapshot, SnapshotItem
from training.transforms import augment, resize_image, resize_nearest, working_size

UNLABELLED = -1  # region row of a pixel outside labelled regions and outside the image
IGNORE = 255  # pseudo label of a pixel without one
MEMORY_BYTES = 512 * 1024**2  # of decoded images and of targets, each

Integers = NDArray[Any]


@dataclass(frozen=True)
class Sample:
    """One training image with its target map, (H, W) integers at native or working size.

    In stage 1 the map holds rows of `candidates` (R, K) bool, and of `possible`, the classes that
    the answers say nothing about, if there are any; in stage 2 both are None.
    """

    image: Path
    sha256: str
    target: Callable[[], Integers]
    candidates: NDArray[np.bool_] | None = None
    possible: NDArray[np.bool_] | None = None

    @property
    def fill(self) -> int:
        """What target pixels outside the image are set to."""
        return IGNORE if self.candidates is None else UNLABELLED


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W) uint8 or cached features, and targets (B, H, W) int64."""

    images: Tensor | None
    features: list[Tensor] | None
    targets: Tensor
    candidates: Tensor | None  # (R, K) bool over the whole batch
    labelled: bool  # any pixel to learn from
    possible: Tensor | None = None  # (R, K) bool, as the candidates; None: nothing is left open

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the targets in px."""
        return int(self.targets.shape[1]), int(self.targets.shape[2])

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            None if self.images is None else move(self.images),
            None if self.features is None else [move(f) for f in self.features],
            move(self.targets),
            None if self.candidates is None else move(self.candidates),
            self.labelled,
            None if self.possible is None else move(self.possible),
        )


class Source(Protocol):
    """Yields training batches; `rngs` has one generator per sample, so threads change nothing."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> Batch: ...


class ImageSource:
    """Augmented images, for training end to end."""

    def __init__(
        self, samples: Sequence[Sample], config: AugmentConfig, short_side: int | None
    ) -> None:
        self.samples, self.config, self.short_side = samples, config, short_side
        self._pairs: Memo[tuple[NDArray[np.uint8], Integers]] = Memo(
            MEMORY_BYTES, lambda pair: pair[0].nbytes + pair[1].nbytes
        )

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> Batch:
        """Scaled, cropped, flipped samples."""
        samples = [self.samples[i] for i in indices]
        images, targets = [], []
        for index, sample, rng in zip(indices, samples, rngs, strict=True):
            image, target = self._pairs.get(index, lambda s=sample: self._read(s))  # type: ignore[misc]
            image, target = augment(image, target, sample.fill, self.config, rng)
            images.append(torch.from_numpy(image).permute(2, 0, 1))
            targets.append(target)
        return _collate(samples, targets, images=torch.stack(images))

    def _read(self, sample: Sample) -> tuple[NDArray[np.uint8], Integers]:
        image = read_image(sample.image, ACCEPTED_PIXELS)
        size = working_size((image.shape[0], image.shape[1]), self.short_side)
        return resize_image(image, size), resize_nearest(sample.target(), size)


class FeatureSource:
    """Cached features of a frozen encoder, flipped at random, whole images."""

    def __init__(self, samples: Sequence[Sample], config: AugmentConfig, cache: FeatureCache):
        self.samples, self.config, self.cache = samples, config, cache
        self._targets: Memo[Integers] = Memo(MEMORY_BYTES, lambda target: target.nbytes)

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> Batch:
        """Whole images; smaller ones are filled up at the right and below."""
        samples = [self.samples[i] for i in indices]
        flips = [bool(rng.random() < self.config.hflip) for rng in rngs]
        features = [
            self.cache.get(sample.image, sample.sha256, flip)
            for sample, flip in zip(samples, flips, strict=True)
        ]
        stacked = [_stack_padded(maps) for maps in zip(*features, strict=True)]
        height, width = (4 * side for side in stacked[0].shape[-2:])
        targets = []
        for index, sample, flip in zip(indices, samples, flips, strict=True):
            target = self._target(index, sample)
            target = target[:, ::-1] if flip else target
            filled = np.full((height, width), sample.fill, target.dtype)
            filled[: target.shape[0], : target.shape[1]] = target
            targets.append(filled)
        return _collate(samples, targets, features=stacked)

    def _target(self, index: int, sample: Sample) -> Integers:
        def compute() -> Integers:
            target = sample.target()
            size = working_size((target.shape[0], target.shape[1]), self.cache.short_side)
            return resize_nearest(target, size)

        return self._targets.get(index, compute)


def _stack_padded(maps: Sequence[Tensor]) -> Tensor:
    height, width = (max(m.shape[axis] for m in maps) for axis in (1, 2))
    return torch.stack(
        [F.pad(m, (0, width - m.shape[2], 0, height - m.shape[1])) for m in maps]
    ).float()


def _collate(
    samples: Sequence[Sample],
    targets: Sequence[Integers],
    images: Tensor | None = None,
    features: list[Tensor] | None = None,
) -> Batch:
    """Stack; rows of candidates are numbered on from sample to sample."""
    maps = torch.from_numpy(np.stack(targets).astype(np.int64))
    tables = [s.candidates for s in samples if s.candidates is not None]
    if not tables:
        return Batch(images, features, maps, None, bool((maps != IGNORE).any()))
    offset = 0
    for map_, table in zip(maps, tables, strict=True):
        map_[map_ >= 0] += offset
        offset += len(table)
    candidates = torch.from_numpy(np.concatenate(tables))
    possible = None
    if any(s.possible is not None for s in samples):
        rows = [
            np.zeros_like(table) if s.possible is None else s.possible
            for s, table in zip(samples, tables, strict=True)
        ]
        possible = torch.from_numpy(np.concatenate(rows))
    return Batch(images, features, maps, candidates, bool((maps >= 0).any()), possible)


def region_samples(snapshot: Snapshot) -> list[Sample]:
    """Stage 1: labelled regions as rows of a candidate table; regions without class left out."""
    return [_region_sample(snapshot, item) for item in snapshot.labelled]


def candidate_rows(item: SnapshotItem, outputs: int) -> tuple[list[int], NDArray[np.bool_]]:
    """Labelled region indices, ascending, and their candidates (R, K) bool."""
    indices = [i for i, classes in sorted(item.labels.items()) if classes]
    table = np.zeros((len(indices), outputs), np.bool_)
    for row, index in enumerate(indices):
        table[row, list(item.labels[index])] = True
    return indices, table


def possible_rows(item: SnapshotItem, outputs: int) -> NDArray[np.bool_] | None:
    """By the rows of `candidate_rows`, the classes that the answer says nothing about; or None."""
    if not any(item.possible.values()):
        return None
    indices, _ = candidate_rows(item, outputs)
    table = np.zeros((len(indices), outputs), np.bool_)
    for row, index in enumerate(indices):
        table[row, list(item.possible.get(index, ()))] = True
    return table


def _region_sample(snapshot: Snapshot, item: SnapshotItem) -> Sample:
    indices, table = candidate_rows(item, snapshot.num_outputs)

    def target() -> Integers:
        regions = read_regions(item)
        row_of = np.full(regions.count, UNLABELLED, np.int32)
        row_of[indices] = np.arange(len(indices))
        rows: Integers = row_of[regions.ids]
        return rows

    possible = possible_rows(item, snapshot.num_outputs)
    return Sample(item.image, snapshot.file_hash(item.image), target, table, possible)


def read_regions(item: SnapshotItem) -> RegionMap:
    """The region map of an item; SnapshotError if it does not fit the image."""
    regions = RegionMap.load(item.regions)
    shape = image_size(item.image, ACCEPTED_PIXELS)
    if regions.ids.shape != shape:
        raise SnapshotError(
            f"The region map of {item.image_id} has size {regions.ids.shape}, its image {shape}.",
            hint="Make the superpixels again from this image.",
        )
    return regions


def label_samples(snapshot: Snapshot, folder: Path) -> list[Sample]:
    """Stage 2: pseudo labels `folder`/<image id>.png."""
    return [
        Sample(
            item.image,
            snapshot.file_hash(item.image),
            lambda file=folder / f"{item.image_id}.png": read_mask(file, ACCEPTED_PIXELS),  # type: ignore[misc]
        )
        for item in snapshot.labelled
    ]


def epoch_indices(count: int, needed: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`needed` sample indices: whole random permutations of 0..count-1, one after the other."""
    rounds = -(-needed // count)
    return np.concatenate([rng.permutation(count) for _ in range(rounds)])[:needed]


def epoch_batches(
    source: Source, seed: Sequence[int], steps: int, batch_size: int, threads: int = 0
) -> Iterator[Batch]:
    """The batches of one epoch, decided by `seed` alone; `threads` prepare them ahead."""
    order = epoch_indices(len(source), steps * batch_size, np.random.default_rng(list(seed)))

    def make(step: int) -> Batch:
        chosen = order[step * batch_size : (step + 1) * batch_size].tolist()
        rngs = [np.random.default_rng([*seed, step, slot]) for slot in range(batch_size)]
        return source.batch(chosen, rngs)

    if threads == 0:
        yield from map(make, range(steps))
        return
    pool = ThreadPoolExecutor(threads)
    try:
        ahead: list[Future[Batch]] = []
        for step in range(steps + 2 * threads):
            if step < steps:
                ahead.append(pool.submit(make, step))
            if step >= 2 * threads:
                yield ahead.pop(0).result()
    finally:
        pool.shutdown(cancel_futures=True)
