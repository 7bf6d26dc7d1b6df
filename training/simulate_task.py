"""A run to be played: what it consists of, its name by content, and what is left of it on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from training.config import AcquisitionConfig, TrainConfig
from training.files import file_sha256, json_bytes, read_json
from training.simulate_config import DataConfig, Method
from training.simulate_data import SimulationData

FORMAT = 1  # raise it when equal settings come to give other results: caches are then left alone
RECORD = "run.json"

Record = dict[str, Any]


@dataclass(frozen=True)
class RunTask:
    """All that a process needs to play a run. `method` None: full supervision."""

    method: Method | None
    seed: int
    config: TrainConfig
    data: SimulationData
    data_config: DataConfig
    regions: tuple[Path, ...]  # of the pool, in its order
    budgets: tuple[int, ...]  # clicks after each round
    root: Path  # of all runs: features and first rounds are shared there
    gallery: int = 0

    @cached_property
    def key(self) -> str:
        """Names everything that the result follows from."""
        method = None if self.method is None else replace(self.method, name="-")
        words: list[Any] = [FORMAT, repr(method), self.seed, *self.asked_of]
        words += [trained_config(self.config, self.config.acquisition), self.budgets]
        if self.method is not None:
            words += [[path.name for path in self.regions]]
        return hashlib.sha256(json_bytes(words)).hexdigest()[:16]

    @property
    def asked_of(self) -> list[Any]:
        """Images, masks and how annotators look at them; not where the files lie."""
        config = self.data_config
        return [self.data.hash, config.undefined, config.trim, config.min_share]

    @property
    def folder(self) -> Path:
        """Where the run keeps its rounds and its record."""
        return self.root / "runs" / self.key

    @property
    def title(self) -> str:
        """For people."""
        name = "full supervision" if self.method is None else self.method.name
        return f"{name}, seed {self.seed}"

    def record(self) -> Record | None:
        """The finished run, if it is finished: {"rounds": [...], "gallery": [...]}."""
        try:
            return dict(read_json(self.folder / RECORD))
        except (FileNotFoundError, ValueError, TypeError):  # damaged: its rounds may be whole
            return None

    def rounds(self) -> list[Record]:
        """The rounds that are finished, of an unfinished run, too."""
        paths = (self.folder / f"round-{n}.json" for n in range(1, len(self.budgets) + 1))
        return [dict(read_json(path)) for path in paths if path.is_file()]


def trained_config(config: TrainConfig, acquisition: AcquisitionConfig) -> dict[str, Any]:
    """What of a config decides results: not where it runs."""
    values = replace(config.anywhere(), acquisition=acquisition).to_json()
    weights = Path(config.model.weights)
    if weights.is_file():  # a path says nothing about its content
        values["model"]["weights"] = file_sha256(weights)
    return values
