"""Do ticks in advance save keys? Measured on control questions, which carry none. Pure functions.

Who is shown a tick tends to leave it, so answers under ticks say nothing about them. A share of the
questions is asked without, and what would have been ticked is compared with what was answered.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from ml_backend.predictions import NO_MODEL, ticks_of
from ml_backend.store import Label, Project, Query
from ml_backend.store.rows import ANSWER_KINDS
from training.regions import RegionId
from training.version_change import SURE, Change

# Of all questions, once ticks are shown; a batch of a hundred then still says something.
CONTROL_SHARE = 0.10
# From here on the error of the mean is known well enough for twice of it to mean something.
FEWEST_CONTROLS = 20
SOMETHING_ELSE = "\0other"  # beside class names, none of which holds a zero byte


@dataclass(frozen=True)
class Saving:
    """Keys that ticks would have saved per question: mean, its standard error, and of how many."""

    mean: float
    error: float
    count: int


@dataclass(frozen=True)
class TickDecision:
    """Whether questions carry ticks now, why, and what was measured (None: nothing yet)."""

    shown: bool
    why: str
    saving: Saving | None
    exact: float | None


def drawn_as_control(seed: int, region: RegionId, asking: int) -> bool:
    """Whether this question is one of those without ticks; the same draw whenever it is made."""
    text = f"{seed} {region} {asking}"
    draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return draw < CONTROL_SHARE * 2**64


def said(label: Label) -> frozenset[str]:
    """What was ticked, "Something else" among it; nothing for "Can't tell"."""
    if label.kind not in ANSWER_KINDS or label.kind == "unsure":
        return frozenset()
    other = label.other or label.kind == "nothing"
    return frozenset(label.classes) | ({SOMETHING_ELSE} if other else frozenset())


def keys_saved(ticks: Collection[str], label: Label, template: str) -> int:
    """Keys without ticks in advance minus keys with them; both end with one to submit.

    Without: one for each tick of the answer. With: one for each tick to take away or to add. With
    one choice only another one replaces it, and "Can't tell" is one key either way.
    """
    if label.kind == "unsure":
        return 0
    wanted, shown = said(label), set(ticks)
    if template == "region_dominant":
        return int(bool(shown) and shown == wanted)
    return len(wanted) - len(shown ^ wanted)


def measured(
    project: Project, queries: Iterable[Query], labels: Mapping[int, Label]
) -> dict[str, list[tuple[int, bool]]]:
    """By version: (keys saved, ticks exactly right) of each answered control question.

    Args:
        labels: the label that counts for each query id.
    """
    found: dict[str, list[tuple[int, bool]]] = {}
    for query in queries:
        label = labels.get(query.id)
        if not query.control or query.model_version == NO_MODEL or label is None:
            continue
        if label.kind not in ANSWER_KINDS:
            continue
        ticks = ticks_of(query, project.template)
        exact = label.kind != "unsure" and set(ticks) == said(label)
        saved = keys_saved(ticks, label, project.template)
        found.setdefault(query.model_version, []).append((saved, exact))
    return found


def saving(values: Sequence[int]) -> Saving | None:
    """Mean and standard error; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Saving(mean, math.sqrt(variance / len(values)), len(values))


def decide(
    mode: Literal["auto", "always", "never"] | str,
    found: Mapping[str, Sequence[tuple[int, bool]]],
    versions: Sequence[str],
) -> TickDecision:
    """Whether questions carry ticks.

    In "auto" the versions are gone through in their order. A version is judged by the control
    questions asked under it; where they are fewer than `FEWEST_CONTROLS`, by those of the versions
    just before it as well. The newest come first since models get better: all of them together
    would hold the first model's faults against the tenth. Ticks begin where the mean is
    above zero by twice its error, and end where it is no longer above zero at all, so that
    chance alone does not switch them on and off.

    Args:
        versions: names of all versions, oldest first.
    """
    groups = [found[name] for name in versions if found.get(name)]
    shown, window = False, list[tuple[int, bool]]()
    for last in range(len(groups)):
        window = _window(groups[: last + 1])
        now = saving([saved for saved, _ in window])
        if now is None or now.count < FEWEST_CONTROLS:
            continue
        shown = now.mean > 0 if shown else now.mean > SURE * now.error
    now = saving([saved for saved, _ in window])
    exact = sum(right for _, right in window) / len(window) if window else None
    if mode == "always":
        return TickDecision(True, "preticks is set to always", now, exact)
    if mode == "never":
        return TickDecision(False, "preticks is set to never", now, exact)
    return TickDecision(shown, _why(shown, now), now, exact)


def _window(groups: Sequence[Sequence[tuple[int, bool]]]) -> list[tuple[int, bool]]:
    """The newest groups, whole ones, until there are enough."""
    taken: list[Sequence[tuple[int, bool]]] = []
    for group in reversed(groups):
        taken.append(group)
        if sum(map(len, taken)) >= FEWEST_CONTROLS:
            break
    return list(chain.from_iterable(taken))


def _why(shown: bool, now: Saving | None) -> str:
    if now is None or now.count < FEWEST_CONTROLS:
        have = 0 if now is None else now.count
        return f"{have} of the {FEWEST_CONTROLS} answers without ticks that it takes to measure"
    return "they save keys" if shown else "they are not seen to save keys"


def controls_change(
    before: Sequence[tuple[int, bool]], after: Sequence[tuple[int, bool]]
) -> Change | None:
    """The difference of two versions' share of exactly right ticks, each on its own questions.

    Each version is tried where it was least sure itself, and before its training knew the answers.
    To try both on the same questions would be unfair to the one that chose them.

    Returns:
        None where one of them has fewer than `FEWEST_CONTROLS`.
    """
    old, new = (saving([int(exact) for _, exact in group]) for group in (before, after))
    if old is None or new is None or min(old.count, new.count) < FEWEST_CONTROLS:
        return None
    error = math.hypot(old.error, new.error)
    return Change(new.mean - old.mean, error, min(old.count, new.count))
