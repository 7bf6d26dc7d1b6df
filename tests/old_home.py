"""A home of an older release, unpacked where a test wants it (see tests/homes)."""

from __future__ import annotations

import sqlite3
import zipfile
from pathlib import Path

ARCHIVE = Path(__file__).parent / "homes" / "home_0.1.0.zip"
MADE_AT = "/tmp/pixbal-home-0.1.0"
# Where rows hold absolute paths: table and column.
PATHS = (("image", "path"), ("image", "regions_path"), ("image", "mask_path"), ("version", "path"))


def unpack_home(home: Path) -> Path:
    """The home of release 0.1.0: two projects (4 and 5), rounds, versions, labels, open batches."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(home)
    with sqlite3.connect(home / "pixbal.db") as database:
        for table, column in PATHS:
            database.execute(
                f"UPDATE pixbal_{table} SET {column} = replace({column}, ?, ?)",
                (MADE_AT, str(home)),
            )
    database.close()
    return home
