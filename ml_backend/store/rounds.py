"""Rounds: one record each, written before the work is queued and kept up to date by it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update

from ml_backend.errors import NotFound
from ml_backend.store import schema
from ml_backend.store.base import Dialects, StorePart, check_fields, values
from ml_backend.store.rows import Round


class Rounds(StorePart):
    """The part of the store that knows rounds."""

    def start_round(self, project_id: int, number: int, trigger: str, workflow_id: str) -> bool:
        """Record a round as queued; False where it is recorded already."""
        row = Round(project_id, number, trigger, workflow_id, "queued", started_at=_now())
        with self._write() as connection:
            insert = Dialects.insert(connection, schema.round_).on_conflict_do_nothing()
            return Dialects.changes(connection, insert, values(row))

    def update_round(self, project_id: int, number: int, **changes: Any) -> None:
        """Change fields of a round.

        Raises:
            NotFound: no such round.
        """
        check_fields(Round, changes, ("project_id", "number"))
        table = schema.round_
        where = (table.c.project_id == project_id, table.c.number == number)
        with self._write() as connection:
            done = connection.execute(update(table).where(*where).values(changes))
            if changes and done.rowcount == 0:
                raise NotFound(f"Project {project_id} has no round {number}.")

    def round(self, project_id: int, number: int) -> Round | None:
        """The round, or None."""
        table = schema.round_
        where = (table.c.project_id == project_id, table.c.number == number)
        with self._read() as connection:
            row = connection.execute(select(table).where(*where)).first()
        return Round(*row) if row else None

    def rounds(self, project_id: int) -> list[Round]:
        """Rounds of a project by number."""
        table = schema.round_
        statement = select(table).where(table.c.project_id == project_id)
        with self._read() as connection:
            return [Round(*row) for row in connection.execute(statement.order_by(table.c.number))]


def _now() -> datetime:
    return datetime.now(UTC)
