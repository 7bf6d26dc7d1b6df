"""What a page shows of a project: the rows of the store, put into words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ml_backend.store import Round, VersionRow
from ml_backend.words import ENDED, duration, state_words
from training.report_figures import Dot, Series, bar_chart, line_chart

TRIGGERS: Mapping[str, str] = {"labels": "batch answered", "request": "asked for"}


@dataclass(frozen=True)
class Job:
    """The round that is queued or running, in words.

    `share` in % of the stage, None if unknown; `eta` is the time to the end of the stage, too.
    """

    round: int
    state: str
    epoch: str
    steps: str
    share: int | None
    loss: str
    eta: str


@dataclass(frozen=True)
class RoundLine:
    """A line of the table of rounds."""

    number: int
    state: str
    attempt: str
    trigger: str
    labels: str
    clicks: str
    miou: str
    took: str
    error: str
    hint: str
    note: str


@dataclass(frozen=True)
class VersionLine:
    """A line of the table of versions."""

    name: str
    round: int
    miou: str
    made: str
    weights: str
    in_use: bool


def current_job(rounds: Sequence[Round], waiting: Callable[[Round], str]) -> Job | None:
    """The round that is not over, or None; `waiting` says behind whom a queued one waits."""
    running = [row for row in rounds if row.state not in ENDED]
    if not running:
        return None
    row = running[-1]
    share = None
    if row.steps and row.step is not None and row.state == row.stage:
        share = min(100, max(0, round(100 * row.step / row.steps)))
    return Job(
        round=row.number,
        state=waiting(row) or state_words(row.state),
        epoch="" if row.epoch is None else str(row.epoch),
        steps=f"{row.step} of {row.steps}" if row.steps else "",
        share=share,
        loss="" if row.loss is None or not math.isfinite(row.loss) else f"{row.loss:.3f}",
        eta="" if row.eta_s is None or not math.isfinite(row.eta_s) else duration(row.eta_s),
    )


def round_lines(rounds: Iterable[Round], versions: Iterable[VersionRow]) -> list[RoundLine]:
    """The table of rounds, newest first."""
    scores = {version.round: score(version) for version in versions}
    lines = []
    for row in rounds:
        lines.append(
            RoundLine(
                number=row.number,
                state=state_words(row.state),
                attempt="" if row.attempts < 2 else f"try {row.attempts}",
                trigger=TRIGGERS.get(row.trigger, row.trigger),
                labels="" if row.labels is None else str(row.labels),
                clicks="" if row.clicks is None else str(row.clicks),
                miou=percent(scores.get(row.number)),
                took=_took(row),
                error=row.error or "",
                hint=_hint(row),
                note=row.note or "",
            )
        )
    return lines[::-1]


def _hint(row: Round) -> str:
    """What comes next; what to do, the error itself says where that is known."""
    if row.state != "failed":
        return ""
    log = "The worker's log has the details."
    if row.retry_in_s is not None:
        return f"{log} The round is tried again by itself after {duration(row.retry_in_s)}."
    return f"{log} The round is tried again when you start training."


def _took(row: Round) -> str:
    if row.finished_at is None:
        return ""
    # Two clocks may have written them.
    return duration(max(0.0, (row.finished_at - row.started_at).total_seconds()))


def version_lines(versions: Iterable[VersionRow], in_use: str | None) -> list[VersionLine]:
    """The table of versions, newest first."""
    return [
        VersionLine(
            name=row.name,
            round=row.round,
            miou=percent(score(row)),
            made=row.created_at.strftime("%Y-%m-%d %H:%M UTC"),
            weights=row.weights_hash[:12],
            in_use=row.name == in_use,
        )
        for row in versions
    ][::-1]


def curve(rounds: Iterable[Round], versions: Iterable[VersionRow]) -> Markup:
    """mIoU against clicks as an SVG; empty where nothing was measured."""
    clicks = {row.number: row.clicks for row in rounds}
    dots = []
    for version in versions:
        value, spent = score(version), clicks.get(version.round)
        if value is not None and spent is not None:
            title = f"{version.name}: {percent(value)} % after {spent} clicks"
            dots.append(Dot(float(spent), 100 * value, None, title))
    # Escaped by the figures themselves: names and titles become text, never markup.
    return Markup(line_chart([Series("mIoU", tuple(dots), 0)], "clicks", "mIoU, %"))


def class_bars(version: VersionRow | None, names: Sequence[str]) -> Markup:
    """IoU of each named class by a version as an SVG; empty where it was not measured."""
    stage = {} if version is None else version.metrics.get("stage2")
    found = stage.get("per_class") if isinstance(stage, Mapping) else None
    if version is None or not isinstance(found, Mapping):
        return Markup("")
    values = [_number(found.get(name)) for name in names]
    if all(value is None for value in values):
        return Markup("")
    return Markup(bar_chart(names, [(version.name, 0, values)]))


def score(version: VersionRow) -> float | None:
    """mIoU of a version in 0..1, None where no held-out image measured it."""
    return _number(version.metrics.get("miou"))


def percent(value: float | None) -> str:
    """0.4567 as 45.7; empty for None."""
    return "" if value is None else f"{100 * value:.1f}"


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None
