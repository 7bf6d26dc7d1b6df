"""Speed of training and scoring on made-up street scenes: where the time of a step goes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.bench_report import Row, absent, measured, timed
from training.bench_steps import PARTS, images_per_second, matmul_flops, measure_steps, step_flops
from training.bench_timing import Times, take_turns
from training.checkpoints import write_tensors
from training.config import CONFIGS, AugmentConfig, ModelConfig, TrainConfig
from training.dataset import ImageSource, Integers, Sample, epoch_batches, region_samples
from training.datasets import camvid
from training.files import file_sha256, write_json
from training.inference import encode_file, model_size
from training.model import Head, SegmentationModel, build
from training.oracle import region_targets
from training.scenes import write_scene_set
from training.scoring import PoolImage, score_pool
from training.snapshot import Snapshot, SnapshotItem, write_snapshot
from training.superpixels import default_method, segment
from training.versions import FINAL, MANIFEST, STAGE1, Version, version_manifest

NO_GPU = "no GPU here; on one: pixbal bench --only training_step"
GPU_ROWS = {
    "training, gpu config": ("images/s", "at least 270 images/s on an H100"),
    "training, gpu config: share of the GPU's matmul rate": ("%", ""),
    "training step, gpu config: losses and data loading": ("%", "at most 15 %"),
}


def training_step(quick: bool, repeats: int) -> Iterator[Row]:
    """Where the time of a step goes: the "cpu" config here, the "gpu" config on a GPU."""
    with _bench_folder(quick) as (_, snapshot):
        config = small(CONFIGS["cpu"]) if quick else CONFIGS["cpu"]
        steps = measure_steps(snapshot, config, repeats, "cpu")
        yield timed("training_step", f"step, cpu config, {_batch_title(config)}", steps.whole)
        for what, names in (("losses", ("losses",)), ("data loading", ("data",))):
            share = steps.share(*names)
            title = f"step, cpu config: {what}"
            yield measured("training_step", title, share.wall_ms, "%", cpu=share.cpu_ms)
        if not torch.cuda.is_available():
            for what, (unit, target) in GPU_ROWS.items():
                yield absent("training_step", what, unit, NO_GPU, target)
            return
    with _bench_folder(quick, (1024, 2048)) as (folder, snapshot):
        yield from gpu_rows(snapshot, CONFIGS["gpu"], repeats, "cuda", folder)
        compiled = replace(CONFIGS["gpu"], compile=True)
        yield _rate_row(snapshot, compiled, "cuda", folder, "training, gpu config, compiled")


def gpu_rows(
    snapshot: Snapshot, config: TrainConfig, repeats: int, device: str, folder: Path
) -> Iterator[Row]:
    """Images per second of the real loop, share of the peak, share of losses and loading."""
    names = list(GPU_ROWS)
    row = _rate_row(snapshot, config, device, folder, names[0])
    yield row
    per_image = step_flops(snapshot, config, device) / config.stage1.batch_size
    peak = matmul_flops(device, 8192 if device == "cuda" else 256, repeats)
    assert row.value is not None  # a rate was measured
    share = 100 * row.value * per_image / peak
    note = f"{per_image / 1e9:.3g} GFLOP an image; {peak / 1e12:.3g} TFLOP/s by a bf16 product"
    yield measured("training_step", names[1], share, "%", note=note)
    steps = measure_steps(snapshot, config, repeats, device)
    yield measured(
        "training_step", names[2], steps.share("losses", "data").wall_ms, "%", most=15.0,
        note=", ".join(f"{part} {steps.share(part).wall_ms:.1f} %" for part in PARTS),
    )  # fmt: skip


def _rate_row(snapshot: Snapshot, config: TrainConfig, device: str, folder: Path, what: str) -> Row:
    rate = images_per_second(snapshot, config, device, folder)
    note = f"{config.precision}, channels_last, {_batch_title(config)}"
    least = 270.0 if device == "cuda" and "H100" in torch.cuda.get_device_name() else -math.inf
    return measured("training_step", what, rate, "images/s", least=least, note=note)


def data_path(quick: bool, repeats: int) -> Iterator[Row]:
    """Loading of a batch by one thread against the rest of the step it feeds; decodes per image."""
    with _bench_folder(quick) as (_, snapshot):
        cached = small(CONFIGS["cpu"]) if quick else CONFIGS["cpu"]
        model = replace(cached.model, frozen_encoder=False, short_side=None)
        crops = replace(cached, model=model)
        if quick:
            crops = replace(crops, augment=AugmentConfig(crop=(32, 32)))
        for config, what in ((cached, "cached features"), (crops, "augmented crops")):
            steps = measure_steps(snapshot, config, repeats)
            data = steps.parts["data"]
            rest = Times(*(w - d for w, d in zip(steps.whole, data, strict=True)))
            title = f"batch of {what}, one loader thread, against the rest of its step"
            yield timed("data_path", title, data, rest, most_ratio=1.0, note=_batch_title(config))
        yield _decodes_row(snapshot, crops)


def _decodes_row(snapshot: Snapshot, config: TrainConfig) -> Row:
    """How often the loader reads an image and its region map in three epochs."""
    reads = 0

    def counting(sample: Sample) -> Sample:
        def target() -> Integers:
            nonlocal reads
            reads += 1
            return sample.target()

        return replace(sample, target=target)

    samples = [counting(sample) for sample in region_samples(snapshot)]
    source = ImageSource(samples, config.augment, config.model.short_side)
    for epoch in range(3):
        for _ in epoch_batches(source, (0, epoch), len(samples), 2):
            pass
    what = "image and region map read, times per image in three epochs"
    return measured("data_path", what, reads / len(samples), "", most=1.0)


def scoring(quick: bool, repeats: int) -> Iterator[Row]:
    """Network passes per image of pool scoring, and what it takes beside the network."""
    with _bench_folder(quick) as (folder, snapshot):
        config = replace(small(CONFIGS["cpu"]) if quick else CONFIGS["cpu"], device="cpu")
        model = build(config.model, snapshot.num_outputs, True, seed=0)
        version = publish_untrained(folder / "version", model, snapshot, config)
        pool = [PoolImage(i.image_id, i.image, i.regions) for i in snapshot.items]
        with count_calls((type(model.encoder), Head)) as calls:
            score_pool(version, pool, config, seed=0)
        passes = max(calls.values()) / len(pool)
        yield measured("scoring", "network passes per image", passes, "", most=1.0)
        model.to(memory_format=torch.channels_last)

        def network() -> None:
            with torch.inference_mode():
                for image in pool:
                    features, size = encode_file(model, image.image)
                    model.logits(features, size, model_size(model, size))

        ours, bare = take_turns(
            [lambda: score_pool(version, pool, config, seed=0), network], repeats
        )
        what = f"score_pool, {len(pool)} images, against decoding and the network alone"
        yield timed("scoring", what, ours, bare, note="loading and checking the version included")


@contextmanager
def count_calls(kinds: tuple[type[nn.Module], ...]) -> Iterator[dict[type, int]]:
    """How often modules of these classes are called inside, wherever they are made."""
    calls = dict.fromkeys(kinds, 0)

    def count(module: nn.Module, _: object) -> None:
        if type(module) in calls:
            calls[type(module)] += 1

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def publish_untrained(
    path: Path, model: SegmentationModel, snapshot: Snapshot, config: TrainConfig
) -> Version:
    """A version folder of a model as it is."""
    path.mkdir()
    for name in (FINAL, STAGE1):
        write_tensors(path / name, model.state_dict())
    sha256 = {name: file_sha256(path / name) for name in (FINAL, STAGE1)}
    manifest = version_manifest(
        "bench", snapshot.classes, True, config, {}, model, snapshot.hash, sha256
    )
    write_json(path / MANIFEST, manifest)
    return Version.load(path)


def small(config: TrainConfig) -> TrainConfig:
    """The same with a tiny head and images, for a quick look."""
    model = ModelConfig(weights="none", short_side=32, head_channels=8, low_level_channels=4)
    return replace(config, model=model, stage1=replace(config.stage1, batch_size=2))


@contextmanager
def _bench_folder(
    quick: bool, shape: tuple[int, int] = (360, 480)
) -> Iterator[tuple[Path, Snapshot]]:
    """A snapshot of street scenes with 50 answered regions each."""
    height, width = (48, 64) if quick else shape
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scene_set(folder / "scenes", 2 if quick else 12, 0, height=height, width=width)
        pairs, rng, items = camvid(folder / "scenes"), np.random.default_rng(0), []
        for index, pair in enumerate(pairs):
            image, mask = pairs.read(index)
            regions = segment(image, default_method(), 16 if quick else 32)
            regions.save(folder / f"{pair.name}.npz")
            answers = region_targets(mask, regions, pairs.num_classes, void=pairs.void)
            asked = rng.choice(regions.count, min(50, regions.count), replace=False).tolist()
            labels = {r: np.flatnonzero(answers[r]).tolist() for r in asked}
            items.append(SnapshotItem(pair.name, pair.image, folder / f"{pair.name}.npz", labels))
        classes = [f"class {k}" for k in range(pairs.num_classes)]
        yield (
            folder,
            write_snapshot(folder / "snapshot", classes=classes, undefined=True, items=items),
        )


def _batch_title(config: TrainConfig) -> str:
    size = config.stage1.batch_size
    if config.model.frozen_encoder:
        return f"batch {size}, cached features of {config.model.short_side} px"
    return f"batch {size}, crops of {config.augment.crop[0]}x{config.augment.crop[1]}"
