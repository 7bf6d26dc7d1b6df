"""The store: one database, opened, migrated, and closed."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sqlalchemy import Engine, text

from ml_backend.store.engine import make_engine, migrate
from ml_backend.store.events import Events
from ml_backend.store.forgetting import Forgetting
from ml_backend.store.labels import Labels
from ml_backend.store.leases import Leases
from ml_backend.store.projects import Projects
from ml_backend.store.queries import Queries
from ml_backend.store.rounds import Rounds


class Store(Projects, Queries, Events, Labels, Rounds, Leases, Forgetting):
    """Everything PixBal remembers besides files. Safe to share between threads.

    Every method is one transaction. Rows come out as frozen dataclasses.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Store:
        """Open a database and bring it to the newest revision.

        Raises:
            StoreError: it cannot be opened, or was written by a newer release.
        """
        engine = make_engine(url)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    @property
    def engine(self) -> Engine:
        """For those who look at the database itself: back-up and doctor."""
        return self._engine

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def ping(self) -> None:
        """Raise SQLAlchemyError where the database does not answer."""
        with self._read() as connection:
            connection.execute(text("SELECT 1"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
