"""One training round: stage 1 -> pseudo labels -> stage 2 -> ... -> a published version."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.checkpoints import Checkpoints, read_tensors, write_tensors
from training.config import TrainConfig
from training.dataset import (
    Batch,
    FeatureSource,
    ImageSource,
    Sample,
    Source,
    label_samples,
    region_samples,
)  # fmt: skip
from training.device import pick_device, torch_threads
from training.errors import CheckpointError, SnapshotError
from training.features_cache import FeatureCache
from training.files import file_sha256, read_json, write_json
from training.gpu_memory import placed
from training.loop import Progress, Report, silent, train_stage
from training.losses import stage1_loss, stage2_loss
from training.metrics import ConfusionMatrix
from training.model import SegmentationModel, build
from training.predict import evaluate
from training.pretrained import load_pretrained
from training.pseudo_label_files import write_pseudo_labels
from training.round_folder import claim, clear, drop_after, finish, locked
from training.round_plan import Part, labels_name, weights_name
from training.snapshot import HeldoutItem, Snapshot
from training.versions import FINAL, MANIFEST, STAGE1, Version, version_manifest

log = logging.getLogger(__name__)

REPEAT = 1_000_003  # added to the seed for every repetition of stage 2


def run_round(
    snapshot: Path,
    config: TrainConfig,
    out: Path,
    resume: bool = True,
    progress: Report | None = None,
    name: str | None = None,
    cache_dir: Path | None = None,
    keep_labels: bool = False,
    work: Path | None = None,
) -> Version:
    """Train all stages on a snapshot and publish the version folder `out` (arXiv 2309.09319).

    Work in progress lies in `work`, by default `out`.partial: a killed round, called again, goes on
    at its last whole epoch and ends with the same weights (on CPU). Where `config` or the labels
    are others than those it was begun with, the first part that they touch is made again and all
    after it; the rest stands; `resume` False keeps nothing. `progress` is called every step
    and may raise to stop. `cache_dir` keeps the features of a frozen encoder; default: beside the
    snapshot. A whole version at `out` is returned as it is. `keep_labels` publishes the pseudo
    labels that the last stage learned from, too, one PNG per image in the folder `LABELS`.

    Raises:
        SnapshotError: damaged, or without any labelled region.
        ConfigError: unknown encoder, device or weights.
        CheckpointError: something else is at `out`.
        NonFiniteError: the loss or a weight became NaN or infinite.
        OutOfMemory: not even one image fits.
        TrainingError: another process trains this round.
    """
    if (out / MANIFEST).is_file():
        return Version.load(out)
    if out.exists():
        raise CheckpointError(f"{out} is in the way and no model version.", hint="Move it away.")
    data = Snapshot.load(snapshot)
    if not data.label_count:
        raise SnapshotError(
            f"{snapshot} has no labelled region.", hint="Answer some questions, then train."
        )
    partial = work or out.with_name(out.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial), torch_threads(config.threads):
        if (out / MANIFEST).is_file():  # published while this process waited for nothing
            return Version.load(out)
        if not resume:
            clear(partial)
        claim(partial, data, config)
        if (partial / MANIFEST).is_file():  # killed between its last file and its publication
            finish(partial, out, keep_labels)
            return Version.load(out)
        cache = cache_dir or snapshot.resolve().parent / "features"
        task = _Round(data, config, partial, cache, progress or silent)
        task.publish(out, name or out.name, keep_labels)
    return Version.load(out)


@dataclass(frozen=True)
class _Round:
    data: Snapshot
    config: TrainConfig
    folder: Path
    cache_dir: Path
    report: Report

    def publish(self, out: Path, name: str, keep_labels: bool = False) -> None:
        """Do what is still to do of every part, then rename the folder to `out`."""
        started = time.monotonic()
        first = final = self._trained(1)
        labels: dict[str, Any] = {}
        for number in range(2, self.config.stages + 1):
            labels = self._pseudo_labels(final, number)
            final = self._trained(number)
        if final is first:
            write_tensors(self.folder / FINAL, final.state_dict())
        self._say("publishing")
        metrics = self._metrics(first, final) | {"pseudo_labels": labels}
        metrics["seconds"] = round(time.monotonic() - started, 1)  # of this process, resumed or not
        write_json(
            self.folder / MANIFEST,
            version_manifest(
                name, self.data.classes, self.data.undefined, self.config, metrics, final,
                self.data.hash, {f: file_sha256(self.folder / f) for f in (STAGE1, FINAL)},
            ),
        )  # fmt: skip
        finish(self.folder, out, keep_labels)

    def _trained(self, number: int) -> SegmentationModel:
        """The model of a stage, trained from the pretrained weights, or read if it is done."""
        done = self._stage1 if number == 1 else self._read(number)
        if done is not None:
            return done
        config, stage = self.config, f"stage{number}"
        model = placed(self._build(), self._device)
        begin: Callable[[], None] | None = None
        if config.model.frozen_encoder:
            model.encoder.load_state_dict(self._frozen.encoder.state_dict())
        else:  # a checkpoint has the encoder, too

            def begin() -> None:
                load_pretrained(model.encoder, config.model)

        checkpoints = Checkpoints(self.folder / f"{stage}-epochs")
        # Stage 3 and later are stage 2 with other labels and another order of images.
        kind = "stage1" if number == 1 else "stage2"
        plan = replace(config, seed=config.seed + REPEAT * max(number - 2, 0))
        train_stage(
            model, self._source(number), self._loss(kind), kind, plan, checkpoints, self.report,
            begin,
        )  # fmt: skip
        digest = write_tensors(self._weights(number), model.state_dict())
        write_json(self._record(number), {"sha256": digest})
        shutil.rmtree(checkpoints.folder)
        return placed(model, self._device)  # it may have ended on the CPU

    def _read(self, number: int) -> SegmentationModel | None:
        """The model of a stage that is done, from its file alone; None if it is to be trained."""
        if not self._record(number).is_file():
            return None
        model = self._build()
        try:
            digest = read_json(self._record(number))["sha256"]
            model.load_state_dict(read_tensors(self._weights(number), digest))
        except (CheckpointError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            log.warning("The weights of stage%s are damaged, training it again: %s", number, error)
            # On a GPU they will not be quite the same: labels made with the old ones would not fit.
            drop_after(self.folder, Part(number, True), self.config.stages)
            return None
        return placed(model, self._device).eval()

    def _build(self) -> SegmentationModel:
        """A model on the CPU, the encoder without its pretrained weights."""
        data, config = self.data, self.config
        return build(
            config.model, data.num_outputs, data.undefined, seed=config.seed, pretrained=False
        )

    @cached_property
    def _stage1(self) -> SegmentationModel | None:
        return self._read(1)

    @cached_property
    def _frozen(self) -> SegmentationModel:
        """A model with the encoder that no stage changes: from stage 1 where that is done.

        Then nobody is asked for pretrained weights: they may not be to be had any more.
        """
        if self._stage1 is not None:
            return self._stage1
        model = self._build()
        load_pretrained(model.encoder, self.config.model)
        return placed(model, self._device)

    def _weights(self, number: int) -> Path:
        return self.folder / weights_name(number, self.config.stages)

    def _record(self, number: int) -> Path:
        return self.folder / f"stage{number}.json"

    def _labels(self, number: int) -> Path:
        return self.folder / labels_name(number, self.config.stages)

    def _source(self, number: int) -> Source:
        if number == 1:
            samples = region_samples(self.data)
        else:
            samples = label_samples(self.data, self._labels(number))
        if self._cache is None:
            return ImageSource(samples, self.config.augment, self.config.model.short_side)
        if number == 1:
            self._prepare(samples, self._cache)
        return FeatureSource(samples, self.config.augment, self._cache)

    def _prepare(self, samples: list[Sample], cache: FeatureCache) -> None:
        """Compute the features before the first step, so that its time does not mislead."""
        flips = (False, True) if self.config.augment.hflip > 0 else (False,)
        for number, sample in enumerate(samples):
            for flip in flips:
                cache.get(sample.image, sample.sha256, flip)
            self._say("stage1", number + 1, len(samples))

    def _loss(self, stage: str) -> Any:
        config = self.config

        def first(logits: Tensor, batch: Batch) -> Tensor:
            assert batch.candidates is not None  # stage-1 samples have them
            return stage1_loss(
                logits, batch.targets, batch.candidates, config.temperature, config.loss_weights,
                possible=batch.possible,
            )  # fmt: skip

        def second(logits: Tensor, batch: Batch) -> Tensor:
            return stage2_loss(logits, batch.targets, config.temperature)

        return {"stage1": first, "stage2": second}[stage]

    def _pseudo_labels(self, model: SegmentationModel, number: int) -> dict[str, Any]:
        """Targets of a stage, by the model of the stage before it."""
        folder = self._labels(number)
        done = folder.with_name(f"{folder.name}.json")
        if done.is_file():
            try:
                record = read_json(done)
                if all(file_sha256(folder / n) == h for n, h in record["sha256"].items()):
                    return dict(record["summary"])
                log.warning("Pseudo labels have changed, making them again.")
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("Pseudo labels are damaged, making them again: %s", error)
        summary = write_pseudo_labels(
            model, self.data, self.config.pseudo_labels, folder, self._cache,
            lambda step, steps: self._say("pseudo_labels", step, steps), self.config.temperature,
        )  # fmt: skip
        sha256 = {path.name: file_sha256(path) for path in sorted(folder.glob("*.png"))}
        write_json(done, {"summary": summary, "sha256": sha256})
        return summary

    def _metrics(self, first: SegmentationModel, final: SegmentationModel) -> dict[str, Any]:
        """Held-out scores of the first and last stage (null if none), and what was learnt from."""
        data = self.data
        metrics: dict[str, Any] = {
            "images": len(data.labelled),
            "labelled_regions": data.label_count,
            "clicks": data.clicks,
            "heldout_images": len(data.heldout),
        }
        heldout: dict[str, str] = {}  # of the last model: what `heldout_change` compares

        def keep(item: HeldoutItem, found: ConfusionMatrix) -> None:
            heldout[f"{item.image_id} {data.file_hash(item.mask)}"] = found.per_class()

        for stage, model in (("stage1", first), ("stage2", final)):
            if stage == "stage2" and final is first:
                metrics |= {"stage2_miou": metrics["stage1_miou"], stage: metrics["stage1"]}
                break
            iou = evaluate(
                model, data.heldout, lambda item: data.file_hash(item.image), self._cache, keep
            ).to_json(data.classes)
            metrics |= {f"{stage}_miou": iou["miou"], stage: iou}
        metrics["miou"] = metrics["stage2_miou"]  # of the published model
        metrics["heldout"] = heldout
        return metrics

    def _say(self, stage: str, step: int = 0, steps: int = 0) -> None:
        self.report(Progress(stage, 0, 0, step, steps, float("nan"), float("nan")))

    @cached_property
    def _device(self) -> torch.device:
        return pick_device(self.config.device)

    @cached_property
    def _cache(self) -> FeatureCache | None:
        if not self.config.model.frozen_encoder:
            return None
        return FeatureCache(self.cache_dir, self._frozen)
