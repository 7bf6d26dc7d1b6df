"""Answers that nobody may have looked at: saved at once, as they were shown. A pure function."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from ml_backend.agreement import said
from ml_backend.predictions import ticks_of
from ml_backend.store import Label, Query

# Label Studio shows the next question under the same key: pressed twice, Ctrl+Enter saved a
# question after 2.4 s that nobody had seen.
HASTY = 1 / 3  # of the annotator's own median
# From fewer answers nobody's median is known.
FEWEST_TIMES = 8


@dataclass(frozen=True)
class Flagged:
    """An answer to ask for again, and why."""

    query: Query
    label: Label
    reason: str


def flagged(answers: Iterable[tuple[Query, Label]], template: str) -> list[Flagged]:
    """Answers saved in under a third of their annotator's median time with no tick changed.

    Args:
        answers: questions with the label that counts for each; medians are taken over all of them.

    Returns:
        Those to ask again, in the order they came in. An annotator with fewer than
        `FEWEST_TIMES` timed answers has no median, so none of hers is flagged; neither is an
        answer without a time or an annotator, a skip, or one that cannot be read.
    """
    timed = [
        (query, label, label.annotator, label.lead_time_s)
        for query, label in answers
        if label.annotator is not None
        and label.lead_time_s is not None
        and label.kind not in ("skipped", "invalid")
    ]
    times: dict[str, list[float]] = {}
    for _, _, who, seconds in timed:
        times.setdefault(who, []).append(seconds)
    usual = {who: median(found) for who, found in times.items() if len(found) >= FEWEST_TIMES}
    return [
        Flagged(query, label, f"saved as shown after {seconds:.1f} s; usually {usual[who]:.1f} s")
        for query, label, who, seconds in timed
        if who in usual and seconds < HASTY * usual[who] and _as_shown(query, label, template)
    ]


def _as_shown(query: Query, label: Label, template: str) -> bool:
    """Whether no tick was changed: "Can't tell" is one that was."""
    if label.kind == "unsure":
        return False
    shown = () if query.control else ticks_of(query, template)
    return said(label) == set(shown)
