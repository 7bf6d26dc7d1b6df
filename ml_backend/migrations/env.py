"""Run migrations on the connection, and in the transaction, of the caller."""

from __future__ import annotations

from alembic import context

from ml_backend.store.engine import VERSION_TABLE
from ml_backend.store.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError(
        "migrations are run by ml_backend.store.Store.open, not by the alembic command"
    )
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
