"""Pseudo labels of a whole snapshot, one PNG per image: the targets of stage 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.atomic import write_atomically
from training.confident_labels import Confidence, confidences, fill
from training.config import PseudoLabelConfig
from training.dataset import IGNORE, candidate_rows, read_regions
from training.features_cache import FeatureCache
from training.inference import encode_file, model_size
from training.model import SegmentationModel
from training.pseudo_labels import expand, localise
from training.snapshot import Snapshot, SnapshotItem
from training.transforms import resize_nearest


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
    thresholds = _thresholds(model, data, config, cache, temperature) if config.confident else None
    for number, item in enumerate(items):
        labels, inside = pseudo_labels(model, data, item, config, cache)
        if thresholds is not None:
            labels = fill(labels, *_sure(model, data, item, cache, temperature), thresholds)
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


def _thresholds(
    model: SegmentationModel,
    data: Snapshot,
    config: PseudoLabelConfig,
    cache: FeatureCache | None,
    temperature: float,
) -> NDArray[np.int64]:
    found = Confidence(data.num_outputs)
    for item in data.labelled:
        found.add(*_sure(model, data, item, cache, temperature))
    return found.thresholds(config.confident)


def _sure(
    model: SegmentationModel,
    data: Snapshot,
    item: SnapshotItem,
    cache: FeatureCache | None,
    temperature: float,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Top class and confidence of each pixel, at the size the model works at."""
    with torch.inference_mode():
        features, native = encode_file(model, item.image, data.file_hash(item.image), cache)
        size = model_size(model, native)
        return confidences(model.logits(features, size, size)[0], temperature)


def pseudo_labels(
    model: SegmentationModel,
    data: Snapshot,
    item: SnapshotItem,
    config: PseudoLabelConfig,
    cache: FeatureCache | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pseudo labels (H, W) uint8 of one image and where its labelled regions are, (H, W) bool."""
    regions = read_regions(item)
    indices, table = candidate_rows(item, data.num_outputs)
    size = model_size(model, (regions.height, regions.width))
    ids = resize_nearest(regions.ids, size).astype(np.int64)
    candidates = np.zeros((regions.count, data.num_outputs), np.bool_)
    candidates[indices] = table
    visible = np.bincount(ids.ravel(), minlength=regions.count) > 0
    selected = candidates.any(axis=1) & visible  # a tiny region may vanish at the working size
    with torch.inference_mode():
        features, _ = encode_file(model, item.image, data.file_hash(item.image), cache)
        logits, points = model.decode(features, size)
        device = logits.device
        arrays = (torch.from_numpy(a).to(device) for a in (ids, candidates, selected))
        shared: dict[str, Any] = {"temperature": config.temperature, "normalise": config.normalise}
        if config.expand:
            shared |= {"threshold": config.threshold, "passing_only": config.passing_only}
            shared |= {"conflicts": config.conflicts}
            if data.undefined and not config.expand_undefined:
                shared["undefined"] = len(data.classes)
        labels = (expand if config.expand else localise)(points[0], logits[0], *arrays, **shared)
    return np.asarray(labels.cpu().numpy(), np.uint8), selected[ids]
