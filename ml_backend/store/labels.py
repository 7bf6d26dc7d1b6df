"""Labels: annotations by their id; the newest word wins, whatever the order words come in."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update

from ml_backend.store import schema
from ml_backend.store.base import Dialects, StorePart, chunks, values
from ml_backend.store.rows import ANSWER_KINDS, Label
from ml_backend.store.status import refresh_statuses


class Labels(StorePart):
    """The part of the store that knows labels: all of it derived from events and Label Studio."""

    def apply_label(self, label: Label, *, on_server: bool = False) -> bool:
        """Take in an annotation; its query's status moves in the same transaction.

        A message replaces an older one of the same annotation (by `updated_at`), and a deletion is
        final for it, since it may be late. A look at the server itself, begun after all that was
        noted, is right whatever its `updated_at` says: it brings a label back, and corrects one
        whose message was wrong or whose server went back to a back-up.

        Args:
            label: the annotation as it is now.
            on_server: it was read from Label Studio's API at `seen_at`, not sent by it.

        Returns:
            Whether anything changed: False when what is stored is newer or equal.
        """
        table = schema.label
        with self._write(derived=True) as connection:
            before = connection.execute(
                select(table.c.query_id).where(table.c.annotation_id == label.annotation_id)
            ).scalar()
            insert = Dialects.insert(connection, table)
            new = insert.excluded
            allowed = and_(table.c.deleted.is_(False), new.updated_at > table.c.updated_at)
            joined = and_(  # the same words, and now it is known which question they answer
                table.c.deleted.is_(False),
                table.c.query_id.is_(None),
                new.query_id.is_not(None),
                new.updated_at == table.c.updated_at,
            )
            allowed = or_(allowed, joined)
            if on_server:
                differs = or_(table.c.deleted.is_(True), new.updated_at != table.c.updated_at)
                allowed = or_(allowed, and_(differs, new.seen_at > table.c.seen_at))
            statement = insert.on_conflict_do_update(
                index_elements=["annotation_id"],
                set_={c.name: c for c in new if c.name != "annotation_id"},
                where=allowed,
            )
            changed = Dialects.changes(connection, statement, values(label))
            if changed:
                touched = {q for q in (before, label.query_id) if q is not None}
                refresh_statuses(connection, touched)
        return changed

    def delete_labels(self, project_id: int, annotation_ids: Collection[int], at: datetime) -> int:
        """Turn labels into tombstones; returns how many were live.

        An id that is not known yet gets a tombstone of its own, so that a creation that comes
        late does not make a label of it.
        """
        deleted = 0
        with self._write(derived=True) as connection:
            for chunk in chunks(dict.fromkeys(annotation_ids)):
                deleted += self._bury(connection, schema.label.c.annotation_id.in_(chunk), at)
                rows = [_tombstone(project_id, annotation_id, at) for annotation_id in chunk]
                insert = Dialects.insert(connection, schema.label)
                connection.execute(insert.on_conflict_do_nothing(), [values(r) for r in rows])
        return deleted

    def delete_task_labels(self, project_id: int, task_ids: Collection[int], at: datetime) -> int:
        """Delete the labels of tasks that are gone and withdraw their queries, together.

        A withdrawn query has no task: SQLite gives the id of a deleted task to the next one made.

        Returns:
            How many labels were live.
        """
        query, label = schema.query, schema.label
        deleted = 0
        with self._write(derived=True) as connection:
            for chunk in chunks(dict.fromkeys(task_ids)):
                connection.execute(
                    update(query)
                    .where(query.c.project_id == project_id, query.c.task_id.in_(chunk))
                    .values(status="withdrawn", task_id=None)
                )
                here = and_(label.c.project_id == project_id, label.c.task_id.in_(chunk))
                deleted += self._bury(connection, here, at)
        return deleted

    def _bury(self, connection: Connection, condition: Any, at: datetime) -> int:
        table = schema.label
        live = and_(condition, table.c.deleted.is_(False))
        rows = connection.execute(select(table.c.annotation_id, table.c.query_id).where(live)).all()
        connection.execute(update(table).where(live).values(deleted=True, seen_at=at))
        refresh_statuses(connection, [row.query_id for row in rows if row.query_id is not None])
        return len(rows)

    def labels(self, project_id: int, *, deleted: bool = False) -> list[Label]:
        """Live labels of a project by annotation id; with `deleted`, tombstones as well."""
        table = schema.label
        statement = select(table).where(table.c.project_id == project_id)
        if not deleted:
            statement = statement.where(table.c.deleted.is_(False))
        with self._read() as connection:
            rows = connection.execute(statement.order_by(table.c.annotation_id))
            return [Label(*row) for row in rows]

    def effective_labels(self, project_id: int) -> dict[int, Label]:
        """The label that counts for each query id: the newest answer, of whichever annotator.

        Skipped, empty and invalid ones count only where nobody answered. Withdrawn queries have
        none.
        """
        label, query = schema.label, schema.query
        statement = (
            select(label)
            .join(query, query.c.id == label.c.query_id)
            .where(
                label.c.project_id == project_id,
                label.c.deleted.is_(False),
                query.c.status != "withdrawn",
            )
            .order_by(
                label.c.query_id,
                label.c.kind.in_(ANSWER_KINDS),
                label.c.updated_at,
                label.c.annotation_id,
            )
        )
        with self._read() as connection:
            # The last one of each query wins.
            return {row.query_id: Label(*row) for row in connection.execute(statement)}

    def clicks(self, project_id: int) -> int:
        """Clicks of all live labels of a project, whoever gave them."""
        table = schema.label
        statement = select(func.coalesce(func.sum(table.c.clicks), 0)).where(
            table.c.project_id == project_id, table.c.deleted.is_(False)
        )
        with self._read() as connection:
            return int(connection.execute(statement).scalar_one())


def _tombstone(project_id: int, annotation_id: int, at: datetime) -> Label:
    return Label(
        annotation_id=annotation_id,
        project_id=project_id,
        task_id=None,
        query_id=None,
        kind="empty",
        classes=(),
        clicks=0,
        lead_time_s=None,
        annotator=None,
        updated_at=at,
        deleted=True,
        seen_at=at,
    )
