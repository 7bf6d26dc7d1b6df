"""JSON files and hashes of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its hash beside it, for a file that names all others by theirs."""
    return {"content": dict(content), "sha256": hashlib.sha256(json_bytes(content)).hexdigest()}


def unsealed(raw: Any) -> dict[str, Any]:
    """The content of `sealed`; also one without a seal, as the first release wrote it.

    Raises: ValueError where the content is not the one that was sealed.
    """
    if isinstance(raw, dict) and "format" in raw:
        return raw
    if not isinstance(raw, dict) or set(raw) != {"content", "sha256"}:
        raise ValueError("it is not what was written")
    content: dict[str, Any] = raw["content"]
    if raw["sha256"] != hashlib.sha256(json_bytes(content)).hexdigest():
        raise ValueError("it has changed since it was written")
    return content


def read_json(path: Path) -> Any:
    """Read JSON. Raises OSError, or ValueError for other content."""
    return json.loads(path.read_bytes().decode("utf-8", errors="strict"))
