"""Opening a database: connection rules, and migrations to the newest revision."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ml_backend.errors import StoreError

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE = "pixbal_revision"
BUSY_TIMEOUT_S = 30.0
# Any constant: those who write to one PostgreSQL database wait for each other on it.
WRITE_LOCK = 0x70697862
# A process that froze in its transaction must not keep the others out: the server ends it.
_ALONE = (
    "SELECT set_config('idle_in_transaction_session_timeout', '60s', true),"
    " pg_advisory_xact_lock(:k)"
)


def make_engine(url: str) -> Engine:
    """An engine for a database shared by several processes and threads.

    Raises:
        StoreError: the address is not of SQLite or PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StoreError("The database address cannot be read.", _URL_HINT) from error
    name = parsed.get_backend_name()
    if name == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise StoreError("The store needs a file: two processes share it.", _URL_HINT)
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if name == "postgresql":
        return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    raise StoreError(f"The store runs on SQLite or PostgreSQL, not on {name}.", _URL_HINT)


_URL_HINT = (
    "Set PIXBAL_DATABASE_URL to sqlite:////folder/file.db or postgresql://user:pw@host/name."
)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: _begin_sqlite says how.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # an acknowledged event survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock at once. A transaction that reads first and writes later can
    # only fail when another wrote in between, and busy_timeout does not help it.
    options = connection.get_execution_options()
    if options.get("pixbal_write", False):
        lazy = options.get("pixbal_derived", False)
        connection.exec_driver_sql(f"PRAGMA synchronous = {'NORMAL' if lazy else 'FULL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the database."""
    with engine.connect() as connection, connection.begin():
        yield connection


_turn = threading.RLock()


@contextmanager
def writing(engine: Engine, *, alone: bool = True, derived: bool = False) -> Iterator[Connection]:
    """A transaction that writes: all of it or nothing.

    Args:
        alone: wait for other writers. SQLite has one writer anyway; doing the same on PostgreSQL
            leaves no deadlocks and no half-seen labels to think about. False suits an insert that
            depends on nothing.
        derived: it only draws conclusions from what is durable and would draw them again, so it
            need not wait for the disk while others wait for it. A power cut may undo the last of
            such transactions, whole and in order, never one before them that is durable.
    """
    # Threads that meet inside SQLite wait by its back-off, up to a tenth of a second each time.
    turn = _turn if engine.dialect.name == "sqlite" else nullcontext()
    with (
        turn,
        engine.connect().execution_options(pixbal_write=True, pixbal_derived=derived) as connection,
        connection.begin(),
    ):
        if alone and connection.dialect.name == "postgresql":
            connection.execute(text(_ALONE), {"k": WRITE_LOCK})
        if derived and connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL synchronous_commit = off"))
        yield connection


def migrate(engine: Engine) -> None:
    """Bring the database to the newest revision, in one transaction, one process at a time.

    Raises:
        StoreError: the database cannot be reached, or was written by a newer release.
    """
    try:
        with writing(engine) as connection:
            check_revision(connection)
            upgrade(connection)
    except SQLAlchemyError as error:
        raise StoreError(
            f"The database cannot be opened: {type(getattr(error, 'orig', None) or error).__name__}"
            f" ({_first_line(error)}).",
            "Check PIXBAL_DATABASE_URL, that the server runs, and that the folder is writable.",
        ) from error


def known_revisions() -> tuple[str, ...]:
    """Revisions this release knows, oldest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_alembic_config()).walk_revisions()
    return tuple(script.revision for script in scripts)[::-1]


def revision(connection: Connection) -> str | None:
    """The revision of a database; None where there are no tables of ours."""
    from alembic.migration import MigrationContext

    options = {"version_table": VERSION_TABLE}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def check_revision(connection: Connection) -> None:
    """Refuse a database of a newer release: an older one would write what that cannot read.

    Raises:
        StoreError: names both revisions.
    """
    found, known = revision(connection), known_revisions()
    if found is not None and found not in known:
        raise StoreError(
            f"The database was written by a newer release (revision {found}; this release knows "
            f"up to {known[-1]}).",
            "Install that release or a later one, or restore the backup made before it.",
        )


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run migrations up to a revision inside the transaction of the caller."""
    from alembic import command

    config = _alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def _alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    folder = Path(__file__).resolve().parents[1] / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def _first_line(error: SQLAlchemyError) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0][:200] if lines else "no reason given"
