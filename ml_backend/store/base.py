"""What the parts of the store share: the engine, and rows out of tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from itertools import islice
from typing import Any, ClassVar, TypeVar

from sqlalchemy import Connection, Engine, Insert, Table
from sqlalchemy.dialects import postgresql, sqlite

from ml_backend.errors import StoreError
from ml_backend.store.engine import reading, writing
from ml_backend.store.fence import check_fence

Row = TypeVar("Row")
# SQLite takes 32766 parameters in a statement, PostgreSQL 65535.
CHUNK = 500


class StorePart:
    """Base of the store's parts."""

    _engine: Engine

    def _read(self) -> AbstractContextManager[Connection]:
        return reading(self._engine)

    @contextmanager
    def _write(self, *, alone: bool = True, derived: bool = False) -> Iterator[Connection]:
        with writing(self._engine, alone=alone, derived=derived) as connection:
            check_fence(connection)
            yield connection


class Dialects:
    """INSERT with ON CONFLICT, which both databases know and neither shares."""

    _inserts: ClassVar[Mapping[str, Any]] = {
        "sqlite": sqlite.insert,
        "postgresql": postgresql.insert,
    }

    @classmethod
    def insert(cls, connection: Connection, table: Table) -> Any:
        """An INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
        insert: Insert = cls._inserts[connection.dialect.name](table)
        return insert

    @staticmethod
    def changes(connection: Connection, statement: Any, row: Mapping[str, Any]) -> bool:
        """Run an `insert` of one row; whether it inserted or updated anything.

        A row count would not tell: psycopg has none for an INSERT that SQLAlchemy lets return keys.
        """
        returning = statement.values(row).returning(*statement.table.primary_key)
        return connection.execute(returning).first() is not None


def chunks(items: Iterable[Row], size: int = CHUNK) -> Iterator[list[Row]]:
    """The items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def values(row: Any, *leave_out: str) -> dict[str, Any]:
    """A row's fields for an INSERT or UPDATE."""
    return {f.name: getattr(row, f.name) for f in fields(row) if f.name not in leave_out}


def check_fields(kind: type[Any], changes: Mapping[str, Any], fixed: Sequence[str]) -> None:
    """Refuse changes to fields that do not exist or must not change.

    Raises:
        StoreError: names the field and the known ones.
    """
    known = [f.name for f in fields(kind) if f.name not in fixed]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise StoreError(
            f"{kind.__name__} has no changeable field {', '.join(unknown)}.",
            f"Known: {', '.join(known)}.",
        )
