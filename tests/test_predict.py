"""Whole images segmented."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_helpers import CLASSES, scene, tiny_config, write_pool

from training.config import ModelConfig, StageConfig
from training.errors import DataError, ImageError
from training.model import SegmentationModel, build
from training.predict import MAX_PIXELS, VOID, evaluate, predict_mask
from training.regions import RegionMap
from training.rounds import run_round
from training.snapshot import HeldoutItem, SnapshotItem, write_snapshot
from training.versions import load_model


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    config = ModelConfig(weights="none", short_side=32, head_channels=8, low_level_channels=4)
    return build(config, 3, undefined=True)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 47), (480, 20)])
def test_native_size(model: SegmentationModel, size: tuple[int, int]) -> None:
    mask = predict_mask(model, np.zeros((*size, 3), np.uint8))
    assert mask.shape == size
    assert mask.dtype == np.uint8


@pytest.fixture
def unsure_model(model: SegmentationModel) -> SegmentationModel:
    """Its undefined output, "something else", wins at every pixel."""
    model = copy.deepcopy(model)
    with torch.no_grad():  # features are not negative: minus their mean is far from all of them
        points = model.head(model.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)))
        model.head.classifier.weight[:] = -points.mean((0, 2, 3)) - 1e-3
        model.head.classifier.weight[2] *= -1
        logits, _ = model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert (logits.argmax(1) == 2).all()
    return model


def test_something_else_is_drawn_as_no_class(unsure_model: SegmentationModel) -> None:
    mask = predict_mask(unsure_model, np.zeros((32, 32, 3), np.uint8))
    assert np.unique(mask).tolist() == [VOID]


def test_scores_take_the_best_class_where_something_else_wins(
    unsure_model: SegmentationModel, tmp_path: Path
) -> None:
    """mIoU is of the classes alone, as in the paper: held-out masks know no "something else"."""
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    image = np.zeros((32, 32, 3), np.uint8)
    with torch.no_grad():
        logits, _ = unsure_model(torch.from_numpy(image).permute(2, 0, 1)[None])
    best = logits[0, :2].argmax(0).numpy().astype(np.uint8)
    Image.fromarray(best).save(tmp_path / "mask.png")
    item = HeldoutItem("image", tmp_path / "image.png", tmp_path / "mask.png")
    scores = evaluate(unsure_model, [item], lambda _: "")
    assert scores.miou == 1
    assert scores.pixel_accuracy == 1


def test_huge_images_are_bounded_in_memory(model: SegmentationModel) -> None:
    size = (1000, 5000)
    assert size[0] * size[1] > MAX_PIXELS
    assert predict_mask(model, np.zeros((*size, 3), np.uint8)).shape == size


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_bad_image(model: SegmentationModel, image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="RGB image"):
        predict_mask(model, image)


def test_heldout_scores(model: SegmentationModel, tmp_path: Path) -> None:
    name, image, _, _ = write_pool(tmp_path, 1)[0]
    predicted = predict_mask(model, scene(0)[0])
    Image.fromarray(predicted).save(tmp_path / "same.png")
    item = HeldoutItem(name, image, tmp_path / "same.png")
    assert evaluate(model, [item], lambda _: "").miou == 1
    assert math.isnan(evaluate(model, [], lambda _: "").miou)
    Image.fromarray(predicted[:-1]).save(tmp_path / "short.png")
    with pytest.raises(DataError, match="same size"):
        evaluate(model, [HeldoutItem(name, image, tmp_path / "short.png")], lambda _: "")


def test_a_trained_model_tells_grass_from_brick(tmp_path: Path) -> None:
    """Pretrained features, a few labelled squares, a minute's work in miniature."""
    pool = write_pool(tmp_path / "pool", 6)
    items = []
    for name, image, regions, mask in pool[:4]:
        ids, truth = RegionMap.load(regions).ids, np.asarray(Image.open(mask))
        labels = {i: np.unique(truth[ids == i]).tolist() for i in range(0, ids.max() + 1, 3)}
        items.append(SnapshotItem(name, image, regions, labels))
    heldout = [HeldoutItem(name, image, mask) for name, image, _, mask in pool[4:]]
    snapshot = write_snapshot(
        tmp_path / "s", classes=CLASSES, undefined=False, items=items, heldout=heldout
    )
    stage = StageConfig(lr=1e-3, epochs=1, steps_per_epoch=25, batch_size=4)
    model = ModelConfig(short_side=64, head_channels=16, low_level_channels=8)
    version = run_round(
        snapshot.path, tiny_config(model=model, stage1=stage, stage2=stage), tmp_path / "v"
    )
    assert version.metrics["stage1_miou"] > 0.8
    assert version.metrics["miou"] > 0.8
    image, mask = scene(17)
    assert (predict_mask(load_model(version), image) == mask).mean() > 0.8
