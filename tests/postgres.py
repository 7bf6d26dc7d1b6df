"""A real PostgreSQL of Debian's packages for one test run: own folder, own port."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ml_backend.processes import ManagedProcess, free_port


def find_postgres() -> Path | None:
    """The newest server installed by Debian's packages; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class PostgresServer(ManagedProcess):
    """A server on loopback; PostgreSQL refuses to run as root, so root becomes `postgres`."""

    name = "PostgreSQL"

    def __init__(self, folder: Path, programs: Path) -> None:
        self.port = free_port()
        self.url = f"postgresql+psycopg://pixbal@127.0.0.1:{self.port}/postgres"
        self.programs = programs
        data = folder / "data"
        folder.mkdir(parents=True)
        self._own(folder)
        options = ("--auth=trust", "--username=pixbal", "--no-sync", "-D", str(data))
        subprocess.run(self._as_user(str(programs / "initdb"), *options), check=True,
                       capture_output=True, cwd=folder)  # fmt: skip
        command = self._as_user(
            str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1",
            "-p", str(self.port), "-k", str(folder), "-c", "fsync=off",
        )  # fmt: skip
        super().__init__(command, env=dict(os.environ), log=folder / "log", cwd=folder)

    def ready(self) -> bool:
        """True once connections are taken."""
        check = [str(self.programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        return self.running and subprocess.run(check, capture_output=True).returncode == 0

    @staticmethod
    def _as_user(*command: str) -> Sequence[str]:
        if os.geteuid() != 0:
            return command
        return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command)

    @staticmethod
    def _own(folder: Path) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
