"""What answers cost an annotator, in seconds: a model, and its fit to recorded lead times."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.config_parsing import ensure
from training.errors import DataError

COLUMNS = ("clicks", "lead_time_s")
_FORMAT = f"Give CSV with the columns {', '.join(COLUMNS)}, or a JSON list of objects with them."


@dataclass(frozen=True)
class AnnotationCost:
    """seconds = questions x (page_turn_s + look_s) + clicks x key_s."""

    page_turn_s: float = 0.9  # measured in Label Studio 1.23: submitted until the next is visible
    look_s: float = 1.5  # assumption: see the outline and know what is inside
    key_s: float = 0.6  # assumption: one class found and its key pressed
    source: str = "page turn measured in Label Studio; look and key are assumptions"

    def __post_init__(self) -> None:
        parts = (self.page_turn_s, self.look_s, self.key_s)
        ensure(
            min(parts) >= 0 and max(parts) > 0, "cost", "seconds of at least 0, one over 0", parts
        )

    def seconds(self, questions: int, clicks: int) -> float:
        """Annotator seconds for so many questions with so many clicks in all."""
        return questions * (self.page_turn_s + self.look_s) + clicks * self.key_s


@dataclass(frozen=True)
class LeadTime:
    """One recorded answer: its clicks, and the seconds from question shown to answer sent."""

    clicks: int
    lead_time_s: float


def fit_cost(times: Sequence[LeadTime], page_turn_s: float = 0.9) -> AnnotationCost:
    """Look and key from lead times: median over answers of each number of clicks, then a line.

    lead_time = look_s + clicks x key_s, least squares over the medians weighted by the number of
    answers, neither below 0. Medians, because a coffee break is a lead time, too.

    Raises: DataError unless at least two different numbers of clicks occur.
    """
    clicks = np.array([time.clicks for time in times])
    seconds = np.array([time.lead_time_s for time in times])
    values, counts = np.unique(clicks, return_counts=True)
    if len(values) < 2:
        raise DataError(
            f"{len(times)} lead times with {len(values)} different numbers of clicks cannot tell "
            "a look from a key.",
            hint="Record answers with one class and with several.",
        )
    medians = np.array([np.median(seconds[clicks == value]) for value in values])
    look, key = _line(values.astype(float), medians, counts.astype(float))
    return AnnotationCost(page_turn_s, look, key, f"fitted to {len(times)} recorded lead times")


def read_lead_times(path: Path) -> list[LeadTime]:
    """Answers of a CSV or JSON file with `COLUMNS`; others are ignored.

    Raises: DataError for a missing or unreadable file, a missing column, or numbers that are none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        rows: Any = (
            json.loads(text)
            if path.suffix.lower() == ".json"
            else [*csv.DictReader(text.splitlines())]
        )
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}.", hint=_FORMAT) from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} holds no lead times.", hint=_FORMAT)
    return [_lead_time(path, number, row) for number, row in enumerate(rows, 1)]


def _lead_time(path: Path, number: int, row: object) -> LeadTime:
    try:
        clicks, seconds = (float(row[name]) for name in COLUMNS)  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}, answer {number}: {row!r} is no lead time.", hint=_FORMAT
        ) from error
    if not (clicks >= 0 and clicks == int(clicks) and 0 <= seconds < math.inf):
        raise DataError(
            f"{path}, answer {number}: {clicks:g} clicks in {seconds:g} s cannot be.", hint=_FORMAT
        )
    return LeadTime(int(clicks), seconds)


def _line(x: Any, y: Any, weight: Any) -> tuple[float, float]:
    """Offset and slope, neither negative, of the weighted least-squares line."""
    mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = np.average((x - mean_x) ** 2, weights=weight)
    slope = max(0.0, np.average((x - mean_x) * (y - mean_y), weights=weight) / spread)
    offset = mean_y - slope * mean_x
    if offset < 0:  # best line through the origin
        return 0.0, float(np.average(x * y, weights=weight) / np.average(x * x, weights=weight))
    return float(offset), float(slope)
