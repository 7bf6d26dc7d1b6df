"""`pixbal restore`: check every hash first, then put a backup in place, all of it or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ml_backend import backup_rows
from ml_backend.backup import Progress, silent
from ml_backend.backup_format import (
    FOLDERS,
    BackupError,
    Manifest,
    blob_member,
    open_archive,
    read_manifest,
    table_member,
    verify,
)
from ml_backend.locks import file_lock, worker_lock
from ml_backend.settings import Settings
from ml_backend.store.engine import known_revisions, make_engine, upgrade, writing


@dataclass(frozen=True)
class RestoreReport:
    """What was restored; `set_aside` is where the files that were there before are now."""

    rows: int
    files: int
    made_at: str
    set_aside: Path | None


def restore_backup(
    settings: Settings, archive_path: Path, *, force: bool = False, progress: Progress | None = None
) -> RestoreReport:
    """Put a backup into PIXBAL_HOME and the database of the settings.

    Files are written beside their places and renamed; the commit of the database ends it. Cut
    short before, the renames are taken back (killed: run it again with --force).

    Raises:
        BackupError: the archive is damaged, newer, or something is in the way and `force` is
            false. Nothing is changed then.
        Conflict: a worker runs on this home.
    """
    report = progress or silent
    with open_archive(archive_path) as archive:
        manifest = read_manifest(archive)
        _check_release(manifest)
        total = sum(member.size for member in manifest.members().values())
        done = 0
        for size in verify(archive, manifest):
            done += size
            report("checked", done, total)
        home = settings.home
        home.mkdir(parents=True, exist_ok=True)
        with _no_worker(settings):
            _check_free(settings, force)
            staging = home / f".restore-{secrets.token_hex(4)}"
            try:
                _write_files(archive, manifest, staging, report)
                return _put_in_place(settings, archive, manifest, staging)
            except OSError as error:
                raise BackupError(
                    f"The backup cannot be restored: {error.strerror or error}.",
                    "Make room below PIXBAL_HOME; what was there is as it was.",
                ) from error
            finally:
                shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _no_worker(settings: Settings) -> Iterator[None]:
    """Hold the lock of every worker that ever ran on this home."""
    own = worker_lock(settings.home, settings.worker_id)
    with ExitStack() as held:
        for path in sorted({own, *own.parent.glob(worker_lock(settings.home, "*").name)}):
            held.enter_context(file_lock(path, what="a worker of this home", wait=False))
        yield


def _check_release(manifest: Manifest) -> None:
    known = known_revisions()
    if manifest.revision not in known:
        raise BackupError(
            f"The backup was made by a newer release (revision {manifest.revision}; this release "
            f"knows up to {known[-1]}).",
            "Install that release or a later one, then restore.",
        )


def _check_free(settings: Settings, force: bool) -> None:
    if force:
        return
    for folder in FOLDERS:
        if any((settings.home / folder).rglob("*")):
            raise BackupError(
                f"{settings.home / folder} is not empty.",
                "Restore into a new PIXBAL_HOME, or add --force: what is there is set aside.",
            )
    engine = make_engine(settings.database_url)
    try:
        with backup_rows.snapshot(engine) as connection:
            if any(
                connection.execute(table.select().limit(1)).first()
                for table in backup_rows.our_tables(connection)
            ):
                raise BackupError(
                    "The database is not empty.",
                    "Restore into a new database, or add --force: its rows are replaced.",
                )
    except SQLAlchemyError as error:
        raise _unreachable(error) from error
    finally:
        engine.dispose()


def _write_files(
    archive: zipfile.ZipFile, manifest: Manifest, staging: Path, progress: Progress
) -> None:
    """Every file below the staging folder; equal ones as hard links, as snapshots have them."""
    first: dict[str, Path] = {}
    for number, (name, member) in enumerate(sorted(manifest.files.items()), 1):
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.sha256 in first:
            os.link(first[member.sha256], target)
        else:
            with archive.open(blob_member(member.sha256)) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            first[member.sha256] = target
        progress("files", number, len(manifest.files))


def _put_in_place(
    settings: Settings, archive: zipfile.ZipFile, manifest: Manifest, staging: Path
) -> RestoreReport:
    engine = make_engine(settings.database_url)
    swap = _Swap(settings.home, staging)
    try:
        with swap.undone_on_error(), writing(engine) as connection:
            rows = _load(connection, archive, manifest, settings.home)
            swap.run()
    except SQLAlchemyError as error:
        raise _unreachable(error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(
            f"The backup's rows do not fit its tables: {error}.", "Nothing was changed."
        ) from error
    finally:
        engine.dispose()
    return RestoreReport(rows, len(manifest.files), manifest.made_at, swap.aside_if_used())


def _load(connection: Connection, archive: zipfile.ZipFile, manifest: Manifest, home: Path) -> int:
    """Make the tables of the backup's revision, fill them, migrate."""
    backup_rows.drop_all(connection)
    upgrade(connection, manifest.revision)
    count = 0
    for table in backup_rows.our_tables(connection):
        with archive.open(table_member(table.name)) as lines:
            loaded = backup_rows.load(connection, table, lines, home)
        if loaded != manifest.rows[table.name]:
            raise ValueError(f"{table.name} has {loaded} rows, not {manifest.rows[table.name]}")
        count += loaded
    upgrade(connection)
    backup_rows.after_load(connection)
    return count


def _unreachable(error: SQLAlchemyError) -> BackupError:
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0][:200]
    return BackupError(
        f"The database cannot be written: {reason}.",
        "Check PIXBAL_DATABASE_URL and that its server runs; nothing was changed.",
    )


@dataclass
class _Swap:
    """Renames of whole folders that can be taken back."""

    home: Path
    staging: Path
    done: list[tuple[Path, Path]] = field(default_factory=list)

    @property
    def aside(self) -> Path:
        return self.home / self.staging.name.replace(".restore-", "before-restore-")

    def run(self) -> None:
        """Set aside what is there, and put what was restored in its place."""
        for folder in FOLDERS:
            here, new = self.home / folder, self.staging / folder
            if here.exists():
                self.aside.mkdir(exist_ok=True)
                self._rename(here, self.aside / folder)
            if new.exists():
                self._rename(new, here)

    def _rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)
        self.done.append((source, target))

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for source, target in reversed(self.done):
                os.rename(target, source)
            if self.aside.exists():
                self.aside.rmdir()
            raise

    def aside_if_used(self) -> Path | None:
        return self.aside if self.aside.exists() else None
