"""Ready experiments: the paper's questions, each small enough for two cores or whole for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from training.annotation_cost import AnnotationCost, fit_cost, read_lead_times
from training.config import ACQUISITIONS, PseudoLabelConfig
from training.errors import ConfigError
from training.oracle_noise import OracleNoise
from training.simulate_config import (
    SIZES,
    DataConfig,
    Experiment,
    Method,
    SelectionConfig,
)  # fmt: skip

PAPER = Method("paper")
DOMINANT = Method("dominant", query="dominant", stages=1)

# The paper's method with the one idea that won on the held-out sequence (docs/results.md):
# annotators leave out classes that fill less than a fifth of the region.
BEST = Method("best", min_share=0.2)

# At the cpu size: about every third image, at half the native size, a narrow head on a frozen
# encoder, and a schedule some ten times shorter than it takes to converge.
CPU_POOL, CPU_TEST = 120, 78
CPU_SIDE_PX, CPU_STEPS_PER_EPOCH = 180, 50

CPU_NOTE = (
    "Size cpu: a head trained on features of a frozen encoder, on reduced images, with a short "
    "schedule. It compares methods under equal conditions; its mIoU is far below what the same "
    "labels give with a network trained to the end."
)
HELD_OUT_NOTE = (
    "Tested on a sequence held out of the train split, never on test: region size is a choice."
)


@dataclass(frozen=True)
class Preset:
    """A question, the methods that answer it by size, budgets, and epochs of 50 steps (cpu)."""

    question: str
    methods: Callable[[str], tuple[Method, ...]]
    cpu_budgets: tuple[float, ...]
    cpu_epochs: int
    budgets: tuple[float, ...] = (0.01, 0.02, 0.04, 0.06, 0.08)
    held_out: bool = False  # test on a part of train
    lead_times: bool = False  # seconds come from recorded answers


def _both(*methods: Method) -> Callable[[str], tuple[Method, ...]]:
    return lambda _size: methods


def _more(cpu: tuple[Method, ...], full: tuple[Method, ...]) -> Callable[[str], tuple[Method, ...]]:
    return lambda size: cpu if size == "cpu" else (*cpu, *full)


def _acquisitions(size: str) -> tuple[Method, ...]:
    # Stage 2 never feeds back: at the cpu size, acquisitions are compared by what stage 1 learns.
    stages = 1 if size == "cpu" else 2
    return tuple(Method(name, acquisition=name, stages=stages) for name in ACQUISITIONS)


def _chosen(name: str, **options: float | bool) -> Method:
    return Method(name, stages=1, selection=SelectionConfig(**options))  # type: ignore[arg-type]


def _pseudo(name: str, **options: bool | str | float) -> Method:
    return Method(name, pseudo_labels=PseudoLabelConfig(**options))  # type: ignore[arg-type]


def _tau(tau: float) -> Method:
    return Method(f"tau {tau:g}", tau=tau)


def _side(side_px: int) -> Method:
    return Method(f"multi-class {side_px} px", side_px=side_px)


def _dominant_side(side_px: int) -> Method:
    return replace(DOMINANT, name=f"dominant {side_px} px", side_px=side_px)


def _noise(name: str, missed: float = 0.0, extra: float = 0.0) -> Method:
    return Method(name, noise=OracleNoise(missed, extra))


PRESETS: dict[str, Preset] = {
    "multi-vs-dominant": Preset(
        "Are all classes of a region worth more than its main one, click for click?",
        _both(PAPER, DOMINANT), (0.02, 0.04, 0.06, 0.08), 3,
    ),
    "acquisitions": Preset(
        "Does PixBal find better regions than other acquisitions, and than chance?",
        _acquisitions, (0.02, 0.04, 0.08), 3,
    ),
    "ablation": Preset(
        "What does each part of the method add?",
        _both(
            PAPER,
            Method("no one-hot loss", loss_weights=(0.0, 8.0, 1.0)),
            Method("no merged-positive loss", loss_weights=(16.0, 0.0, 1.0)),
            Method("no prototypical-pixel loss", loss_weights=(16.0, 8.0, 0.0)),
            Method("no stage 2", stages=1),
            _pseudo("no expansion", expand=False),
        ), (0.04, 0.08), 2,
    ),
    "superpixels": Preset(
        "How much does the superpixel method matter?",
        _more(
            (PAPER, *(Method(name, superpixels=name) for name in ("slic", "watershed", "grid"))),
            tuple(Method(name, superpixels=name) for name in ("felzenszwalb", "quickshift")),
        ), (0.04, 0.08), 2,
    ),
    "temperature": Preset(
        "How much does the temperature of the softmax over cosines matter?",
        _more(tuple(map(_tau, (0.1, 0.02, 0.05, 0.2, 1.0))), tuple(map(_tau, (0.01, 0.5)))),
        (0.04, 0.08), 2,
    ),
    "datasets": Preset(
        "Does it hold on other data sets? (Call it once for each, with --data and --root.)",
        _both(PAPER, DOMINANT, Method("multi-class, random", acquisition="random")),
        (0.02, 0.04, 0.08), 3,
    ),
    "stages": Preset(
        "Does refining the pseudo labels again help?",
        _more(
            tuple(Method(f"{n} stage{'s' * (n > 1)}", stages=n) for n in (2, 1, 3)),
            (Method("4 stages", stages=4),),
        ), (0.04, 0.08), 3,
    ),
    "noise": Preset(
        "How much do annotators' errors cost?",
        _more(
            (PAPER, _noise("10 % missed", 0.1), _noise("30 % missed", 0.3),
             _noise("1 % extra", 0.0, 0.01),
             replace(DOMINANT, name="dominant, 10 % wrong", noise=OracleNoise(0.1))),
            (_noise("3 % extra", 0.0, 0.03), _noise("10 % missed, 1 % extra", 0.1, 0.01), DOMINANT),
        ), (0.04, 0.08), 2,
    ),
    "pseudo-label-quality": Preset(
        "How right are pseudo labels, and how much do they cover?",
        _both(
            PAPER,
            _pseudo("no expansion", expand=False),
            _pseudo("expansion by margin, passing classes only",
                    passing_only=True, conflicts="margin"),
            Method("random", acquisition="random"),
        ), (0.02, 0.04, 0.08), 2,
    ),
    "ideas-acquisition": Preset(
        "Which changes of the choice of regions find better ones than PixBal as published?",
        _both(
            *(replace(PAPER, name=name, acquisition=name, stages=1)
              for name in ("pixbal", "random", "class_balanced_random")),
            _chosen("classes in turn", by_class=True),
            _chosen("half at random", random_share=0.5),
            _chosen("64 px apart", min_distance=64.0),
            _chosen("decaying noise", noise=1.0),
            replace(PAPER, name="per expected click", stages=1,
                    overrides=("acquisition.per_click=1",)),
        ), (0.02, 0.04, 0.08), 3, held_out=True,
    ),
    "ideas-training": Preset(
        "Which changes of the training learn more from the same clicks than the paper's?",
        _both(
            PAPER,
            Method("mean of weights", overrides=("ema=0.97",)),
            _pseudo("expansion by margin, passing classes only",
                    passing_only=True, conflicts="margin"),
            _pseudo("self-training, half", confident=0.5),
            Method("dominant, 2 stages", query="dominant"),
            Method("asked by the final model", overrides=("acquisition.model=\"final\"",)),
        ), (0.02, 0.04), 3, held_out=True,
    ),
    "smallest-share": Preset(
        "Should annotators leave out classes that fill little of a region?",
        _both(
            PAPER,
            *(Method(f"from {share:.0%} of the region on", min_share=share)
              for share in (0.1, 0.2, 0.3)),
            Method("dominant, 2 stages", query="dominant"),
        ), (0.02, 0.04, 0.08), 3, held_out=True,
    ),
    "best": Preset(
        "What do the changes that won on held-out sequences gain on the test split?",
        _both(
            PAPER, BEST,
            replace(BEST, name="best, asked at random", acquisition="random"),
            replace(BEST, name="best, asked class by class at random",
                    acquisition="class_balanced_random"),
        ), (0.02, 0.04, 0.08, 0.16, 0.24), 3, budgets=(0.01, 0.02, 0.04, 0.08, 0.16, 0.24),
    ),
    "annotation-time": Preset(
        "Which questions teach most per second, by the times that annotators really took?",
        _both(PAPER, DOMINANT, _side(48)), (0.02, 0.04, 0.08), 2, lead_times=True,
    ),
    "region-size": Preset(
        "Which region size teaches most per click, and per second?",
        _more(
            (_side(32), _side(16), _side(48), _side(64), _dominant_side(16), _dominant_side(32)),
            (_side(24), _dominant_side(24), _dominant_side(48), _dominant_side(64),
             Method("multi-class, 1/12 of the short side", side_share=1 / 12)),
        ), (0.04, 0.08), 2, held_out=True,
    ),
}  # fmt: skip


def preset_experiment(
    name: str,
    size: str = "cpu",
    *,
    data: str = "camvid",
    root: str = "",
    seeds: int = 3,
    lead_times: Path | None = None,
) -> Experiment:
    """The experiment of a preset. `lead_times`: recorded answers to take the seconds from.

    Raises: ConfigError for an unknown name or size, or "annotation-time" without lead times;
    DataError for lead times that cannot be used.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}.", hint=f"Known: {', '.join(PRESETS)}.")
    if size not in SIZES:
        raise ConfigError(f"There is no size {size!r}.", hint=f"Known: {', '.join(SIZES)}.")
    preset, cpu = PRESETS[name], size == "cpu"
    notes = (preset.question, *((CPU_NOTE,) if cpu else ()))
    return Experiment(
        name=name,
        size=size,
        data=_data(data, root, cpu, preset.held_out),
        methods=tuple(_for_data(method, data) for method in preset.methods(size)),
        budgets=preset.cpu_budgets if cpu else preset.budgets,
        seeds=seeds,
        config="cpu" if cpu else "gpu",
        overrides=_cpu_overrides(preset.cpu_epochs) if cpu else (),
        cost=_cost(name, preset, lead_times),
        notes=(*notes, HELD_OUT_NOTE) if preset.held_out and data == "camvid" else notes,
    )


def _cpu_overrides(epochs: int) -> tuple[str, ...]:
    stages = [
        f"{stage}.{setting}"
        for stage in ("stage1", "stage2")
        for setting in (f"epochs={epochs}", f"steps_per_epoch={CPU_STEPS_PER_EPOCH}", "lr=1e-3")
    ]
    # bf16 halves the time of a step on a CPU that multiplies it (AVX512-BF16, AMX).
    fixed = ("model.head_channels=128", "device=cpu", "precision=bf16")
    return (f"model.short_side={CPU_SIDE_PX}", *fixed, *stages)


def _data(name: str, root: str, cpu: bool, held_out: bool) -> DataConfig:
    """Pool and test splits; VOC has no "undefined" class, as in the paper."""
    pool, test = ("train", "test" if name in ("camvid", "scenes") else "val")
    if held_out and name == "camvid":
        pool, test = "fit", "heldout"
    return DataConfig(
        name, root, pool, test, CPU_POOL if cpu else None, CPU_TEST if cpu else None,
        undefined=name != "voc2012",
    )  # fmt: skip


def _for_data(method: Method, data: str) -> Method:
    return replace(method, nu=12.0) if data == "voc2012" else method  # paper


def _cost(name: str, preset: Preset, lead_times: Path | None) -> AnnotationCost:
    if lead_times is not None:
        return fit_cost(read_lead_times(lead_times))
    if preset.lead_times:
        raise ConfigError(
            f"{name} works from recorded lead times, and there are none.",
            hint="Give --lead-times FILE: CSV or JSON with clicks and lead_time_s per answer.",
        )
    return AnnotationCost()
