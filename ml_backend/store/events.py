"""Events: recorded before they are acknowledged, applied later, kept afterwards."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sqlalchemy import func, select, update

from ml_backend.errors import NotFound
from ml_backend.events import event_digest, redact
from ml_backend.store import schema
from ml_backend.store.base import Dialects, StorePart
from ml_backend.store.group_commit import GroupCommit
from ml_backend.store.rows import Event


class Events(StorePart):
    """The part of the store that knows events."""

    def record_event(
        self, project_id: int | None, action: str, payload: Mapping[str, Any]
    ) -> tuple[Event, bool]:
        """Store an event, without secrets; durable when this returns.

        Returns:
            The stored event, and whether it is new (False for another delivery of the same one).
        """
        clean = redact(payload)
        digest = event_digest(project_id, action, clean)
        row = {
            "project_id": project_id,
            "action": action,
            "payload": clean,
            "digest": digest,
            "received_at": datetime.now(UTC),
        }
        return self._together(row)

    @cached_property
    def _together(self) -> GroupCommit[dict[str, Any], tuple[Event, bool]]:
        return GroupCommit(self._record)

    def _record(self, rows: Sequence[dict[str, Any]]) -> list[tuple[Event, bool]]:
        table = schema.event
        found = []
        with self._write(alone=False) as connection:
            insert = Dialects.insert(connection, table)
            insert = insert.on_conflict_do_nothing(index_elements=["digest"])
            for row in rows:
                new = Dialects.changes(connection, insert, row)
                same = table.c.digest == row["digest"]
                stored = connection.execute(select(table).where(same)).one()
                found.append((Event(*stored), new))
        return found

    def pending_events(
        self,
        limit: int = 500,
        *,
        actions: Collection[str] | None = None,
        without: Collection[str] = (),
        project_id: int | None = None,
    ) -> list[Event]:
        """Events not applied yet, in the order they came.

        Args:
            limit: at most this many.
            actions: only these actions.
            without: none of these actions.
            project_id: only of this project.
        """
        table = schema.event
        statement = select(table).where(table.c.processed_at.is_(None))
        if actions is not None:
            statement = statement.where(table.c.action.in_(list(actions)))
        if without:
            statement = statement.where(table.c.action.not_in(list(without)))
        if project_id is not None:
            statement = statement.where(table.c.project_id == project_id)
        with self._read() as connection:
            rows = connection.execute(statement.order_by(table.c.id).limit(limit))
            return [Event(*row) for row in rows]

    def finish_event(self, event_id: int, error: str | None = None) -> None:
        """Mark an event as applied, or as kept aside with the reason.

        Raises:
            NotFound: no such event.
        """
        table = schema.event
        changes = {"processed_at": datetime.now(UTC), "error": error}
        with self._write(derived=True) as connection:
            done = connection.execute(update(table).where(table.c.id == event_id).values(changes))
            if done.rowcount == 0:
                raise NotFound(f"There is no event {event_id}.")

    def failed_events(self, project_id: int | None = None, *, limit: int = 100) -> list[Event]:
        """Events kept aside with an error, newest first; of one project or of all."""
        table = schema.event
        statement = select(table).where(table.c.error.is_not(None)).order_by(table.c.id.desc())
        if project_id is not None:
            statement = statement.where(table.c.project_id == project_id)
        with self._read() as connection:
            return [Event(*row) for row in connection.execute(statement.limit(limit))]

    def count_events(self) -> int:
        """All events, applied or not."""
        with self._read() as connection:
            return int(
                connection.execute(select(func.count()).select_from(schema.event)).scalar_one()
            )
