"""Scores for every region of a pool, from one network pass (arXiv 2309.09319, Sec. 3.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from training.acquisition import (
    RegionStatistics,
    acquisition,
    expected_clicks,
    presence,
    region_statistics,
)
from training.config import AcquisitionConfig, TrainConfig
from training.device import pick_device, torch_threads
from training.errors import DataError, PoolExhausted
from training.features_cache import FeatureCache
from training.files import file_sha256
from training.gpu_memory import placed
from training.inference import bounded_size, encode_file, model_size
from training.model import SegmentationModel
from training.one_image import OneImage
from training.pool_scores import ImageScores, PoolScores
from training.regions import RegionMap
from training.transforms import resize_nearest
from training.versions import Version, load_model

Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class PoolImage:
    """An image whose regions may be asked about."""

    image_id: str
    image: Path
    regions: Path


def score_pool(
    version: Version | None,
    pool: Sequence[PoolImage],
    config: TrainConfig,
    seed: int,
    out: Path | None = None,
    progress: Tick | None = None,
    cache_dir: Path | None = None,
) -> PoolScores:
    """Score all regions of `pool` by `config.acquisition`; NaN for a region without pixels.

    `version` None, before the first: uniform random. Otherwise the stage-1 model of the version
    asks, as in the paper, or the final one. `progress` gets (images done, images) and may raise to
    stop. `out` stores the scores; `cache_dir` shares features of a frozen encoder with training.

    Raises:
        PoolExhausted: no image in the pool.
        DataError: an image id occurs twice, or a region map does not fit its image.
        CheckpointError: the version's weights are damaged.
        OutOfMemory: an image fits neither into the GPU's memory nor through the CPU.
    """
    pool = sorted(pool, key=lambda image: image.image_id)
    if not pool:
        raise PoolExhausted("The pool has no image to score.", hint="Import more images.")
    if len({image.image_id for image in pool}) < len(pool):
        raise DataError("An image id occurs twice in the pool.", hint="Name each image once.")
    settings = config.acquisition
    if version is None:
        images = {image.image_id: _drawn(image, settings, seed) for image in pool}
        scores = PoolScores(images, None, "random")
    else:
        with torch_threads(config.threads):
            images = _scored(version, pool, config, seed, progress, cache_dir)
        scores = PoolScores(images, version.name, settings.name)
    if out is not None:
        scores.save(out)
    return scores


def _drawn(image: PoolImage, settings: AcquisitionConfig, seed: int) -> ImageScores:
    """Random scores that an image keeps, whatever else is in the pool."""
    count = RegionMap.load(image.regions).count
    words = np.frombuffer(hashlib.sha256(image.image_id.encode()).digest(), np.uint32)
    rng = np.random.default_rng([seed, *words.tolist()])
    return ImageScores(
        rng.random(count),
        np.full(count, settings.prior_clicks, np.float32),
        np.zeros((count, 0), np.float16),
    )


def _scored(
    version: Version,
    pool: Sequence[PoolImage],
    config: TrainConfig,
    seed: int,
    progress: Tick | None,
    cache_dir: Path | None,
) -> dict[str, ImageScores]:
    settings = config.acquisition
    model = load_model(version, "cpu", settings.model).to(memory_format=torch.channels_last)
    model = placed(model, pick_device(config.device))
    one = OneImage(model)
    cache = FeatureCache(cache_dir, model) if cache_dir and model.config.frozen_encoder else None
    parts = []
    for number, image in enumerate(pool):
        parts.append(_statistics(one, image, settings, cache))
        if progress is not None:
            progress(number + 1, len(pool))
    statistics = _stacked(parts)
    undefined = version.num_outputs - 1 if version.undefined else None
    clicks = expected_clicks(statistics, settings.min_share).numpy()
    score = acquisition(settings.name)(statistics, settings.nu, undefined, seed=seed).numpy()
    score = score / clicks**settings.per_click
    shares = presence(statistics).numpy()
    counts = [part.pixels.shape[1] for part in parts]
    return {
        image.image_id: ImageScores(
            score[i, :count].astype(np.float64),
            clicks[i, :count].astype(np.float32),
            shares[i, :count].astype(np.float16),
        )
        for i, (image, count) in enumerate(zip(pool, counts, strict=True))
    }


def _statistics(
    one: OneImage, image: PoolImage, settings: AcquisitionConfig, cache: FeatureCache | None
) -> RegionStatistics:
    """One image at its native size, up to `max_pixels`; on the CPU."""
    regions = RegionMap.load(image.regions)
    sha256 = None if cache is None else file_sha256(image.image)

    @torch.inference_mode()
    def found(model: SegmentationModel, maps: torch.device) -> RegionStatistics:
        features, native = encode_file(model, image.image, sha256, cache)
        if native != (regions.height, regions.width):
            raise DataError(
                f"The region map of {image.image_id} has size {regions.ids.shape}, its image "
                f"{native}.",
                hint="Make the superpixels again from this image.",
            )
        size = bounded_size(native, settings.max_pixels)
        logits = model.logits(features, size, model_size(model, native), maps)
        ids = torch.tensor(resize_nearest(regions.ids, size), device=logits.device)
        return region_statistics(
            logits,
            ids[None].long(),
            regions.count,
            settings.temperature,
            entropy=settings.name == "entropy",
        ).to("cpu")

    return one.run(found)


def _stacked(parts: Sequence[RegionStatistics]) -> RegionStatistics:
    """`RegionStatistics.merge` of all, without copying the first ones again for each later one."""
    regions = max(part.pixels.shape[1] for part in parts)

    def join(tensors: list[torch.Tensor]) -> torch.Tensor:
        filled = [F.pad(t, (0, 0, 0, regions - t.shape[1])) for t in tensors]
        return torch.cat(filled)

    entropies = [p.entropy_sum[..., None] for p in parts if p.entropy_sum is not None]
    means = [p.batch_mean_sum for p in parts if p.batch_mean_sum is not None]
    return RegionStatistics(
        bvsb_sum=join([part.bvsb_sum for part in parts]),
        pixels=join([part.pixels for part in parts]),
        probability_sum=torch.stack([part.probability_sum for part in parts]).sum(0),
        n_pixels=sum(part.n_pixels for part in parts),
        entropy_sum=join(entropies)[..., 0] if len(entropies) == len(parts) else None,
        batch_mean_sum=torch.stack(means).sum(0) if len(means) == len(parts) else None,
        n_batches=sum(part.n_batches for part in parts),
    )
