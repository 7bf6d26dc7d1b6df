"""A query's status follows from its live labels, in the transaction that changes them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, and_, case, exists, select, update

from ml_backend.store import schema
from ml_backend.store.base import chunks

# Statuses that labels move between; a query that is not in Label Studio has none.
IN_LABEL_STUDIO = ("open", "answered", "skipped")


def refresh_statuses(connection: Connection, query_ids: Collection[int]) -> None:
    """Set queries to answered, skipped, or back to open where no live label is left.

    One answer makes it answered, whoever else skipped it. A withdrawn query stays withdrawn.
    """
    query, label = schema.query, schema.label
    live = and_(label.c.query_id == query.c.id, label.c.deleted.is_(False))
    answered = exists(select(label.c.annotation_id).where(live, label.c.kind != "skipped"))
    skipped = exists(select(label.c.annotation_id).where(live, label.c.kind == "skipped"))
    status = case((answered, "answered"), (skipped, "skipped"), else_="open")
    for chunk in chunks(set(query_ids)):
        connection.execute(
            update(query)
            .where(query.c.id.in_(chunk), query.c.status.in_(IN_LABEL_STUDIO))
            .values(status=status)
        )
