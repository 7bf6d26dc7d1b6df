"""Whole experiments without people: an oracle answers from masks, rounds run as in production."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.config import AcquisitionConfig, TrainConfig
from training.errors import TrainingError
from training.features_cache import FeatureCache
from training.files import file_sha256
from training.model import build
from training.results import FullSupervision, GalleryItem, Results, Round, Run
from training.simulate_config import Experiment, Method
from training.simulate_data import SimulationData, Tick, count_regions, prepare, region_maps
from training.simulate_pool import RunEvent, Watch, play_all
from training.simulate_task import RunTask

RESULTS = "results.json"


@dataclass(frozen=True)
class Origin:
    """How the results came about: the command, the commit of the code."""

    command: str = "training.simulate.simulate(...)"
    commit: str = "unknown"


def simulate(
    experiment: Experiment,
    out: Path,
    *,
    workers: int | None = None,
    watch: Watch = lambda _event: None,
    tick: Tick = lambda _what, _step, _steps: None,
    origin: Origin | None = None,
) -> Results:
    """Play every method with every seed and write `results_folder(...)`/results.json.

    Runs lie in `out`/runs by their content: what is done is not done again, by this experiment or
    another one, and what was cut short goes on at its last epoch. A run that fails is marked in
    the results, keeps its finished rounds, and is tried again by the next call.

    Args:
        workers: processes of one thread; default one per core, on a GPU one.
        watch: gets an event whenever a run moves on.
        tick: gets (what, step, steps) while data is prepared.

    Raises: ConfigError, DataError, ImageError and SuperpixelError for faults of the experiment or
    its data; TrainingError if another process simulates in `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        data = prepare(experiment.data, out / "data", tick)
        workers = workers or _workers(experiment.base_config())
        maps = {
            method.name: region_maps(data, method, out / "regions", workers, tick)
            for method in experiment.methods
        }
        regions = count_regions(maps[experiment.methods[0].name])
        tasks = _tasks(experiment, data, maps, regions, out)
        _cache_features(tasks, data, out / "features", tick)
        errors = play_all(tasks, workers, watch)
        if not any(errors):  # what first rounds left for others to go on from
            shutil.rmtree(out / "first", ignore_errors=True)
        results = _results(experiment, data, regions, tasks, errors, origin or Origin(), out)
        results.save(results_folder(experiment, out) / RESULTS)
    return results


def results_folder(experiment: Experiment, out: Path) -> Path:
    """Where the results of an experiment are written."""
    return out / f"{experiment.name}-{experiment.data.name}-{experiment.size}"


def budgets_in_clicks(experiment: Experiment, regions: int) -> tuple[int, ...]:
    """Clicks after each round; a share is of `regions`, one click each."""
    factor = regions if experiment.budget_unit == "share" else 1
    return tuple(max(1, round(budget * factor)) for budget in experiment.budgets)


def _tasks(
    experiment: Experiment,
    data: SimulationData,
    maps: dict[str, tuple[Path, ...]],
    regions: int,
    out: Path,
) -> list[RunTask]:
    base, budgets = experiment.base_config(), budgets_in_clicks(experiment, regions)

    def task(method: Method | None, seed: int) -> RunTask:
        if method is None:
            config = replace(base, stages=1, seed=seed, acquisition=AcquisitionConfig())
            return RunTask(None, seed, config, data, experiment.data, (), (1,), out)
        config = method.train_config(base, seed)
        shown = experiment.gallery_images if seed == 0 else 0
        return RunTask(
            method, seed, config, data, experiment.data, maps[method.name], budgets, out, shown
        )

    methods: list[Method | None] = [*experiment.methods]
    if experiment.full_supervision:
        methods.append(None)
    return [task(method, seed) for method in methods for seed in range(experiment.seeds)]


def _cache_features(
    tasks: Sequence[RunTask], data: SimulationData, folder: Path, tick: Tick
) -> None:
    """Features of frozen encoders, once for all runs; two processes would compute them twice."""
    models = {task.config.model: task.config for task in tasks if task.record() is None}
    for config in models.values():
        if not config.model.frozen_encoder:
            continue
        cache = FeatureCache(folder, build(config.model, len(data.classes)))
        flips = (False, True) if config.augment.hflip > 0 else (False,)
        jobs = [(entry.image, entry.sha256, flip) for entry in data.pool for flip in flips]
        jobs += [(item.image, file_sha256(item.image), False) for item in data.test]
        for number, (image, sha256, flip) in enumerate(jobs):
            cache.get(image, sha256, flip)
            tick("features", number + 1, len(jobs))


def _results(
    experiment: Experiment,
    data: SimulationData,
    regions: int,
    tasks: Sequence[RunTask],
    errors: Sequence[str | None],
    origin: Origin,
    out: Path,
) -> Results:
    pairs = list(zip(tasks, errors, strict=True))
    folder = results_folder(experiment, out)
    return Results(
        experiment=experiment.name,
        dataset=experiment.data.title,
        size="cpu" if experiment.size == "cpu" else "full",
        command=origin.command,
        commit=origin.commit,
        machine=machine(tasks[0].config),
        pool_regions=regions,
        classes=data.classes,
        runs=tuple(_run(t, e, experiment, folder) for t, e in pairs if t.method is not None),
        full=_full([task for task, error in pairs if task.method is None and error is None]),
        notes=(*experiment.notes, *_notes(experiment, data, regions, pairs)),
    )


def _run(task: RunTask, error: str | None, experiment: Experiment, folder: Path) -> Run:
    assert task.method is not None  # full supervision is told apart by the caller
    record = task.record() or {"rounds": task.rounds(), "gallery": []}
    rounds = []
    for values in record["rounds"]:
        values = {name: value for name, value in values.items() if name != "gallery"}
        seconds = round(experiment.cost.seconds(values["questions"], values["clicks"]), 1)
        rounds.append(Round(**values, seconds=seconds))
    gallery = [
        GalleryItem(item["round"], _shown(task, item["image"], folder), item["caption"])
        for item in record["gallery"]
    ]
    status: Any = "failed" if error else "done"
    return Run(task.method.name, task.seed, status, tuple(rounds), error, tuple(gallery))


def _shown(task: RunTask, name: str, folder: Path) -> str:
    """Copy a picture beside the results; its relative path."""
    target = folder / "gallery" / task.key / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(task.folder / "gallery" / name, target)
    return target.relative_to(folder).as_posix()


def _full(tasks: Sequence[RunTask]) -> FullSupervision | None:
    records = [record["rounds"][0] for task in tasks if (record := task.record()) is not None]
    if not records:
        return None
    per_class: dict[str, float | None] = {}
    for name in records[0]["per_class"]:
        values = [record["per_class"][name] for record in records]
        per_class[name] = None if None in values else sum(values) / len(values)
    return FullSupervision(tuple(record["miou"] for record in records), per_class)


def _notes(
    experiment: Experiment,
    data: SimulationData,
    regions: int,
    pairs: Sequence[tuple[RunTask, str | None]],
) -> list[str]:
    """What a reader must know to judge the numbers."""
    config, cost, source = experiment.base_config(), experiment.cost, experiment.data
    model = config.model
    encoder = "frozen" if model.frozen_encoder else "trained"
    side = "native size" if model.short_side is None else f"{model.short_side} px short side"
    trained = ", ".join(
        f"{name} {stage.steps} steps of {stage.batch_size}"
        for name, stage in (("stage 1", config.stage1), ("stage 2", config.stage2))
    )
    notes = [
        f"Pool: {len(data.pool)} images of {source.pool_split}, {regions} regions; test: "
        f"{len(data.test)} images of {source.test_split}, at native size.",
        f"Network: DeepLabv3+ on {model.encoder} ({encoder}), images at {side}; {trained}. Methods "
        "may override this. Full supervision: all masks of the same pool, schedule of stage 1.",
        f"Oracle: {source.trim} px trimmed near region borders, classes from "
        f"{source.min_share:.1%} of a region on; void is "
        f"{'an answer of its own' if source.undefined else 'no answer'}.",
        f"Seconds: {cost.page_turn_s:g} s page turn and {cost.look_s:g} s look per question, "
        f"{cost.key_s:g} s per click ({cost.source}).",
    ]
    failed = [f"{task.title}: {error}" for task, error in pairs if error]
    return notes + [f"Failed, to be resumed by the same command: {text}" for text in failed]


def machine(config: TrainConfig) -> str:
    """Processor, cores and, where it is used, the GPU."""
    import torch

    from training.device import pick_device

    device = pick_device(config.device)
    name = f"{platform.machine()}, {_cores()} cores"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.partition(":")[2].strip() for line in file if "model name" in line]
        name = f"{models[0]}, {_cores()} cores" if models else name
    except OSError:
        pass  # not on this system: the architecture has to do
    return f"{torch.cuda.get_device_name(device)}; {name}" if device.type == "cuda" else name


def _workers(config: TrainConfig) -> int:
    from training.device import pick_device

    return _cores() if pick_device(config.device).type == "cpu" else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    with open(out / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingError(
                f"Another process simulates in {out}.", hint="Wait for it, or give another --out."
            ) from error
        yield


__all__ = [
    "RESULTS", "Origin", "RunEvent", "budgets_in_clicks", "machine", "results_folder", "simulate",
]  # fmt: skip
