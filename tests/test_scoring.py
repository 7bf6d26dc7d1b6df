"""Pool scores: one pass, the stage-1 model, stable names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_helpers import grid, tiny_config, tiny_snapshot, write_pool

from training.acquisition import ACQUISITIONS
from training.config import AcquisitionConfig, TrainConfig
from training.errors import DataError, PoolExhausted
from training.images import read_image
from training.inference import encode_array, model_size
from training.pool_scores import PoolScores
from training.regions import RegionMap
from training.rounds import run_round
from training.scoring import PoolImage, score_pool
from training.versions import Version, load_model


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[PoolImage]:
    folder = tmp_path_factory.mktemp("pool")
    images = [PoolImage(name, image, regions) for name, image, regions, _ in write_pool(folder, 3)]
    # Another size and number of regions in the same pool.
    Image.fromarray(np.zeros((19, 70, 3), np.uint8)).save(folder / "wide.png")
    grid(19, 70).save(folder / "wide.npz")
    return [*images, PoolImage("wide", folder / "wide.png", folder / "wide.npz")]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    folder = tmp_path_factory.mktemp("round")
    return run_round(tiny_snapshot(folder).path, tiny_config(), folder / "v1")


def with_acquisition(**values: object) -> TrainConfig:
    return tiny_config(acquisition=AcquisitionConfig(**values))  # type: ignore[arg-type]


def test_pixbal_by_hand(version: Version, pool: list[PoolImage]) -> None:
    """mean_x u(x) (1 + nu P(c*))^-2, written out for each region, P over the whole pool."""
    scores = score_pool(version, pool, tiny_config(), seed=0)
    model = load_model(version, which="stage1")
    probabilities = {}
    for image in pool:
        pixels = read_image(image.image)
        native = (pixels.shape[0], pixels.shape[1])
        with torch.no_grad():
            features = encode_array(model, pixels)
            logits = model.logits(features, native, model_size(model, native))
        probabilities[image.image_id] = (logits[0].double() / 0.1).softmax(0).numpy()
    everything = np.concatenate([p.reshape(3, -1) for p in probabilities.values()], axis=1)
    weight = (1 + 6 * everything.mean(axis=1)) ** -2
    for image in pool:
        ids = RegionMap.load(image.regions).ids
        p = probabilities[image.image_id]
        ordered = np.sort(p, axis=0)
        value = (ordered[-2] / ordered[-1] + 1e-8) * weight[p.argmax(axis=0)]
        own = scores.images[image.image_id]
        for region in range(ids.max() + 1):
            inside = ids == region
            top = np.bincount(p.argmax(axis=0)[inside], minlength=3)
            expected = 0.0 if top.argmax() == 2 else value[inside].mean()
            assert own.score[region] == pytest.approx(expected, rel=1e-4)
            np.testing.assert_allclose(own.presence[region], top / top.sum(), atol=1e-3)
            assert own.expected_clicks[region] == max(1, (top / top.sum() >= 0.15).sum())


def test_order_of_the_pool_changes_nothing(version: Version, pool: list[PoolImage]) -> None:
    one = score_pool(version, pool, tiny_config(), seed=0)
    two = score_pool(version, pool[::-1], tiny_config(), seed=0)
    assert list(one.images) == list(two.images)
    for name in one.images:
        np.testing.assert_array_equal(one.images[name].score, two.images[name].score)


@pytest.mark.parametrize("name", sorted(ACQUISITIONS))
def test_every_acquisition_scores_the_pool(
    version: Version, pool: list[PoolImage], name: str
) -> None:
    scores = score_pool(version, pool, with_acquisition(name=name), seed=3)
    assert (scores.version, scores.acquisition) == ("v1", name)
    for image in pool:
        own = scores.images[image.image_id]
        count = RegionMap.load(image.regions).count
        assert own.score.shape == own.expected_clicks.shape == (count,)
        assert own.presence.shape == (count, 3)
        assert np.isfinite(own.score).all()


def test_stage1_asks_unless_told_otherwise(version: Version, pool: list[PoolImage]) -> None:
    default = score_pool(version, pool, tiny_config(), seed=0)
    stage1 = score_pool(version, pool, with_acquisition(model="stage1"), seed=0)
    final = score_pool(version, pool, with_acquisition(model="final"), seed=0)
    name = pool[0].image_id
    np.testing.assert_array_equal(default.images[name].score, stage1.images[name].score)
    assert not np.array_equal(default.images[name].score, final.images[name].score)


def test_score_per_expected_click(version: Version, pool: list[PoolImage]) -> None:
    plain = score_pool(version, pool, with_acquisition(), seed=0)
    name = pool[0].image_id
    for power in (0.5, 1.0):
        scores = score_pool(version, pool, with_acquisition(per_click=power), seed=0).images[name]
        expected = plain.images[name].score / scores.expected_clicks**power
        np.testing.assert_allclose(scores.score, expected, rtol=1e-6)
    assert (plain.images[name].expected_clicks > 1).any()


def test_cached_features_score_alike(
    version: Version, pool: list[PoolImage], tmp_path: Path
) -> None:
    plain = score_pool(version, pool, tiny_config(), seed=0)
    for _ in range(2):  # written, then read
        cached = score_pool(version, pool, tiny_config(), seed=0, cache_dir=tmp_path)
        for name, own in plain.images.items():
            np.testing.assert_allclose(cached.images[name].score, own.score, atol=0.02)
    for file in tmp_path.rglob("*.features"):
        file.write_bytes(file.read_bytes()[:-1])
    again = score_pool(version, pool, tiny_config(), seed=0, cache_dir=tmp_path)
    for name, own in cached.images.items():
        np.testing.assert_array_equal(again.images[name].score, own.score)


def test_a_region_lost_in_shrinking_cannot_be_asked(
    version: Version, pool: list[PoolImage]
) -> None:
    scores = score_pool(version, pool, with_acquisition(max_pixels=4), seed=0)
    for own in scores.images.values():
        assert np.isfinite(own.score).sum() <= 4
        assert np.isnan(own.score).any()


def test_before_the_first_version_at_random(pool: list[PoolImage]) -> None:
    one = score_pool(None, pool, tiny_config(), seed=5)
    part = score_pool(None, pool[1:2], tiny_config(), seed=5)
    other = score_pool(None, pool, tiny_config(), seed=6)
    assert (one.version, one.acquisition) == (None, "random")
    name = pool[1].image_id
    np.testing.assert_array_equal(one.images[name].score, part.images[name].score)
    assert not np.array_equal(one.images[name].score, other.images[name].score)
    assert not np.array_equal(one.images["scene0"].score, one.images["scene1"].score)
    for own in one.images.values():
        assert ((own.score >= 0) & (own.score < 1)).all()
        assert own.expected_clicks == pytest.approx(np.full(len(own.score), 1.4))
        assert own.presence.shape == (len(own.score), 0)


def test_progress_and_stop(version: Version, pool: list[PoolImage], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tick = lambda *step: seen.append(step)  # noqa: E731
    score_pool(version, pool, tiny_config(), 0, tmp_path / "a.npz", tick)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done: int, images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_pool(version, pool, tiny_config(), 0, tmp_path / "b.npz", stop)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert PoolScores.load(tmp_path / "a.npz").version == "v1"


def test_bad_pools(version: Version, pool: list[PoolImage]) -> None:
    with pytest.raises(PoolExhausted):
        score_pool(version, [], tiny_config(), seed=0)
    with pytest.raises(DataError, match="twice"):
        score_pool(version, [pool[0], pool[0]], tiny_config(), seed=0)
    with pytest.raises(DataError, match="region map of scene0 has size"):
        score_pool(version, [replace(pool[0], regions=pool[3].regions)], tiny_config(), seed=0)
