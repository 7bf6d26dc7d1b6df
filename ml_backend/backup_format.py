"""A backup file: a zip of rows, of blobs named by their content, and of a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ml_backend.errors import BackendError

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 512 * 2**20
CHUNK = 1 << 20
# Folders of PIXBAL_HOME that cannot be made again, or only by hours of work.
FOLDERS = ("images", "masks", "regions", "snapshots", "versions", "scores")
_AGAIN = "Take another backup file; nothing was changed."
_HASH = re.compile(r"[0-9a-f]{64}")
_DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
           RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error,
           struct.error)  # fmt: skip


class BackupError(BackendError):
    """A backup cannot be made or read, or must not go where it was told to."""


@dataclass(frozen=True)
class Member:
    """Size and SHA-256 of a member, or of the file that a blob becomes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What is in a backup; `tables` and `files` name every byte by its hash."""

    made_at: str
    revision: str
    home: str
    tables: Mapping[str, Member]  # by table
    rows: Mapping[str, int]
    files: Mapping[str, Member]  # by path below PIXBAL_HOME

    def to_bytes(self) -> bytes:
        """Canonical JSON with a hash of its own."""
        body = {
            "format": FORMAT,
            "made_at": self.made_at,
            "revision": self.revision,
            "home": self.home,
            "tables": {n: [m.sha256, m.size] for n, m in self.tables.items()},
            "rows": dict(self.rows),
            "files": {n: [m.sha256, m.size] for n, m in self.files.items()},
        }
        return json.dumps({**body, "hash": _own_hash(body)}, sort_keys=True).encode()

    def members(self) -> dict[str, Member]:
        """Every member of the archive besides the manifest."""
        tables = {table_member(name): member for name, member in self.tables.items()}
        return tables | {blob_member(member.sha256): member for member in self.files.values()}


def table_member(table: str) -> str:
    """Where the rows of a table are."""
    return f"database/{table}.jsonl"


def blob_member(sha256: str) -> str:
    """Where a content is; equal files, such as images in snapshots, are there once."""
    return f"blobs/{sha256}"


def copy_hashed(source: IO[bytes], target: IO[bytes]) -> Member:
    """Copy to the end; the size and hash of what went by."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        target.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return Member(digest.hexdigest(), size)


def open_archive(path: Path) -> zipfile.ZipFile:
    """The archive, open for reading.

    Raises:
        BackupError: it is missing, or no zip file.
    """
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise BackupError(f"There is no backup at {path}.", "Check the path.") from error
    except _DAMAGE as error:
        raise BackupError(f"{path} is not a whole backup file: {error}.", _AGAIN) from error


def read_manifest(archive: zipfile.ZipFile) -> Manifest:
    """The manifest, checked against its own hash, and every name in it.

    Raises:
        BackupError: it is damaged, of another format, or names a place outside PIXBAL_HOME.
    """
    try:
        if archive.getinfo(MANIFEST).file_size > MAX_MANIFEST_BYTES:
            raise ValueError("the manifest is too large")
        body = json.loads(archive.read(MANIFEST))
        if body.pop("hash") != _own_hash(body):
            raise ValueError("the manifest is not the one that was written")
        if body["format"] != FORMAT:
            raise BackupError(
                f"The backup has format {body['format']!r}, this release reads {FORMAT}.",
                "Restore it with the release that made it or a later one.",
            )
        found = Manifest(
            made_at=str(body["made_at"]),
            revision=str(body["revision"]),
            home=str(body["home"]),
            tables={_table(n): _member(m) for n, m in body["tables"].items()},
            rows={str(n): int(count) for n, count in body["rows"].items()},
            files={_below_home(n): _member(m) for n, m in body["files"].items()},
        )
    except _DAMAGE as error:
        raise BackupError(
            f"{archive.filename} is not a whole backup file: {error}.", _AGAIN
        ) from error
    return found


def verify(archive: zipfile.ZipFile, manifest: Manifest) -> Iterator[int]:
    """Hash every member; yields the bytes looked at after each.

    Raises:
        BackupError: names the first member that is missing, doubled, foreign or changed.
    """
    expected = manifest.members()
    names = archive.namelist()
    strange = set(names) ^ {*expected, MANIFEST}
    if strange or len(names) != len(set(names)):
        what = min(strange, default="a member twice")
        raise BackupError(f"{archive.filename} lacks, or should not hold, {what}.", _AGAIN)
    for name, member in expected.items():
        digest, size = hashlib.sha256(), 0
        try:
            with archive.open(name) as file:
                # No further than it should go: a zip may unpack without end.
                while size <= member.size and (chunk := file.read(CHUNK)):
                    digest.update(chunk)
                    size += len(chunk)
        except _DAMAGE as error:
            raise BackupError(
                f"{name} of {archive.filename} is damaged: {error}.", _AGAIN
            ) from error
        if (digest.hexdigest(), size) != (member.sha256, member.size):
            raise BackupError(f"{name} of {archive.filename} has changed.", _AGAIN)
        yield size


def _own_hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _member(value: Any) -> Member:
    sha256, size = value
    if not _HASH.fullmatch(sha256) or type(size) is not int or size < 0:
        raise ValueError(f"no hash and size: {value!r:.100}")
    return Member(sha256, size)


def _table(name: str) -> str:
    if not re.fullmatch(r"pixbal_[a-z_]{1,50}", name):
        raise ValueError(f"no table of ours: {name!r:.100}")
    return name


def _below_home(name: str) -> str:
    """A path that stays below one of our folders, whoever wrote the manifest."""
    parts = PurePosixPath(name).parts
    inside = len(parts) > 1 and parts[0] in FOLDERS and "/".join(parts) == name
    if not inside or any(p in ("..", ".") or re.search(r"[\x00-\x1f\\:]", p) for p in parts):
        raise BackupError(f"The backup names {name!r:.200}, which is no place of ours.", _AGAIN)
    return name
