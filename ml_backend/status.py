"""What `pixbal status` shows, as values and as tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from ml_backend.answers_status import answers_lines, answers_status
from ml_backend.errors import NotFound
from ml_backend.labels import counting_labels
from ml_backend.settings import Settings
from ml_backend.store import Store


def project_status(settings: Settings, store: Store, project_id: int) -> dict[str, Any]:
    """Counts, rounds and versions of a project; no secret is among them."""
    project = store.project(project_id)
    if project is None:
        raise NotFound(f"project {project_id} is unknown here", hint="See `pixbal status`.")
    images = store.images(project_id)
    queries, labels = store.queries(project_id), store.effective_labels(project_id)
    versions = store.versions(project_id)
    counting = counting_labels(queries, labels)
    return {
        "project": project_id,
        "title": project.title,
        "url": f"{settings.label_studio_url}/projects/{project_id}/data",
        "template": project.template,
        "method": project.method,
        "side_px": project.side_px,
        "model_version": project.model_version,
        "images": dict(Counter(f"{i.split} {i.status}" for i in images)),
        "refused": [{"image": i.source, "why": i.reason} for i in images if i.status != "ready"],
        "regions": sum(i.region_count for i in images if i.split == "pool"),
        "questions": dict(Counter(q.status for q in queries)),
        "labels": dict(Counter(label.kind for label in counting.values())),
        "clicks": store.clicks(project_id),
        "rounds": [asdict(r) for r in store.rounds(project_id)],
        "workers": [asdict(lease) for lease in store.leases() if lease.holder],
        "versions": [asdict(v) for v in versions],
        **answers_status(store, project, queries, labels, versions),
        "events_kept_aside": [
            {"event": e.id, "action": e.action, "why": e.error}
            for e in store.failed_events()
            if e.project_id == project_id
        ],
    }


def status_tables(status: dict[str, Any]) -> list[Table]:
    """The status for a terminal: one table of counts, one of rounds."""
    counts = Table(
        title=f"Project {status['project']}: {escape(status['title'])}", show_header=False
    )
    for key in ("url", "method", "side_px", "model_version", "regions", "clicks"):
        counts.add_row(key, escape(str(status[key])))
    for key in ("images", "questions", "labels"):
        text = ", ".join(f"{n} {name}" for name, n in sorted(status[key].items())) or "none"
        counts.add_row(key, escape(text))
    for name, line in answers_lines(status):
        counts.add_row(name, escape(line))
    for refused in status["refused"][:5]:
        counts.add_row("refused", escape(f"{refused['image']}: {refused['why']}"))
    rounds = Table(title="Rounds")
    for column in (
        "round",
        "state",
        "progress",
        "loss",
        "ETA",
        "labels",
        "clicks",
        "mIoU",
        "error",
    ):
        rounds.add_column(column)
    metrics = {v["round"]: v["metrics"] for v in status["versions"]}
    for row in status["rounds"]:
        miou = metrics.get(row["number"], {}).get("miou")
        done = row["state"] in ("done", "failed")
        step = "" if done or not row["steps"] else f"{row['step']}/{row['steps']}"
        rounds.add_row(
            str(row["number"]),
            row["state"],
            step,
            "" if done or row["loss"] is None else f"{row['loss']:.3f}",
            "" if done or row["eta_s"] is None else f"{row['eta_s']:.0f} s",
            str(row["labels"] or ""),
            str(row["clicks"] or ""),
            "" if miou is None else f"{miou:.3f}",
            escape(_remarks(row)),
        )
    return [counts, rounds]


def _remarks(row: dict[str, Any]) -> str:
    """Why a round failed, when it is tried again, who took it over."""
    parts = [row["error"], row["note"]]
    if row["state"] == "failed" and row["retry_in_s"] is not None:
        parts.insert(1, f"Tried again after {row['retry_in_s']:.0f} s (try {row['attempts']}).")
    return " ".join(part for part in parts if part)
