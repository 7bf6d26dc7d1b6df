"""What can be changed about a project: each setting with its check, and when it takes effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from label_config import ClassSchema
from ml_backend.errors import BackendError
from ml_backend.store import Project
from ml_backend.train_settings import differences, overridden, preset_of, train_config
from training.config import CONFIGS, ModelConfig, TrainConfig
from training.errors import TrainingError

# Label Studio's own limits.
SHORTEST_TITLE, LONGEST_TITLE = 3, 50
CheckModel = Callable[[ModelConfig], None]


class WrongSettings(BackendError):
    """One or more values cannot be taken; `faults` says why, by the name of the setting."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        self.faults = dict(faults)
        told = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        super().__init__(told, "Nothing was changed. `pixbal project show` lists the settings.")


@dataclass(frozen=True)
class Setting:
    """One setting that can be changed.

    Attributes:
        column: the field of the project's row that holds it.
        help: what may be given, for people.
        when: when a change takes effect, and for what.
        show: the value as text, which `parse` takes.
        parse: text to value; ValueError says what was expected.
        choices: every value there is, where they can be listed.
    """

    name: str
    label: str
    column: str
    help: str
    when: str
    show: Callable[[Any], str]
    parse: Callable[[str], Any]
    choices: tuple[str, ...] = ()

    def shown(self, project: Project) -> str:
        """The project's value as text."""
        return self.show(getattr(project, self.column))


@dataclass(frozen=True)
class Fixed:
    """A setting of a project that never changes, and why."""

    name: str
    label: str
    value: str
    why: str


def check_title(text: str) -> str:
    """The title without blanks around it; ValueError for one that Label Studio refuses."""
    title = text.strip()
    if not SHORTEST_TITLE <= len(title) <= LONGEST_TITLE:
        raise ValueError(
            f"Label Studio takes titles of {SHORTEST_TITLE} to {LONGEST_TITLE} characters, "
            f"got {len(title)}: {title[:60]!r}"
        )
    if not title.isprintable():
        raise ValueError(f"expected printable characters, got {title!r}")
    return title


def _number(text: str, expected: str, lowest: float, highest: float = math.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise ValueError(f"expected {expected}, got {text.strip()[:60]!r}")
    return value


def _whole(text: str, expected: str, lowest: int) -> int:
    stripped = text.strip()
    # Nothing larger fits the column.
    if not (stripped.isascii() and stripped.isdigit() and lowest <= int(stripped[:20]) < 2**31):
        raise ValueError(f"expected {expected}, got {stripped[:60]!r}")
    return int(stripped)


def _budget(text: str) -> float:
    return _number(text, "a number of clicks, at least 1", 1.0)


def _train_every(text: str) -> int | None:
    if text.strip() in ("", "batch"):
        return None
    return _whole(text, "a whole number of labels, at least 1, or batch", 1)


def _per_image(text: str) -> int | None:
    if text.strip() in ("", "auto"):
        return None
    return _whole(text, "a whole number of questions, 0 for no limit, or auto", 0)


def _share(text: str) -> float:
    return _number(text, "a share from 0 to 1, such as 0.2", 0.0, 1.0)


PRETICKS = ("auto", "always", "never")


def _preticks(text: str) -> str:
    if text.strip() not in PRETICKS:
        raise ValueError(f"expected one of {', '.join(PRETICKS)}, got {text.strip()[:60]!r}")
    return text.strip()


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting(
            "title", "Title", "title", "3 to 50 characters",
            "At once, here and in Label Studio.", str, check_title,
        ),
        Setting(
            "budget", "Clicks of a batch", "budget_clicks", "at least 1",
            "From the next batch on; questions that are planned or open stay.",
            lambda value: f"{value:g}", _budget,
        ),
        Setting(
            "train-every", "Train after so many new labels", "train_every",
            "a whole number, or batch: only when the whole batch is answered",
            "Within seconds: the worker trains at once where there are as many new labels already.",
            lambda value: "batch" if value is None else str(value), _train_every,
        ),
        Setting(
            "per-image", "Most questions about one image in a batch", "per_image",
            "a whole number, 0: no limit, auto: by the size of the batch",
            "From the next batch on.",
            lambda value: "auto" if value is None else str(value), _per_image,
        ),
        Setting(
            "preticks", "Ticks in advance", "preticks",
            "auto: once they are seen to save keys; always; never",
            "For questions that are pushed from now on; open ones follow with the next version.",
            str, _preticks, PRETICKS,
        ),
        Setting(
            "smallest-share", "Smallest share of the outline that counts", "smallest_share",
            "0 to 1; 0: every class counts, however small",
            "At once: the header over every question and the instructions tell annotators so. "
            "Answers that were given before follow what was said then.",
            lambda value: f"{value:g}", _share,
        ),
    )
}  # fmt: skip
TRAINING_WHEN = (
    "With the next round. One that runs keeps what it began with; a failed one takes the change "
    "when training is started again. acquisition.*: when the pool is scored after the next round."
)
SHARE_WARNING = (
    "warning: from now on annotators are told otherwise which classes count. Answers from before "
    "and after then mean different things for classes of small share; tell your annotators."
)


def fixed_settings(project: Project) -> list[Fixed]:
    """What never changes in a project, and why."""
    names = ClassSchema.from_json(project.schema_json).names
    cut = "Every question and label names a region of it; make another project for another cut."
    return [
        Fixed("classes", "Classes", ", ".join(names),
              "Stored answers name them by their place, so that none goes or changes places; "
              "`pixbal classes append` adds more."),
        Fixed("template", "Template", project.template,
              "Answers are read by it; make another project for another one."),
        Fixed("method", "Superpixels", project.method, cut),
        Fixed("side", "Side of a region, px", str(project.side_px), cut),
        Fixed("seed", "Seed", str(project.seed),
              "The first questions were drawn with it, and every round is repeatable by it."),
        Fixed("order", "Order of the questions", "by score",
              "Label Studio's other orders ignore the scores, and the budget with them."),
    ]  # fmt: skip


def training_shown(project: Project) -> tuple[str, list[str]]:
    """The preset that the training config is nearest to, and what differs from it."""
    return preset_of(project.train_config)


def wanted_changes(
    project: Project,
    others: Sequence[Project],
    wanted: Mapping[str, str],
    *,
    config: str | None = None,
    overrides: Sequence[str] = (),
    check_model: CheckModel,
) -> dict[str, Any]:
    """The fields of the project's row that change, everything checked; {} where all is as asked.

    Args:
        others: every project known here; no two have one title, by which `pixbal init` finds them.
        wanted: values as text, by the name of their setting.
        config: a preset or a JSON file that replaces the training config.
        overrides: changes to that config, or to the one there is.
        check_model: raises TrainingError for a model that cannot be had; asked of another one only.

    Raises:
        WrongSettings: with every fault found.
    """
    faults: dict[str, str] = {}
    changes: dict[str, Any] = {}
    for name, text in wanted.items():
        if name not in SETTINGS:
            fixed = {f.name: f.why for f in fixed_settings(project)}
            faults[name] = fixed.get(name, f"no such setting; there are {', '.join(SETTINGS)}")
            continue
        setting = SETTINGS[name]
        try:
            changes[setting.column] = setting.parse(text)
        except ValueError as error:
            faults[name] = str(error)
    taken = [p.id for p in others if p.id != project.id and p.title == changes.get("title")]
    if taken:
        faults["title"] = f"project {taken[0]} has this title, by which `pixbal init` finds it"
    if config or overrides:
        try:
            changes["train_config"] = _training(project, config, overrides, check_model)
        except (BackendError, TrainingError) as error:
            faults["set" if overrides else "config"] = str(error)
    if faults:
        raise WrongSettings(faults)
    return {c: value for c, value in changes.items() if value != getattr(project, c)}


def _training(
    project: Project, config: str | None, overrides: Sequence[str], check_model: CheckModel
) -> dict[str, Any]:
    before = TrainConfig.from_json(project.train_config)
    after = (
        train_config(config, overrides, before.seed) if config else overridden(before, overrides)
    )
    if after.model != before.model:
        check_model(after.model)
    return after.to_json()


def changes_in_words(before: Project, changes: Mapping[str, Any]) -> list[str]:
    """What was changed, from what to what, and from when on."""
    lines = []
    for setting in SETTINGS.values():
        if setting.column in changes:
            value = setting.show(changes[setting.column])
            lines.append(f"{setting.name}: {setting.shown(before)} -> {value}. {setting.when}")
    if "train_config" in changes:
        changed = ", ".join(differences(before.train_config, changes["train_config"]))
        lines.append(f"training: {changed}. {TRAINING_WHEN}")
    if "smallest_share" in changes:
        lines.append(SHARE_WARNING)
    return lines or ["nothing differs, so nothing was changed"]


PRESETS = tuple(sorted(CONFIGS))
