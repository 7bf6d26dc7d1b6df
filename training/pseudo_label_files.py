"""Pseudo labels of a whole snapshot, one PNG per image: the targets of stage 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.atomic import write_atomically
from training.confident_labels import Confidence, confidences, fill
from training.config import PseudoLabelConfig
from training.dataset import IGNORE, candidate_rows, possible_rows, read_regions
from training.features_cache import FeatureCache
from training.inference import encode_file, model_size
from training.model import SegmentationModel
from training.one_image import OneImage
from training.pseudo_labels import expand, localise
from training.snapshot import Snapshot, SnapshotItem
from training.transforms import resize_nearest

Sure = tuple[NDArray[np.uint8], NDArray[np.uint16]]  # as `confidences` gives it


def write_pseudo_labels(
    model: SegmentationModel,
    data: Snapshot,
    config: PseudoLabelConfig,
    folder: Path,
    cache: FeatureCache | None,
    tick: Callable[[int, int], None],
    temperature: float,
) -> dict[str, Any]:
    """Label every labelled image with a stage-1 model in eval mode, at the size it works at.

    Writes `folder`/<image id>.png (uint8, 255 = no label) and returns the shares of pixels that
    are labelled and that expansion (and `config.confident`) added. `temperature` is that of
    training, for the probabilities that `config.confident` goes by.
    """
    folder.mkdir(exist_ok=True)
    model.eval()
    pixels = labelled = added = 0
    items = data.labelled
    one = OneImage(model)

    def sure(item: SnapshotItem) -> Sure:
        return _sure(one, data, item, cache, temperature)

    thresholds = None
    if config.confident:
        found = Confidence(data.num_outputs)
        for item in items:
            found.add(*sure(item))
        thresholds = found.thresholds(config.confident)
    for number, item in enumerate(items):
        labels, inside = pseudo_labels(one, data, item, config, cache)
        if thresholds is not None:
            labels = fill(labels, *sure(item), thresholds)
        image = Image.fromarray(labels)
        write_atomically(
            folder / f"{item.image_id}.png", lambda file, i=image: i.save(file, "PNG")  # type: ignore[misc]
        )  # fmt: skip
        valid = labels != IGNORE
        pixels, labelled = pixels + labels.size, labelled + int(valid.sum())
        added += int((valid & ~inside).sum())
        tick(number + 1, len(items))
    return {
        "labelled_share": round(labelled / pixels, 6),
        "expanded_share": round(added / pixels, 6),
    }


def _sure(
    one: OneImage,
    data: Snapshot,
    item: SnapshotItem,
    cache: FeatureCache | None,
    temperature: float,
) -> Sure:
    """Top class and confidence of each pixel, at the size the model works at."""

    @torch.inference_mode()
    def found(model: SegmentationModel, maps: torch.device) -> Sure:
        features, native = encode_file(model, item.image, data.file_hash(item.image), cache)
        size = model_size(model, native)
        return confidences(model.logits(features, size, size, maps)[0], temperature)

    return one.run(found)


def pseudo_labels(
    one: OneImage,
    data: Snapshot,
    item: SnapshotItem,
    config: PseudoLabelConfig,
    cache: FeatureCache | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pseudo labels (H, W) uint8 of one image and where its labelled regions are, (H, W) bool."""
    regions = read_regions(item)
    indices, table = candidate_rows(item, data.num_outputs)
    size = model_size(one.model, (regions.height, regions.width))
    ids = resize_nearest(regions.ids, size).astype(np.int64)
    candidates = np.zeros((regions.count, data.num_outputs), np.bool_)
    candidates[indices] = table
    open_ = possible_rows(item, data.num_outputs)
    visible = np.bincount(ids.ravel(), minlength=regions.count) > 0
    selected = candidates.any(axis=1) & visible  # a tiny region may vanish at the working size
    shared: dict[str, Any] = {"temperature": config.temperature, "normalise": config.normalise}
    if config.expand:
        shared |= {"threshold": config.threshold, "passing_only": config.passing_only}
        shared |= {"conflicts": config.conflicts}
        if data.undefined and not config.expand_undefined:
            shared["undefined"] = len(data.classes)

    @torch.inference_mode()
    def found(model: SegmentationModel, maps: torch.device) -> NDArray[np.uint8]:
        features, _ = encode_file(model, item.image, data.file_hash(item.image), cache)
        logits, points = model.decode(features, size, maps=maps)
        allowed = candidates.copy()
        if open_ is not None:
            allowed[indices] |= _likely(logits[0], ids, indices, table, open_)
        arrays = (torch.from_numpy(a).to(logits.device) for a in (ids, allowed, selected))
        labels = (expand if config.expand else localise)(points[0], logits[0], *arrays, **shared)
        return np.asarray(labels.cpu().numpy(), np.uint8)

    return one.run(found), selected[ids]


def _likely(
    logits: Tensor,
    ids: NDArray[np.int64],
    indices: list[int],
    ticked: NDArray[np.bool_],
    possible: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Of the classes that an answer leaves open, those likeliest somewhere in its region, (R, K).

    A prototype labels at least its own pixel; one of a class that the model sees nowhere would put
    that class into every region.
    """
    found = np.zeros_like(possible)
    rows = np.full(int(ids.max(initial=0)) + 1, -1)
    rows[[i for i in indices if i < len(rows)]] = [
        row for row, i in enumerate(indices) if i < len(rows)
    ]
    row_of = rows[ids.ravel()]
    inside = np.flatnonzero(row_of >= 0)
    allowed = torch.from_numpy(ticked | possible)[row_of[inside]].to(logits.device).T
    columns = torch.from_numpy(inside).to(logits.device)
    values = logits.reshape(logits.shape[0], -1).index_select(1, columns)
    best = values.masked_fill(~allowed, -torch.inf).argmax(0).cpu().numpy()
    found[row_of[inside], best] = True
    return found & possible
