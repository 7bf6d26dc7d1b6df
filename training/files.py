"""JSON files and hashes of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from training.atomic import write_atomically


def file_sha256(path: Path) -> str:
    """SHA-256 of the file's bytes, 64 hex digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_bytes(value: object) -> bytes:
    """Canonical JSON: equal values give equal bytes. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def write_json(path: Path, value: object) -> None:
    """Write canonical JSON atomically."""
    data = json_bytes(value)
    write_atomically(path, lambda file: file.write(data))


def read_json(path: Path) -> Any:
    """Read JSON. Raises OSError, or ValueError for other content."""
    return json.loads(path.read_bytes().decode("utf-8", errors="strict"))
