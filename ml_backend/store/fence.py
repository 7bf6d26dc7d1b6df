"""Writes that are made only while a lease is still ours, checked in their own transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import Connection, select

from ml_backend.errors import LeaseLost
from ml_backend.store import schema
from ml_backend.store.rows import Lease

_fence: ContextVar[tuple[Lease, ...]] = ContextVar("pixbal_fence", default=())


@contextmanager
def fenced(*leases: Lease) -> Iterator[None]:
    """Inside, every write of this thread to the store needs these leases; see `check_fence`."""
    token = _fence.set((*_fence.get(), *leases))
    try:
        yield
    finally:
        _fence.reset(token)


def held_token(name: str) -> int:
    """The token of a lease of this thread's fence; 0 where it is not part of it."""
    return next((lease.token for lease in _fence.get() if lease.name == name), 0)


def check_fence(connection: Connection) -> None:
    """Refuse the transaction where a lease of the fence went to somebody else.

    Tokens only rise, so an equal token means that nobody took the lease in between; taking one
    and writing wait for each other, so it stays so until the transaction ends.

    Raises:
        LeaseLost: names the lease and who holds it.
    """
    wanted = {lease.name: lease for lease in _fence.get()}
    if not wanted:
        return
    table = schema.lease
    statement = select(table).where(table.c.name.in_(list(wanted))).with_for_update(read=True)
    found = {row.name: row for row in connection.execute(statement)}
    for name, lease in wanted.items():
        row = found.get(name)
        if row is None or row.token != lease.token:
            raise LeaseLost(name, lease.holder, None if row is None else row.holder)
