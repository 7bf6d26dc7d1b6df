"""What a simulated experiment varies: frozen dataclasses, written and read as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.annotation_cost import AnnotationCost
from training.config import ACQUISITIONS, PseudoLabelConfig, TrainConfig
from training.config_parsing import ensure, parse_dataclass
from training.errors import ConfigError
from training.oracle_noise import OracleNoise
from training.superpixels import METHODS as SUPERPIXELS

QUERIES = ("multi", "dominant", "mask", "pixels")
SIZES = ("cpu", "full")
UNITS = ("share", "clicks")


@dataclass(frozen=True)
class DataConfig:
    """Which images are asked about, and which are tested on."""

    name: str = "camvid"  # a name of training.dataset_formats.DATASETS, or "scenes"
    root: str = ""  # folder of the data set
    pool_split: str = "train"
    test_split: str = "test"
    pool_images: int | None = None  # so many, evenly spread over the split; null = all
    test_images: int | None = None
    undefined: bool = True  # void is an answer of its own ("something else"), as on Cityscapes
    trim: int = 5  # paper; px near region borders that annotators overlook, odd or 0
    min_share: float = 0.0  # paper; share of a region a class needs to be noticed

    def __post_init__(self) -> None:
        for name in ("pool_images", "test_images"):
            number = getattr(self, name)
            ensure(number is None or number >= 1, f"data.{name}", "null or at least 1", number)
        ensure(self.trim == 0 or self.trim % 2 == 1, "data.trim", "0 or odd", self.trim)
        ensure(0 <= self.min_share <= 1, "data.min_share", "a share", self.min_share)

    @property
    def title(self) -> str:
        """For reports: the name, and the splits where they are not the usual ones."""
        usual = self.pool_split == "train" and self.test_split in ("test", "val")
        return self.name if usual else f"{self.name} ({self.pool_split} / {self.test_split})"


@dataclass(frozen=True)
class SelectionConfig:
    """Options of training.selection.select; all off, as in the paper."""

    random_share: float = 0.0  # of the budget, for regions drawn uniformly
    min_distance: float = 0.0  # px between chosen regions of an image
    noise: float = 0.0  # standard deviations of the scores
    noise_decay: float = 0.5  # per round
    by_class: bool = False  # the best of every predicted main class in turn


@dataclass(frozen=True)
class Method:
    """One curve of an experiment. The defaults are the paper's method."""

    name: str = "paper"
    query: str = "multi"  # multi | dominant | mask (drawn in the region) | pixels (one in it)
    acquisition: str = "pixbal"
    superpixels: str = "seeds"
    side_px: int = 32
    min_share: float | None = None  # annotators leave out classes below it; null = data.min_share
    side_share: float | None = None  # side as a share of the image's short side, instead of px
    tau: float = 0.1
    nu: float = 6.0
    loss_weights: tuple[float, float, float] = (16.0, 8.0, 1.0)
    stages: int = 2
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    noise: OracleNoise = field(default_factory=OracleNoise)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    overrides: tuple[str, ...] = ()  # of the training config: "stage1.lr=1e-4"

    def __post_init__(self) -> None:
        where = f"method {self.name!r}"
        ensure(bool(self.name.strip()), "method.name", "a name", self.name)
        _ensure_known(where, "query", self.query, QUERIES)
        _ensure_known(where, "acquisition", self.acquisition, ACQUISITIONS)
        _ensure_known(where, "superpixels", self.superpixels, tuple(SUPERPIXELS))
        share = self.side_share
        ensure(
            share is None or 0 < share <= 1, f"{where}: side_share", "null or in (0, 1]", share
        )  # fmt: skip
        least = self.min_share
        ensure(
            least is None or 0 <= least <= 1, f"{where}: min_share", "null or a share", least
        )  # fmt: skip
        ensure(4 <= self.side_px <= 4096, f"{where}: side_px", "4..4096 px", self.side_px)
        if self.query in ("mask", "pixels"):
            # Outside the answers there are no regions for pseudo labels to spread to.
            ensure(self.stages == 1, f"{where}: stages", f"1 for {self.query} queries", self.stages)
        if self.query == "mask":
            ensure(self.noise.none, f"{where}: noise", "none for mask queries", self.noise)

    def train_config(self, base: TrainConfig, seed: int) -> TrainConfig:
        """The training config of a run of this method. Raises ConfigError."""
        acquisition = replace(
            base.acquisition, name=self.acquisition, nu=self.nu, temperature=self.tau
        )
        config = replace(
            base,
            temperature=self.tau,
            loss_weights=self.loss_weights,
            stages=self.stages,
            pseudo_labels=self.pseudo_labels,
            acquisition=acquisition,
            seed=seed,
        )
        return config.with_overrides(self.overrides)


@dataclass(frozen=True)
class Experiment:
    """Methods x seeds on one data set, each asked in rounds up to the same clicks."""

    name: str = "experiment"
    size: str = "cpu"
    data: DataConfig = field(default_factory=DataConfig)
    methods: tuple[Method, ...] = field(default_factory=lambda: (Method(),))
    budgets: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08)  # after each round, all rounds together
    budget_unit: str = "share"  # of the regions of the pool under the first method, or "clicks"
    seeds: int = 3  # 0 .. seeds - 1
    config: str = "cpu"  # a name of training.config.CONFIGS
    overrides: tuple[str, ...] = ()  # of that config, for all methods
    cost: AnnotationCost = field(default_factory=AnnotationCost)
    full_supervision: bool = True  # also train on all masks: the 100 % of the report
    gallery_images: int = 2  # shown per round and method, of the first seed
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ensure(bool(self.name.strip()), "name", "a name", self.name)
        _ensure_known("the experiment", "size", self.size, SIZES)
        _ensure_known("the experiment", "budget_unit", self.budget_unit, UNITS)
        names = [method.name for method in self.methods]
        ensure(bool(names), "methods", "at least one method", names)
        ensure(len(set(names)) == len(names), "methods", "methods with names of their own", names)
        ensure(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        ensure(self.gallery_images >= 0, "gallery_images", "at least 0", self.gallery_images)
        steps = zip((0.0, *self.budgets), self.budgets, strict=False)
        rising = bool(self.budgets) and all(before < after for before, after in steps)
        ensure(rising, "budgets", "rising numbers over 0, one per round", self.budgets)
        for method in self.methods:  # a wrong override fails here, not after hours
            method.train_config(self.base_config(), 0)

    def base_config(self) -> TrainConfig:
        """The training config before a method changes it. Raises ConfigError."""
        return TrainConfig.named(self.config).with_overrides(self.overrides)

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` is the inverse."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Experiment:
        """Check and read; missing names keep their default. Raises ConfigError."""
        return parse_dataclass(cls, values, "experiment")

    @classmethod
    def load(cls, path: Path) -> Experiment:
        """Read a JSON file. Raises ConfigError naming the file, and the setting that is wrong."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The experiment {path} cannot be read: {error}.",
                hint='Write JSON: {"name": ..., "methods": [{"name": ...}], "budgets": [0.02]}.',
            ) from error
        return cls.from_json(values)


def _ensure_known(where: str, what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ConfigError(
            f"{where} has the unknown {what} {name!r}.", hint=f"Known: {', '.join(known)}."
        )
