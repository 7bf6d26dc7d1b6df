"""What `pixbal status` and the page say of answers: ticks in advance, hasty answers, the version
in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ml_backend.agreement import TickDecision
from ml_backend.ask_again import flagged_of
from ml_backend.store import Label, Project, Query, Store, VersionRow
from ml_backend.ticks import decision_of
from ml_backend.version_use import version_warning


def answers_status(
    store: Store,
    project: Project,
    queries: Sequence[Query],
    labels: Mapping[int, Label],
    versions: Sequence[VersionRow],
) -> dict[str, Any]:
    """Values for scripts; `ticks.says` and `version_warning` are for people."""
    decision = decision_of(project, queries, labels, versions)
    flags = flagged_of(project, queries, labels)
    return {
        "version_in_use": project.current_version,
        "version_warning": version_warning(store, project),
        "ticks": {
            "mode": project.preticks,
            "shown": decision.shown,
            "why": decision.why,
            "saving": None if decision.saving is None else asdict(decision.saving),
            "exactly_right": decision.exact,
            "says": ticks_line(decision),
        },
        "flagged": [
            {
                "task": item.query.task_id,
                "region": f"{item.query.image_id}:{item.query.region_index}",
                "annotator": item.label.annotator,
                "why": item.reason,
            }
            for item in flags
        ],
        "asked_again": sum(query.asking > 1 for query in queries),
    }


def ticks_line(decision: TickDecision) -> str:
    """Whether ticks are shown, why, and what was measured."""
    text = f"{'shown' if decision.shown else 'not shown'}: {decision.why}"
    if decision.saving is None or decision.exact is None:
        return text
    found = decision.saving
    return (
        f"{text}; on {found.count} questions without ticks {found.mean:+.2f} keys saved a question "
        f"(error {found.error:.2f}), {decision.exact:.0%} of the ticks exactly right"
    )


def answers_lines(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the table in a terminal: (name, text)."""
    lines = [("ticks in advance", str(status["ticks"]["says"]))]
    if status["version_in_use"] not in (None, status["model_version"]):
        lines.append(("in use", f"{status['version_in_use']}, from the next push on"))
    if status["version_warning"]:
        lines.append(("warning", str(status["version_warning"])))
    if status["flagged"]:
        count = len(status["flagged"])
        command = f"pixbal ask-again --flagged --project {status['project']}"
        lines.append(("flagged", f"{count} answer{'s' * (count > 1)} saved at once: {command}"))
    if status["asked_again"]:
        count = status["asked_again"]
        lines.append(("asked again", f"{count} question{'s' * (count > 1)}"))
    return lines
