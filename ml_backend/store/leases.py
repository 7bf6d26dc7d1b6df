"""Leases: who may work on what, across machines. A number that only rises tells old from new."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import select, update

from ml_backend.store import schema
from ml_backend.store.base import Dialects, StorePart
from ml_backend.store.rows import Lease, utc_now


class Leases(StorePart):
    """The part of the store that knows leases.

    No clock decides here: a holder counts `beat` up, and whoever wants the lease watches whether
    it still rises. Clocks of machines differ and jump; a count does neither.
    """

    def take_lease(self, name: str, holder: str, seen: Lease | None) -> Lease | None:
        """Take a lease that is as it was `seen` (None: there was no such row).

        Returns:
            The lease with a new token, or None where somebody was quicker or it beats after all.
        """
        table = schema.lease
        row: dict[str, Any] = {"holder": holder, "beat": 0, "renewed_at": utc_now()}
        with self._write() as connection:
            if seen is None:
                insert = Dialects.insert(connection, table).on_conflict_do_nothing()
                row |= {"name": name, "token": 1}
                if not Dialects.changes(connection, insert, row):
                    return None
            else:
                if seen.holder not in (None, holder):
                    row |= {"taken_from": seen.holder, "taken_at": utc_now()}
                unchanged = (
                    table.c.name == name,
                    table.c.token == seen.token,
                    table.c.beat == seen.beat,
                )
                statement = update(table).where(*unchanged).values(token=seen.token + 1, **row)
                if connection.execute(statement).rowcount == 0:
                    return None
            return Lease(*connection.execute(select(table).where(table.c.name == name)).one())

    def renew_leases(self, leases: Iterable[Lease]) -> list[Lease]:
        """Say that the holder lives; returns those that are no longer its own."""
        table = schema.lease
        lost = []
        with self._write() as connection:
            for lease in leases:
                own = (table.c.name == lease.name, table.c.token == lease.token)
                changes = {"beat": table.c.beat + 1, "renewed_at": utc_now()}
                if connection.execute(update(table).where(*own).values(changes)).rowcount == 0:
                    lost.append(lease)
        return lost

    def release_lease(self, lease: Lease) -> bool:
        """Give a lease back, so that nobody has to wait for it; False where it was not ours."""
        table = schema.lease
        own = (table.c.name == lease.name, table.c.token == lease.token)
        with self._write() as connection:
            return connection.execute(update(table).where(*own).values(holder=None)).rowcount == 1

    def lease(self, name: str) -> Lease | None:
        """The lease as it is now, or None."""
        table = schema.lease
        with self._read() as connection:
            row = connection.execute(select(table).where(table.c.name == name)).first()
        return Lease(*row) if row else None

    def leases(self) -> list[Lease]:
        """Every lease, by name."""
        with self._read() as connection:
            rows = connection.execute(select(schema.lease).order_by(schema.lease.c.name))
            return [Lease(*row) for row in rows]
