"""Queries: one row per asking of a region, unique for good, so that nothing is asked twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, bindparam, func, select, update

from ml_backend.store import schema
from ml_backend.store.base import Dialects, StorePart, chunks, values
from ml_backend.store.rows import Query
from ml_backend.store.status import refresh_statuses


class Queries(StorePart):
    """The part of the store that knows queries."""

    def plan_queries(self, queries: Sequence[Query]) -> int:
        """Insert queries in one transaction; an asking that is there stays. Returns the inserted.

        The `id` of the given rows is ignored: the store counts.
        """
        count = select(func.count()).select_from(schema.query)
        with self._write() as connection:
            before = connection.execute(count).scalar_one()
            insert = Dialects.insert(connection, schema.query).on_conflict_do_nothing(
                index_elements=["project_id", "image_id", "region_index", "asking"]
            )
            for chunk in chunks(queries):
                connection.execute(insert, [values(query, "id") for query in chunk])
            return int(connection.execute(count).scalar_one() - before)

    def queries(
        self, project_id: int, *, status: str | None = None, round: int | None = None
    ) -> list[Query]:
        """Queries of a project in the order they were planned."""
        table = schema.query
        statement = select(table).where(table.c.project_id == project_id)
        if status is not None:
            statement = statement.where(table.c.status == status)
        if round is not None:
            statement = statement.where(table.c.round == round)
        with self._read() as connection:
            return [Query(*row) for row in connection.execute(statement.order_by(table.c.id))]

    def count_queries(self, project_id: int) -> dict[str, int]:
        """How many queries of a project are in each status; a status without any is absent."""
        table = schema.query
        statement = (
            select(table.c.status, func.count())
            .where(table.c.project_id == project_id)
            .group_by(table.c.status)
        )
        with self._read() as connection:
            return {status: count for status, count in connection.execute(statement)}

    def query_by_task(self, project_id: int, task_id: int) -> Query | None:
        """The query a task asks, or None."""
        return self.queries_by_task(project_id, [task_id]).get(task_id)

    def queries_by_task(self, project_id: int, task_ids: Collection[int]) -> dict[int, Query]:
        """The queries of tasks; a task that asks none is absent."""
        table = schema.query
        found: dict[int, Query] = {}
        with self._read() as connection:
            for chunk in chunks(task_ids):
                statement = select(table).where(
                    table.c.project_id == project_id, table.c.task_id.in_(chunk)
                )
                for row in connection.execute(statement):
                    query = Query(*row)
                    if query.task_id is not None:
                        found[query.task_id] = query
        return found

    def query_by_region(
        self, project_id: int, image_id: str, region_index: int, asking: int | None = None
    ) -> Query | None:
        """The query of an asking of a region, or None; the newest asking where none is named."""
        table = schema.query
        statement = select(table).where(
            table.c.project_id == project_id,
            table.c.image_id == image_id,
            table.c.region_index == region_index,
        )
        if asking is not None:
            statement = statement.where(table.c.asking == asking)
        with self._read() as connection:
            row = connection.execute(statement.order_by(table.c.asking.desc())).first()
        return Query(*row) if row else None

    def set_query_status(self, ids: Collection[int], status: str) -> None:
        """Set the status of queries; an empty collection changes nothing.

        A withdrawn one has no task: the id may be that of another task before long.
        """
        table = schema.query
        fields = {"status": status, **({"task_id": None} if status == "withdrawn" else {})}
        with self._write() as connection:
            for chunk in chunks(ids):
                connection.execute(update(table).where(table.c.id.in_(chunk)).values(**fields))

    def set_task_ids(self, task_ids: Mapping[int, int]) -> None:
        """Note the task of each query: it is open now, or answered where a label is there.

        A label belongs to the question that its task asks. An annotator may be quicker than the
        import's answer, so that one waits under the task id and is joined here, in the same
        transaction.

        SQLite gives the id of a deleted task to the next one made. A query that still names such a
        task has lost its own, of which no message came: it is withdrawn. Ids may change places.
        """
        with self._write() as connection:
            self._free_task_ids(connection, task_ids)
            for chunk in chunks(task_ids.items()):
                self._note_task_ids(connection, chunk)

    def _free_task_ids(self, connection: Connection, task_ids: Mapping[int, int]) -> None:
        """No row holds one of the ids, so that in whatever order they are written none is twice."""
        table = schema.query
        projects: set[int] = set()
        for ids in chunks(task_ids):
            named = table.c.id.in_(ids)
            projects |= set(connection.execute(select(table.c.project_id).where(named)).scalars())
            connection.execute(update(table).where(named).values(task_id=None))
        for tasks in chunks(set(task_ids.values())):
            connection.execute(
                update(table)
                .where(table.c.project_id.in_(projects), table.c.task_id.in_(tasks))
                .values(status="withdrawn", task_id=None)
            )

    def _note_task_ids(self, connection: Connection, pairs: Sequence[tuple[int, int]]) -> None:
        table, label = schema.query, schema.label
        connection.execute(
            update(table)
            .where(table.c.id == bindparam("row_id"))
            .values(task_id=bindparam("new_task"), status="open"),
            [{"row_id": query_id, "new_task": task} for query_id, task in pairs],
        )
        for query_id, task in pairs:
            project = select(table.c.project_id).where(table.c.id == query_id).scalar_subquery()
            connection.execute(
                update(label)
                .where(label.c.project_id == project, label.c.task_id == task)
                .values(query_id=query_id)
            )
        refresh_statuses(connection, [query_id for query_id, _ in pairs])

    def update_query_scores(self, queries: Sequence[Query]) -> None:
        """Write score, expected clicks, ticks and model version of queries that exist."""
        names = ("score", "expected_clicks", "preticks", "model_version", "control")
        table = schema.query
        statement = (
            update(table)
            .where(table.c.id == bindparam("row_id"))
            .values({name: bindparam(f"new_{name}", type_=table.c[name].type) for name in names})
        )
        with self._write() as connection:
            for chunk in chunks(queries):
                rows = [
                    {"row_id": q.id, **{f"new_{name}": getattr(q, name) for name in names}}
                    for q in chunk
                ]
                connection.execute(statement, rows)
