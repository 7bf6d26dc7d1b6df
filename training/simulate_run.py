"""One run of an experiment: a method with a seed, round by round, resumable at any point."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from training.config import AcquisitionConfig
from training.errors import DataError, PoolExhausted
from training.files import json_bytes, read_json, write_json
from training.loop import Progress
from training.pool_scores import PoolScores
from training.regions import RegionId
from training.round_plan import LABELS
from training.rounds import run_round
from training.scoring import PoolImage, score_pool
from training.simulate_choice import choose
from training.simulate_config import Method
from training.simulate_gallery import draw_gallery
from training.simulate_oracle import Annotator, annotator, full_item, snapshot_item
from training.simulate_quality import pseudo_quality
from training.simulate_task import FORMAT, RECORD, Record, RunTask, trained_config
from training.snapshot import SnapshotItem, write_snapshot
from training.versions import Version

Say = Callable[[str, float], None]  # what is being done, and how much of the run is done, 0..1


def play(task: RunTask, say: Say = lambda _what, _share: None) -> Record:
    """Play a run from where it stopped; its record.

    Raises: what score_pool, write_snapshot and run_round raise; all that was done stays.
    """
    done = task.record()
    if done is not None:
        return done
    task.folder.mkdir(parents=True, exist_ok=True)
    record = _full(task, say) if task.method is None else _Player(task, task.method, say).play()
    write_json(task.folder / RECORD, record)
    return record


def _full(task: RunTask, say: Say) -> Record:
    """The same network and schedule trained on every mask."""
    folder = task.folder / "round-1"
    items = [full_item(entry, folder / "maps") for entry in task.data.pool]
    version = _train(task, items, folder, lambda p: say("full supervision", _share(p, 1)))
    shutil.rmtree(folder)
    return {"rounds": [_measured(version)], "gallery": []}


@dataclass
class _Player:
    task: RunTask
    method: Method
    say: Say
    asked: list[list[RegionId]] = field(default_factory=list)  # by round

    def play(self) -> Record:
        rounds: list[Record] = []
        gallery: list[Record] = []
        for number in range(1, len(self.task.budgets) + 1):
            path = self.task.folder / f"round-{number}.json"
            self.asked.append(self._asked(number))
            if not self.asked[-1]:  # the pool is used up: the curve ends here
                self.asked.pop()
                break
            if not path.is_file():
                write_json(path, self._played(number))
            record = dict(read_json(path))
            gallery += record.pop("gallery")
            rounds.append(record)
        if not rounds:
            raise PoolExhausted("The pool has no region to ask about.", hint="Give more images.")
        self._drop(len(rounds))
        return {"rounds": rounds, "gallery": gallery}

    def _asked(self, number: int) -> list[RegionId]:
        """The regions asked about in a round, chosen now if they are not yet."""
        path = self.task.folder / f"asked-{number}.json"
        if not path.is_file():
            chosen = self._choose(number)
            write_json(path, [[region.image_id, region.index] for region in chosen])
        regions = [RegionId(str(image), int(index)) for image, index in read_json(path)]
        self._drop(number - 1)  # its weights have asked what they had to ask
        return regions

    def _choose(self, number: int) -> list[RegionId]:
        spent = sum(self._clicks(region) for region in self._all_asked)
        left = self.task.budgets[number - 1] - spent
        if left <= 0:  # the round before overshot the budget of this one
            left = 0
        return choose(
            self._scores(number), {i: a.clicks for i, a in self._annotators.items()},
            set(self._all_asked), left, self.method.selection, self._regions,
            seed=self.task.seed, round_number=number - 1,
        )  # fmt: skip

    def _scores(self, number: int) -> PoolScores:
        task = self.task
        pool = [PoolImage(e.image_id, e.image, self._regions[e.image_id]) for e in task.data.pool]
        version = None
        if number > 1 and self.method.acquisition != "random":  # random asks no model
            version = self._version(number - 1)
        self.say(f"round {number}: scoring", self._done(number, 0.0))
        return score_pool(
            version, pool, task.config, task.seed * 1009 + number, cache_dir=task.root / "features"
        )

    def _version(self, number: int) -> Version:
        """The version of a round, trained now if it is not there (or no more)."""
        place = self._place(number)
        asked: dict[str, list[int]] = {}
        for region in [r for regions in self.asked[:number] for r in regions]:
            asked.setdefault(region.image_id, []).append(region.index)
        entries = [entry for entry in self.task.data.pool if entry.image_id in asked]

        def report(progress: Progress) -> None:
            share = self._done(number, _share(progress, self.method.stages))
            self.say(f"round {number}: {progress.stage.replace('_', ' ')}", share)

        with _alone(place):
            items = [
                snapshot_item(
                    entry, self._regions[entry.image_id], self._annotators[entry.image_id],
                    asked[entry.image_id], place / "maps",
                )
                for entry in entries
            ]  # fmt: skip
            return _train(self.task, items, place, report)

    def _played(self, number: int) -> Record:
        version = self._version(number)
        regions = [region for asked in self.asked[:number] for region in asked]
        clicks = sum(self._clicks(region) for region in regions)
        record: Record = {"round": number, "clicks": clicks, "questions": len(regions)}
        record |= _measured(version)
        asked = {region.image_id for region in regions}
        if self.method.stages > 1:
            entries = [entry for entry in self.task.data.pool if entry.image_id in asked]
            quality = pseudo_quality(entries, version.path / LABELS, len(self.task.data.classes))
            record |= {"pseudo_accuracy": quality.accuracy, "pseudo_coverage": quality.coverage}
        record["gallery"] = draw_gallery(
            self.task.data, self._regions, self.asked[:number], version.path / LABELS,
            self.task.folder / "gallery", self.task.gallery,
        )  # fmt: skip
        return record

    def _place(self, number: int) -> Path:
        """Folder of a round. The first one is equal for many methods: shared by content."""
        if number > 1:
            return self.task.folder / f"round-{number}"
        config = trained_config(self.task.config, AcquisitionConfig())
        words: list[Any] = [FORMAT, _describe(self.method), self.task.seed, *self.task.asked_of]
        words += [config, [list(region) for region in self.asked[0]]]
        words += [[path.name for path in self.task.regions]]
        return self.task.root / "first" / hashlib.sha256(json_bytes(words)).hexdigest()[:16]

    def _drop(self, number: int) -> None:
        """Remove the snapshot and weights of a round, but for the first, which others may use."""
        if number > 1:
            shutil.rmtree(self._place(number), ignore_errors=True)

    def _done(self, number: int, share: float) -> float:
        return (number - 1 + share) / len(self.task.budgets)

    def _clicks(self, region: RegionId) -> int:
        return int(self._annotators[region.image_id].clicks[region.index])

    @property
    def _all_asked(self) -> list[RegionId]:
        return [region for regions in self.asked for region in regions]

    @cached_property
    def _regions(self) -> dict[str, Path]:
        ids = (entry.image_id for entry in self.task.data.pool)
        return dict(zip(ids, self.task.regions, strict=True))

    @cached_property
    def _annotators(self) -> dict[str, Annotator]:
        task = self.task
        return {
            entry.image_id: annotator(
                entry, regions, task.data.classes, task.data_config, self.method, task.seed,
                task.config.model.short_side,
            )
            for entry, regions in zip(task.data.pool, task.regions, strict=True)
        }  # fmt: skip


def _describe(method: Method) -> str:
    """All of a method that the answers and the training of given regions follow from."""
    choosing = ("name", "acquisition", "selection", "nu")
    return repr({name: value for name, value in vars(method).items() if name not in choosing})


def _train(
    task: RunTask, items: Sequence[SnapshotItem], folder: Path, report: Callable[[Progress], None]
) -> Version:
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = folder / "snapshot"
    if not (snapshot / "manifest.json").is_file():
        write_snapshot(
            snapshot, classes=task.data.classes, undefined=task.data_config.undefined,
            items=items, heldout=task.data.test,
        )  # fmt: skip
    # The acquisition has no part in training; without it, equal rounds of two methods are equal.
    config = replace(task.config, acquisition=AcquisitionConfig())
    return run_round(
        snapshot, config, folder / "version", progress=report, keep_labels=True,
        cache_dir=task.root / "features",
    )  # fmt: skip


def _measured(version: Version) -> Record:
    final = version.metrics["stage2"]
    if final["miou"] is None:
        raise DataError("The test images hold no class.", hint="Choose another test split.")
    return {
        "miou": final["miou"],
        "stage1_miou": version.metrics["stage1_miou"],
        "per_class": final["per_class"],
    }


def _share(progress: Progress, stages: int) -> float:
    """How much of a round is done, roughly; a repeated stage 2 starts again."""
    part = progress.step / progress.steps if progress.steps else 0.0
    if progress.stage == "stage1":
        return part / stages if progress.epoch else 0.0
    if progress.stage == "stage2":
        return (1 + part) / max(stages, 2)
    return 1 / stages if progress.stage == "pseudo_labels" else 1.0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time train in a shared folder; another one waits and finds it done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
