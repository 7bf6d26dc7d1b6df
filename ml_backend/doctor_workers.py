"""What the doctor says of workers: who lives, who is lost, what was taken over."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlsplit

from ml_backend.checks import Check
from ml_backend.leases import worker_lease
from ml_backend.settings import Settings
from ml_backend.store import Lease, Store


def examine_workers(settings: Settings, store: Store, now: datetime) -> list[Check]:
    """One check for each worker that is lost or was taken over, one for how they would meet."""
    prefix = worker_lease("")
    leases = store.leases()
    checks = [
        _lost(lease, [w.name for w in leases if w.holder == lease.holder and w != lease], now)
        for lease in leases
        if lease.name.startswith(prefix)
        and lease.holder
        and _silent_s(lease, now) > _limit(settings)
    ]
    return [*checks, *_databases(settings)]


def _silent_s(lease: Lease, now: datetime) -> float:
    return (now - lease.renewed_at).total_seconds()


def _limit(settings: Settings) -> float:
    # The clocks of two machines differ: what counts is the beat that the workers watch.
    return settings.lease_s + 30.0


def _lost(lease: Lease, held: list[str], now: datetime) -> Check:
    what = f" with {', '.join(held)}" if held else ""
    return Check(
        lease.name,
        False if held else None,
        f"{lease.holder} was silent for {_silent_s(lease, now):.0f} s{what}",
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
