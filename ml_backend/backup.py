"""`pixbal backup`: everything that cannot be made again, in one file, while the backend goes on."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ml_backend import backup_rows
from ml_backend.backup_format import (
    FOLDERS,
    MANIFEST,
    BackupError,
    Manifest,
    Member,
    blob_member,
    copy_hashed,
    table_member,
)
from ml_backend.settings import Settings
from ml_backend.store.engine import check_revision, make_engine, revision
from training.files import file_sha256, write_json

LAST_BACKUP = "last_backup.json"
Progress = Callable[[str, int, int], None]  # what, bytes or files done, of how many


@dataclass(frozen=True)
class BackupReport:
    """What a backup holds; `missing` are files that rows name and that are not there."""

    path: Path
    rows: int
    files: int
    size: int
    missing: tuple[str, ...]


def make_backup(
    settings: Settings, out: Path, *, force: bool = False, progress: Progress | None = None
) -> BackupReport:
    """Write a backup. Secrets and caches are not part of it, nor is the durable engine's database.

    Rows are read first, in one snapshot: the files they name are older and never change.

    Raises:
        BackupError: `out` exists and `force` is false, there is nothing to save, or no room.
        StoreError: the database was written by a newer release.
    """
    if out.exists() and not force:
        raise BackupError(f"{out} exists.", "Choose another name, or add --force.")
    engine = make_engine(settings.database_url)
    temporary = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        manifest = _write(engine, settings.home, temporary, progress or silent)
        os.replace(temporary, out)
        write_json(settings.home / LAST_BACKUP, {"made_at": manifest.made_at, "path": str(out)})
    except OSError as error:
        raise BackupError(
            f"The backup cannot be written to {out}: {error.strerror or error}.",
            "Check the free space and the permissions there, then run it again.",
        ) from error
    except SQLAlchemyError as error:
        raise BackupError(
            f"The database cannot be read: {type(error).__name__}.",
            "Check PIXBAL_DATABASE_URL and that its server runs.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
        engine.dispose()
    return BackupReport(
        out,
        sum(manifest.rows.values()),
        len(manifest.files),
        out.stat().st_size,
        missing_files(manifest, out),
    )


def silent(what: str, done: int, total: int) -> None:
    """No progress shown."""


def _write(engine: Engine, home: Path, target: Path, progress: Progress) -> Manifest:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            made_at = datetime.now(UTC).isoformat()
            with backup_rows.snapshot(engine) as connection:
                found = _checked_revision(connection)
                tables, rows = _write_tables(connection, archive, home, progress)
            files = _write_files(archive, home, progress)
            manifest = Manifest(made_at, found, str(home), tables, rows, files)
            archive.writestr(MANIFEST, manifest.to_bytes())
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _checked_revision(connection: Connection) -> str:
    check_revision(connection)
    found = revision(connection)
    if found is None:
        raise BackupError(
            "The database holds nothing of PixBal.",
            "Check PIXBAL_HOME and PIXBAL_DATABASE_URL: they must be those of the backend.",
        )
    return found


def _write_tables(
    connection: Connection, archive: zipfile.ZipFile, home: Path, progress: Progress
) -> tuple[dict[str, Member], dict[str, int]]:
    members, rows = {}, {}
    tables = backup_rows.our_tables(connection)
    for number, table in enumerate(tables, 1):
        digest, size, count = hashlib.sha256(), 0, 0
        info = zipfile.ZipInfo(table_member(table.name))
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w", force_zip64=True) as member:
            for line in backup_rows.dump(connection, table, home):
                member.write(line)
                digest.update(line)
                size, count = size + len(line), count + 1
        members[table.name], rows[table.name] = Member(digest.hexdigest(), size), count
        progress("tables", number, len(tables))
    return members, rows


def _write_files(archive: zipfile.ZipFile, home: Path, progress: Progress) -> dict[str, Member]:
    found: dict[str, Member] = {}
    written: set[str] = set()
    paths = list(_files(home))
    for number, path in enumerate(paths, 1):
        progress("files", number, len(paths))
        name = path.relative_to(home).as_posix()
        try:
            sha256 = file_sha256(path)
            if sha256 in written:
                found[name] = Member(sha256, path.stat().st_size)
                continue
            with path.open("rb") as source:
                with archive.open(blob_member(sha256), "w", force_zip64=True) as member:
                    copied = copy_hashed(source, member)
        except FileNotFoundError:
            continue  # of a round that was cleared away meanwhile
        if copied.sha256 != sha256:
            raise BackupError(
                f"{path} changed while it was read.", "Run it again; such files never change."
            )
        found[name] = copied
        written.add(sha256)
    return found


def _files(home: Path) -> Iterator[Path]:
    """Finished files: what a training or a write still works on has a dot or .partial."""
    for folder in FOLDERS:
        for path in sorted((home / folder).rglob("*")):
            parts = path.relative_to(home).parts
            unfinished = any(p.startswith(".") or p.endswith(".partial") for p in parts)
            if path.is_file() and not path.is_symlink() and not unfinished:
                yield path


def missing_files(manifest: Manifest, archive_path: Path) -> tuple[str, ...]:
    """Files that rows name below PIXBAL_HOME and that the archive lacks."""
    there = set(manifest.files)
    folders = {"/".join(name.split("/")[:-1]) for name in there}
    missing = set()
    with zipfile.ZipFile(archive_path) as archive:
        for table in set(backup_rows.PATHS) & set(manifest.tables):
            with archive.open(table_member(table)) as lines:
                for line in lines:
                    row = json.loads(line)
                    for column in backup_rows.PATHS[table]:
                        name = backup_rows.below_home(row.get(column))
                        if name and name not in there and name not in folders:
                            missing.add(name)
    return tuple(sorted(missing))
