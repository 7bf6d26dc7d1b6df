"""Stand-ins for training and scoring: real files at the real places, in milliseconds.

What a version knows is its name; what it finds interesting is drawn from that.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import ml_backend.init
import training.rounds
import training.scoring
from training.config import TrainConfig
from training.errors import SnapshotError
from training.files import file_sha256, sealed, write_json
from training.loop import Progress, Report, silent
from training.pool_scores import ImageScores, PoolScores
from training.regions import RegionMap
from training.round_folder import claim, finish, locked
from training.scoring import PoolImage
from training.snapshot import Snapshot
from training.versions import FINAL, FORMAT, MANIFEST, STAGE1, Version

NEVER = 5  # of every image this region has no pixels at the network's size


@dataclass
class QuickTrainer:
    """Counts what was asked of it; `fails` are raised by the next trainings."""

    trained: list[str] = field(default_factory=list)
    scored: list[str | None] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)

    @contextmanager
    def at_work(self) -> Iterator[QuickTrainer]:
        """Training and scoring are this one's."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.rounds, "run_round", self.run_round)
            patch.setattr(training.scoring, "score_pool", self.score_pool)
            # It builds the network, to see whether its weights can be had.
            patch.setattr(ml_backend.init, "check_model", lambda model: None)
            yield self

    def run_round(
        self,
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
        """As `training.rounds.run_round`, without learning anything."""
        if (out / MANIFEST).is_file():
            return Version.load(out)
        data = Snapshot.load(snapshot)
        if not data.label_count:
            raise SnapshotError(f"{snapshot} has no labelled region.", hint="Answer questions.")
        partial = work or out.with_name(out.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        with locked(partial):
            claim(partial, data, config)
            for stage in ("stage1", "pseudo_labels", "stage2"):
                (progress or silent)(Progress(stage, 1, 1, 1, 1, 0.5, 0.0))
                if self.fails:
                    raise self.fails.pop(0)
            self._write(partial, data, config, name or out.name)
            finish(partial, out, keep_labels)
        self.trained.append(name or out.name)
        return Version.load(out)

    def _write(self, folder: Path, data: Snapshot, config: TrainConfig, name: str) -> None:
        for file in (FINAL, STAGE1):
            (folder / file).write_bytes(f"{file} of {name} on {data.hash}".encode())
        content = {
            "format": FORMAT,
            "name": name,
            "classes": list(data.classes),
            "undefined": data.undefined,
            "config": config.to_json(),
            "metrics": {"miou": 0.5},
            "weights_hash": data.hash,
            "snapshot_hash": data.hash,
            "sha256": {file: file_sha256(folder / file) for file in (FINAL, STAGE1)},
        }
        write_json(folder / MANIFEST, sealed(content))

    def score_pool(
        self,
        version: Version | None,
        pool: Sequence[PoolImage],
        config: TrainConfig,
        seed: int,
        out: Path | None = None,
        progress: object = None,
        cache_dir: Path | None = None,
    ) -> PoolScores:
        """As `training.scoring.score_pool`: scores by the version's name, one region without."""
        images = {image.image_id: _score(image, version, seed) for image in pool}
        self.scored.append(None if version is None else version.name)
        scores = PoolScores(images, version and version.name, config.acquisition.name)
        if out is not None:
            scores.save(out)
        return scores


def _score(image: PoolImage, version: Version | None, seed: int) -> ImageScores:
    regions = RegionMap.load(image.regions).count
    name = "" if version is None else version.name
    rng = np.random.default_rng([seed, zlib.crc32(f"{image.image_id} {name}".encode())])
    score = rng.random(regions)
    width = 0 if version is None else version.num_outputs
    presence = rng.random((regions, width)).astype(np.float16)
    if version is not None:
        score[NEVER] = np.nan
    return ImageScores(score, np.ones(regions, np.float32), presence)
