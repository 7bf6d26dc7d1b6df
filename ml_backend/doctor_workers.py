"""What the doctor says of workers: who lives, who is lost, what was taken over."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from ml_backend.checks import Check
from ml_backend.leases import worker_lease
from ml_backend.liveness import WorkerSign
from ml_backend.settings import Settings

START = "Start it: pixbal worker (or pixbal up). Without it nothing is trained or pushed."


def examine_workers(settings: Settings, workers: Sequence[WorkerSign]) -> list[Check]:
    """One check for whether any worker lives, one for each that is lost, one for how they meet."""
    alive = [worker.id for worker in workers if worker.alive]
    if alive:
        running = Check("worker", True, f"alive: {', '.join(alive)}")
    elif workers:
        running = Check("worker", False, "none gives a sign of life", START)
    else:
        running = Check("worker", False, "none runs", START)
    lost = [_lost(worker) for worker in workers if not worker.alive]
    return [running, *lost, *_databases(settings)]


def _lost(worker: WorkerSign) -> Check:
    what = f" with {', '.join(worker.held)}" if worker.held else ""
    return Check(
        worker_lease(worker.id),
        False if worker.held else None,
        f"{worker.holder} was silent for {worker.silent_s:.0f} s while we looked{what}",
        "Another worker takes its round over; start one (pixbal worker) if none runs. "
        "If it runs and is frozen, end it: its late writes are refused.",
    )


def _databases(settings: Settings) -> list[Check]:
    """Workers on several machines must share both databases, else nobody can take over."""
    kinds = [
        urlsplit(url).scheme.split("+")[0]
        for url in (settings.database_url, settings.workflow_database_url)
    ]
    if kinds == ["postgresql", "sqlite"]:
        advice = "Set PIXBAL_WORKFLOW_DATABASE_URL to PostgreSQL too, if more than one worker runs."
        detail = (
            "the store is shared, the state of rounds is not: no worker can take over another's"
        )
        return [Check("workflow database", None, detail, advice)]
    return []
