"""Advisory file locks: one worker per home and id, one pusher per project."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_backend.errors import Conflict


@contextmanager
def file_lock(path: Path, *, what: str, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it when the process dies.

    Args:
        path: lock file, made if absent; never removed, since removing it would race.
        what: named in the error, such as "the worker of this home".
        wait: block until the lock is free.

    Raises:
        Conflict: somebody else holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise Conflict(
                f"{what} is already running" + (f" (process {holder})" if holder else ""),
                hint="Stop it first, or let it do the work.",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def project_lock(home: Path, project_id: int) -> Path:
    """The lock file of a project: held by whoever imports its images."""
    return home / "locks" / f"project-{project_id}.lock"


def worker_lock(home: Path, worker_id: str) -> Path:
    """The lock file of a worker: two of one id on one machine would fight for its leases."""
    return home / "locks" / f"worker-{worker_id}.lock"
