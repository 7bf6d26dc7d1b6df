"""Older databases are brought up to date with their rows; newer ones are left alone."""

from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from backend_helpers import make_settings
from old_home import unpack_home
from sqlalchemy import Connection, DateTime, Engine, Float, Integer, MetaData, Table, text

from ml_backend.backup_restore import restore_backup
from ml_backend.errors import StoreError
from ml_backend.store import Store, schema
from ml_backend.store.engine import (
    VERSION_TABLE,
    known_revisions,
    make_engine,
    revision,
    upgrade,
    writing,
)
from training.versions import Version

# What a migration turned into something else, by table; its own test says into what.
CHANGED = {"pixbal_project": ("preticks",)}
POSTGRES = "PIXBAL_TEST_POSTGRES_URL"
REVISIONS = known_revisions()
WHEN = "2026-11-22 15:00:00.000000"
TEXTS = {
    "schema_json": '{"classes": [{"name": "Road", "color": "#112233"}], "undefined": true}',
    "preticks": '["Road"]',
    "classes_added": "{}",
    "classes": '["Road"]',
    "kind": "classes",
    "payload": '{"action": "x"}',
    "train_config": "{}",
    "metrics": "{}",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/pixbal.db"
    request.getfixturevalue("postgres")
    found = os.environ.get(POSTGRES)
    if not found:
        pytest.skip("PostgreSQL is not installed")
    engine = make_engine(found)
    with engine.begin() as connection:
        schema.metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
    engine.dispose()
    return found


def make_at(url: str, wanted: str) -> dict[str, list[dict[str, Any]]]:
    """A database of an older revision with a row in each table; the rows."""
    engine = make_engine(url)
    with writing(engine) as connection:
        upgrade(connection, wanted)
        tables = reflect(connection)
        for table in tables:
            connection.execute(table.insert().values(row_of(table)))
        rows = {table.name: all_rows(connection, table) for table in tables}
    engine.dispose()
    return rows


def reflect(connection: Connection) -> list[Table]:
    metadata = MetaData()
    metadata.reflect(connection)
    return [
        table
        for table in metadata.sorted_tables
        if table.name.startswith("pixbal_") and table.name != VERSION_TABLE
    ]


def row_of(table: Table) -> dict[str, Any]:
    """A value in every column, whatever columns the revision has; every key is 1."""
    return {column.name: value_of(column.name, column.type) for column in table.columns}


def value_of(name: str, kind: Any) -> Any:
    if isinstance(kind, DateTime):
        when = datetime.fromisoformat(WHEN)
        return when.replace(tzinfo=UTC) if kind.timezone else when
    python = kind.python_type
    if python is bool:
        return True
    if isinstance(kind, Integer):
        return 1
    if isinstance(kind, Float) or python is float:
        return 0.5
    return TEXTS.get(name, "ü")


def all_rows(connection: Connection, table: Table) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(table.select()).mappings()]


def rows_now(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    with engine.begin() as connection:
        return {table.name: all_rows(connection, table) for table in reflect(connection)}


@pytest.mark.parametrize("wanted", REVISIONS)
def test_an_older_database_keeps_its_rows(url: str, wanted: str) -> None:
    """From every revision there ever was; every value of every row is still there.

    Seen failing with a migration that makes a table anew instead of altering it.
    """
    before = make_at(url, wanted)
    assert all(before.values())
    Store.open(url).close()
    engine = make_engine(url)
    after = rows_now(engine)
    with engine.connect() as connection:
        assert revision(connection) == REVISIONS[-1]
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()
    for name, rows in before.items():
        wanted = [{k: v for k, v in row.items() if k not in CHANGED.get(name, ())} for row in rows]
        assert [{key: row[key] for key in wanted[0]} for row in after[name]] == wanted, name
    read_everything(url)


def read_everything(url: str) -> None:
    """The store reads the migrated rows as its own."""
    with Store.open(url) as store:
        assert [p.id for p in store.projects()] == [1]
        assert len(store.images(1)) == len(store.queries(1)) == len(store.versions(1)) == 1
        assert [r.number for r in store.rounds(1)] == [1]
        assert [label.annotation_id for label in store.labels(1, deleted=True)] == [1]


def test_a_newer_database_refuses_an_older_program(url: str) -> None:
    """Both revisions are named, and nothing is changed.

    Seen failing with `check_revision` not called.
    """
    make_at(url, REVISIONS[-1])
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        connection.execute(text("ALTER TABLE pixbal_round ADD COLUMN of_the_future TEXT"))
    before = rows_now(engine)
    with pytest.raises(StoreError) as caught:
        Store.open(url)
    assert "revision 9999" in caught.value.message
    assert f"knows up to {REVISIONS[-1]}" in caught.value.message
    assert "Install that release" in caught.value.hint
    assert rows_now(engine) == before
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE pixbal_round DROP COLUMN of_the_future"))
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{REVISIONS[-1]}'"))
    engine.dispose()
    Store.open(url).close()


def test_revisions_are_one_line() -> None:
    """Two heads could not be upgraded to."""
    assert REVISIONS[0] == "0001"
    assert list(REVISIONS) == sorted(REVISIONS)


def tables_of(home: Path) -> dict[str, list[dict[str, Any]]]:
    with sqlite3.connect(home / "pixbal.db") as database:
        database.row_factory = sqlite3.Row
        names = [
            row["name"]
            for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if row["name"].startswith("pixbal_") and row["name"] != VERSION_TABLE
        ]
        found = {n: [dict(r) for r in database.execute(f"SELECT * FROM {n}")] for n in names}
    database.close()
    return found


def test_a_home_of_the_first_release_keeps_all_of_it(tmp_path: Path) -> None:
    """Every value of every row, answers on their questions, versions that load.

    Seen failing with the labels left detached from their questions.
    """
    home = unpack_home(tmp_path / "home")
    before = tables_of(home)
    assert {len(before[f"pixbal_{name}"]) for name in ("project", "version")} == {2, 3}
    with Store.open(f"sqlite:///{home}/pixbal.db") as store:
        assert {p.id: (p.preticks, p.state, p.current_version) for p in store.projects()} == {
            4: ("auto", "active", "r2"), 5: ("auto", "active", "r1"),
        }  # fmt: skip
        assert [(r.number, r.state) for r in store.rounds(4)] == [(1, "done"), (2, "done")]
        assert store.count_queries(4) == {"answered": 7, "open": 5, "skipped": 2, "withdrawn": 1}
        assert len(store.effective_labels(4)) == 9
        live = [row for row in before["pixbal_label"] if not row["deleted"]]
        assert store.clicks(4) == sum(r["clicks"] for r in live if r["project_id"] == 4) > 0
        for project_id in (4, 5):
            for version in store.versions(project_id):
                assert Version.load(Path(version.path)).name == version.name
    after = tables_of(home)
    for name, rows in before.items():
        lost = CHANGED.get(name, ())
        wanted = [{k: v for k, v in row.items() if k not in lost} for row in rows]
        assert [{k: row[k] for k in wanted[0]} for row in after[name]] == wanted, name


def test_a_round_that_the_first_release_undid_is_done_again(tmp_path: Path) -> None:
    """Pushing after it had left it failed for good; one that really failed stays failed.

    Seen failing without that line of the migration.
    """
    home = unpack_home(tmp_path / "home")
    undone = "The round was cut off: the engine recorded SUCCESS."
    with sqlite3.connect(home / "pixbal.db") as database:
        sql = "UPDATE pixbal_round SET state = 'failed', error = ? "
        sql += "WHERE project_id = ? AND number = ?"
        database.execute(sql, (undone, 4, 2))
        database.execute(sql, ("The disk is full", 5, 1))
    database.close()
    with Store.open(f"sqlite:///{home}/pixbal.db") as store:
        assert [(r.state, r.error) for r in store.rounds(4)] == [("done", None), ("done", None)]
        assert [(r.state, r.error) for r in store.rounds(5)] == [("failed", "The disk is full")]


def test_a_backup_of_the_first_release_is_restored(tmp_path: Path) -> None:
    """Into a new home, by this release.

    Seen failing with the rows of the archive loaded into today's tables.
    """
    old = unpack_home(tmp_path / "old")
    settings = make_settings(tmp_path / "new")
    restore_backup(settings, old / "backup.zip")
    with Store.open(settings.database_url) as store:
        assert len(store.effective_labels(4)) == 9
        assert store.count_queries(5) == {"answered": 6, "open": 5}
        assert Version.load(Path(store.versions(4)[-1].path)).name == "r2"
