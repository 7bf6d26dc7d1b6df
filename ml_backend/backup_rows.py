"""Rows of every table as JSON lines, read in one snapshot; the same for SQLite and PostgreSQL.

Tables are reflected, not taken from the schema: a dump of an older revision is loaded as such and
migrated afterwards.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import Column, Connection, DateTime, Engine, MetaData, Table, insert, select, text
from sqlalchemy import inspect as inspect_database

from ml_backend.store.engine import VERSION_TABLE, reading

PREFIX = "pixbal_"
# Absolute paths in rows: below PIXBAL_HOME they are dumped relative to it.
PATHS: Mapping[str, tuple[str, ...]] = {
    "pixbal_image": ("path", "regions_path", "mask_path"),
    "pixbal_version": ("path",),
}
_IN_HOME = "home:"
_CHUNK = 500
Row = dict[str, Any]


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of every table, whatever others write meanwhile."""
    if engine.dialect.name == "sqlite":
        with reading(engine) as connection:
            yield connection
        return
    # PostgreSQL's default shows each statement another state.
    isolated = engine.connect().execution_options(isolation_level="REPEATABLE READ")
    with isolated as connection, connection.begin():
        yield connection


def our_tables(connection: Connection) -> list[Table]:
    """The tables of ours that are there, referenced ones first, without the revision's."""
    metadata = MetaData()
    names = inspect_database(connection).get_table_names()
    ours = [name for name in names if name.startswith(PREFIX) and name != VERSION_TABLE]
    metadata.reflect(connection, only=ours)
    return [table for table in metadata.sorted_tables if table.name in ours]


def dump(connection: Connection, table: Table, home: Path) -> Iterator[bytes]:
    """The rows as JSON lines, in the order of their keys."""
    paths = PATHS.get(table.name, ())
    rows = connection.execution_options(yield_per=_CHUNK).execute(
        select(table).order_by(*table.primary_key)
    )
    for row in rows.mappings():
        values = {name: _plain(value) for name, value in row.items()}
        values |= {name: _relative(values[name], home) for name in paths}
        yield json.dumps(values, sort_keys=True).encode() + b"\n"


def load(connection: Connection, table: Table, lines: Iterable[bytes], home: Path) -> int:
    """Insert dumped rows into an empty table; returns how many."""
    count = 0
    chunk: list[Row] = []
    for line in lines:
        row = json.loads(line)
        chunk.append({c.name: _value(c, row.get(c.name), home) for c in table.columns})
        count += 1
        if len(chunk) == _CHUNK:
            connection.execute(insert(table), chunk)
            chunk = []
    if chunk:
        connection.execute(insert(table), chunk)
    return count


def after_load(connection: Connection) -> None:
    """Let keys count on after the largest, and give rounds that had not ended another name.

    The durable engine may know the old name as ended, and would then never run them.
    """
    if connection.dialect.name == "postgresql":
        for table in our_tables(connection):
            for column in table.primary_key:
                _count_on(connection, table.name, column.name)
    mark = secrets.token_hex(4)
    connection.execute(
        text(
            "UPDATE pixbal_round SET workflow_id = workflow_id || :mark "
            "WHERE state NOT IN ('done', 'failed')"
        ),
        {"mark": f"-restored-{mark}"},
    )


def drop_all(connection: Connection) -> None:
    """Remove every table of ours, those of a newer release included."""
    tables = our_tables(connection)
    if tables:
        tables[0].metadata.drop_all(connection, tables=tables)
    connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))


def _count_on(connection: Connection, table: str, column: str) -> None:
    found = connection.execute(
        text("SELECT pg_get_serial_sequence(:t, :c)"), {"t": table, "c": column}
    ).scalar()
    if found:
        statement = f"SELECT setval(:s, (SELECT max({column}) FROM {table}))"
        connection.execute(text(statement), {"s": found})


def _plain(value: Any) -> Any:
    """A JSON value; times as UTC text, whatever the database holds them as."""
    if isinstance(value, datetime):
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return aware.isoformat()
    return value


def _value(column: Column[Any], value: Any, home: Path) -> Any:
    if value is None:
        return None
    if isinstance(column.type, DateTime):
        aware = datetime.fromisoformat(value)
        return aware if getattr(column.type, "timezone", False) else aware.replace(tzinfo=None)
    if column.name in PATHS.get(column.table.name, ()) and str(value).startswith(_IN_HOME):
        relative = PurePosixPath(str(value).removeprefix(_IN_HOME))
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError(f"a row names a file outside PIXBAL_HOME: {value!r:.200}")
        return str(home / relative)
    return value


def below_home(value: Any) -> str | None:
    """The path below PIXBAL_HOME of a dumped value; None where it names none."""
    text = str(value or "")
    return text.removeprefix(_IN_HOME) if text.startswith(_IN_HOME) else None


def _relative(value: Any, home: Path) -> Any:
    if value and Path(value).is_relative_to(home):
        return f"{_IN_HOME}{Path(value).relative_to(home).as_posix()}"
    return value
