"""`pixbal bench`: the groups of measurements of this package, each giving rows of one table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import torch

from training import bench_core
from training.bench_memory import memory_row
from training.bench_report import ROOT, Report, Row, absent, describe_machine, measured, timed
from training.bench_superpixels import SuperpixelRow, bench_superpixels
from training.bench_timing import Stopwatch, Times, take_turns
from training.bench_training import data_path, scoring, training_step
from training.config import CONFIGS
from training.datasets import ImageMaskSet, camvid
from training.device import torch_threads
from training.errors import ConfigError
from training.model import build
from training.scenes import write_scene_set
from training.superpixel_pool import SegmentJob, segment_pool
from training.superpixels import Pixels, available_methods, segment

_BASELINES = {
    "stage-1 losses": "baseline: F.cross_entropy with ignore_index",
    "region statistics": "baseline: one softmax into memory at hand",
    "pseudo labels": "baseline: region by region, median of 3",
}
Group = Callable[["Options"], Iterator[Row]]
NO_GPU = "no GPU here; on one: pixbal bench --only core"


@dataclass(frozen=True)
class Options:
    """How much to measure; `quick` takes small sizes and few repeats, and judges nothing."""

    quick: bool = False
    data: Path | None = None  # the folder that holds camvid/

    @property
    def repeats(self) -> int:
        """Medians are of so many."""
        return 3 if self.quick else 20


def find_data() -> Path:
    """PIXBAL_DATA, else shared/data beside the checkout; need not exist."""
    return Path(os.environ.get("PIXBAL_DATA") or ROOT.parent / "shared" / "data")


def superpixels(options: Options) -> Iterator[Row]:
    """Time and quality of every method, of larger images, and of all cores together."""
    group = "superpixels"
    with tempfile.TemporaryDirectory() as folder:
        pairs, name = _pairs(options, Path(folder))
        real = name == "CamVid"
        limit = 2 if options.quick else 60
        for method in available_methods():
            (found,) = bench_superpixels(pairs, (method,), limit=limit)
            yield from _method_rows(group, found, name, min(limit, len(pairs)), real)
        image = pairs.read(0)[0]
        ours, published = take_turns(
            [lambda: segment(image), lambda: segment(image, levels=5)], options.repeats
        )
        what = f"SEEDS of 3 levels and repair, against the 5 levels of the paper, {_size(image)}"
        yield timed(group, what, ours, published)
        large = _enlarged(image, (128, 256) if options.quick else (1024, 2048))
        (times,) = take_turns([lambda: segment(large)], options.repeats)
        yield timed(group, f"seeds, {_size(large)}, enlarged", times, most_ms=600.0)
        if not options.quick:  # starting the processes alone takes seconds
            yield _pool_row(group, large, Path(folder))


def _method_rows(
    group: str, found: SuperpixelRow, name: str, images: int, real: bool
) -> Iterator[Row]:
    # The fast one and its fallback have targets, for photographs of this size.
    limits = {"seeds": (35.0, 0.65), "slic": (95.0, 0.645)} if real else {}
    what = f"{found.method}, side {found.side_px} px"
    note = f"{images} images of {name}; {found.count:.0f} regions, mIoU {found.miou:.3f}"
    times = Times(found.ms, found.cpu_ms)
    if found.method not in limits:
        yield timed(group, what, times, note=note)
        return
    most, least = limits[found.method]
    yield timed(group, what, times, most_ms=most, note=note)
    yield measured(group, f"{what}: mIoU of majority labels", found.miou, "", least=least)


def _pool_row(group: str, image: Pixels, folder: Path, count: int = 16) -> Row:
    """One process per core, their start included, against one process."""
    path = folder / "large.png"
    cv2.imwrite(str(path), image[..., ::-1])
    jobs = [SegmentJob(path, folder / f"{number}.npz") for number in range(count)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with Stopwatch() as one:
        segment_pool(jobs, workers=1)
    with Stopwatch() as all_cores:
        segment_pool(jobs, workers=cores)
    what = f"{count} images of {_size(image)} on {cores} cores, against one"
    return timed(group, what, all_cores.times, one.times, one_thread=False, note="once each")


def core(options: Options) -> Iterator[Row]:
    """Losses, scores and pseudo labels beside plain baselines; on a GPU as well if there is one."""
    yield from _core_rows("cpu", options)
    if not options.quick:  # its own process takes seconds to start
        yield memory_row(_sizes(options)[-1])
    if not torch.cuda.is_available():
        yield absent("core", "losses, scores and pseudo labels on a GPU", "ms", NO_GPU)
        return
    yield from _core_rows("cuda", options)
    yield from _against_network(options)


def _sizes(options: Options) -> Sequence[bench_core.BenchSize]:
    tiny = bench_core.BenchSize(24, 32, 5, batch=2, side_px=8, features=4, selected=3)
    return (tiny,) if options.quick else bench_core.SIZES


def _core_rows(device: str, options: Options) -> Iterator[Row]:
    on_cpu = device == "cpu"
    for size in _sizes(options):
        for row in bench_core.run((size,), options.repeats, device):
            ours = Times(row["ours_ms"], row["ours_cpu_ms"])
            base = Times(row["baseline_ms"], row["baseline_cpu_ms"])
            ratios = {"stage-1 losses": 1.5} | ({"region statistics": 3.0} if on_cpu else {})
            most_ratio = next((v for k, v in ratios.items() if row["what"].startswith(k)), None)
            # The target in ms is for the larger size.
            labels = row["what"].startswith("pseudo labels")
            note = next((n for what, n in _BASELINES.items() if row["what"].startswith(what)), "")
            yield timed(
                "core",
                row["what"] if on_cpu else f"{row['what']}, GPU",
                ours,
                base,
                most_ratio=most_ratio or float("inf"),
                most_ms=300.0 if labels and on_cpu and size.height == 512 else float("inf"),
                one_thread=on_cpu,
                note=note,
            )


def _against_network(options: Options) -> Iterator[Row]:
    """Scores and pseudo labels of one image against the forward pass of the "gpu" config."""
    config, size, device = CONFIGS["gpu"], _sizes(options)[-1], torch.device("cuda")
    model = build(config.model, size.classes, pretrained=False).to(device)
    model.to(memory_format=torch.channels_last)
    image = torch.zeros(1, 3, size.height, size.width, dtype=torch.uint8, device=device)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            model(image)

    (network,) = take_turns([forward], options.repeats, "cuda")
    for function, most in ((bench_core.bench_scores, 0.05), (bench_core.bench_pseudo_labels, 1.0)):
        for row in function(size, options.repeats, device, 0):
            ours = Times(row["ours_ms"], row["ours_cpu_ms"])
            what = f"{row['what']}, GPU, against the network's forward pass"
            yield timed("core", what, ours, network, most_ratio=most, one_thread=False)


GROUPS: Mapping[str, Group] = {
    "superpixels": superpixels,
    "core": core,
    "training_step": lambda options: training_step(options.quick, options.repeats),
    "data_path": lambda options: data_path(options.quick, options.repeats),
    "scoring": lambda options: scoring(options.quick, options.repeats),
}


def run(
    only: Sequence[str] = (),
    options: Options | None = None,
    groups: Mapping[str, Group] = GROUPS,
    on_row: Callable[[str, Row | None], None] | None = None,
) -> Report:
    """Measure the groups named (default: all), on one thread.

    `on_row` gets the group's name when it starts (with None), and each row as it comes.

    Raises: ConfigError for an unknown group.
    """
    unknown = [name for name in only if name not in groups]
    if unknown:
        raise ConfigError(
            f"There is no benchmark named {unknown[0]!r}.", hint=f"Known: {', '.join(groups)}."
        )
    options = options or Options(data=find_data())
    machine, rows = describe_machine(), []
    say = on_row or (lambda group, row: None)
    cv_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with torch_threads(1):
            for name in dict.fromkeys(only or groups):
                say(name, None)
                for row in groups[name](options):
                    if options.quick:
                        row = replace(row, target="", met=None)
                    rows.append(row)
                    say(name, row)
    finally:
        cv2.setNumThreads(cv_threads)
    return Report(machine, {"quick": options.quick, "repeats": options.repeats}, tuple(rows))


def _pairs(options: Options, folder: Path) -> tuple[ImageMaskSet, str]:
    root = options.data
    if root is not None and not options.quick and (root / "camvid" / "train").is_dir():
        return camvid(root / "camvid"), "CamVid"
    height, width = (96, 128) if options.quick else (360, 480)
    count = 2 if options.quick else 20
    write_scene_set(folder / "scenes", count, 0, height=height, width=width)
    return camvid(folder / "scenes"), "procedural scenes"


def _enlarged(image: Pixels, shape: tuple[int, int]) -> Pixels:
    large: Pixels = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return large


def _size(image: Pixels) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
