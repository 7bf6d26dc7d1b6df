"""What `pixbal status` shows, as values and as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from ml_backend.answers_status import answers_lines, answers_status
from ml_backend.errors import NotFound
from ml_backend.labels import counting_labels
from ml_backend.liveness import WorkerSign
from ml_backend.settings import Settings
from ml_backend.store import Store
from ml_backend.trouble import trouble_advice
from ml_backend.words import ENDED, duration, state_words, waits_for


def project_status(
    settings: Settings, store: Store, project_id: int, workers: Sequence[WorkerSign] = ()
) -> dict[str, Any]:
    """Counts, rounds and versions of a project; no secret is among them.

    `workers`: what a look at them has found, see `liveness`.
    """
    project = store.project(project_id)
    if project is None:
        raise NotFound(f"project {project_id} is unknown here", hint="See `pixbal status`.")
    images = store.images(project_id)
    queries, labels = store.queries(project_id), store.effective_labels(project_id)
    versions = store.versions(project_id)
    counting = counting_labels(queries, labels)
    rounds = store.rounds(project_id)
    return {
        "project": project_id,
        "title": project.title,
        "url": settings.project_page(project_id),
        "template": project.template,
        "trouble_advice": trouble_advice(project),
        "method": project.method,
        "side_px": project.side_px,
        "model_version": project.model_version,
        "current_version": project.current_version,
        "state": project.state,
        "push_held": project.push_held,
        "trouble": project.trouble,
        "trouble_at": project.trouble_at,
        "images": dict(Counter(f"{i.split} {i.status}" for i in images)),
        "refused": [
            {"image": i.source, "why": i.reason} for i in images if i.status == "unreadable"
        ],
        "regions": sum(i.region_count for i in images if i.split == "pool" and i.status == "ready"),
        "questions": dict(Counter(q.status for q in queries)),
        "labels": dict(Counter(label.kind for label in counting.values())),
        "clicks": store.clicks(project_id),
        "rounds": [asdict(r) for r in rounds],
        "waiting": waits_for(store, rounds[-1], workers) if rounds else "",
        "workers": [asdict(worker) for worker in workers],
        "versions": [asdict(v) for v in versions],
        **answers_status(store, project, queries, labels, versions),
        "events_kept_aside": [
            {"event": e.id, "action": e.action, "why": e.error, "at": e.received_at}
            for e in store.failed_events(project_id)
        ],
    }


def status_tables(status: dict[str, Any]) -> list[Table]:
    """The status for a terminal of 80 columns: counts, rounds, and in full what was said of them.

    Whatever may be long has a column of its own that takes all the room there is.
    """
    counts = Table(
        title=f"Project {status['project']}: {escape(status['title'])}", show_header=False
    )
    counts.add_column(no_wrap=True)
    counts.add_column(overflow="fold")
    for key in ("url", "method", "side_px", "model_version", "regions", "clicks"):
        counts.add_row(key, escape("none yet" if status[key] is None else str(status[key])))
    for key in ("images", "questions", "labels"):
        text = ", ".join(f"{n} {name}" for name, n in sorted(status[key].items())) or "none"
        counts.add_row(key, escape(text))
    for name, line in answers_lines(status):
        counts.add_row(name, escape(line))
    for row in status["rounds"]:
        if row["state"] not in ENDED:
            counts.add_row("now", escape(_now(row, status["waiting"])))
    if status["state"] != "active":
        counts.add_row("state", escape(status["state"]))
    if status["push_held"]:
        push = f"`pixbal push --project {status['project']}`"
        counts.add_row("next questions", escape(f"not before {push} (--no-push)"))
    for line in _kept_aside(status["events_kept_aside"]):
        counts.add_row("kept aside", escape(line))
    if status["trouble"]:
        since = f"Since {status['trouble_at']:%Y-%m-%d %H:%M} UTC." if status["trouble_at"] else ""
        counts.add_row("trouble", escape(f"{status['trouble']} {since} {status['trouble_advice']}"))
    for refused in status["refused"][:5]:
        counts.add_row("refused", escape(f"{refused['image']}: {refused['why']}"))
    rounds = Table(title="Rounds")
    for column in ("round", "state", "labels", "clicks", "mIoU"):
        rounds.add_column(column, no_wrap=True)
    remarks = Table(title="What was said of them")
    remarks.add_column("round", no_wrap=True)
    remarks.add_column("remark", overflow="fold")
    metrics = {v["round"]: v["metrics"] for v in status["versions"]}
    for row in status["rounds"]:
        miou = metrics.get(row["number"], {}).get("miou")
        rounds.add_row(
            str(row["number"]),
            state_words(row["state"]),
            str(row["labels"] or ""),
            str(row["clicks"] or ""),
            "" if miou is None else f"{miou:.3f}",
        )
        if said := _remarks(row):
            remarks.add_row(str(row["number"]), escape(said))
    return [counts, rounds, *([remarks] if remarks.rows else [])]


def _kept_aside(events: Sequence[dict[str, Any]], most: int = 3) -> list[str]:
    """What led to nothing, newest first: requests of people, and events that cannot be applied."""
    lines = [f"{e['at']:%Y-%m-%d %H:%M} UTC {e['action']}: {e['why']}" for e in events[:most]]
    more = len(events) - most
    return [*lines, f"{more} earlier one{'s' * (more > 1)}"] if more > 0 else lines


def _now(row: dict[str, Any], waiting: str) -> str:
    """The round that is not over: where it is, or behind whom it waits."""
    parts = [f"round {row['number']}: {waiting or state_words(row['state'])}"]
    if row["steps"] and row["state"] == row["stage"]:
        parts.append(f"step {row['step']} of {row['steps']}")
    if row["loss"] is not None:
        parts.append(f"loss {row['loss']:.3f}")
    if row["eta_s"] is not None:
        # How long measuring, scoring and pushing take afterwards nobody knows.
        parts.append(f"about {duration(row['eta_s'])} of training left")
    return ", ".join(parts)


def _remarks(row: dict[str, Any]) -> str:
    """Why a round failed, when it is tried again, who took it over."""
    parts = [row["error"], row["note"]]
    if row["state"] == "failed" and row["retry_in_s"] is not None:
        parts.insert(1, f"Tried again after {row['retry_in_s']:.0f} s (try {row['attempts']}).")
    return " ".join(part for part in parts if part)
