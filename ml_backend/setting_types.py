"""Checks of single settings: each notes a fault and goes on, so that all faults show at once."""

from __future__ import annotations

import hashlib
import math
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,2})?|mps")
VISIBLE_ASCII = re.compile(r"[!-~]*")


class Faults(list[str]):
    """Faults found so far, with readers that add to them."""

    def integer(
        self, values: Mapping[str, str], name: str, default: int, low: int, high: int
    ) -> int:
        """A whole number in low..high, decimal digits only."""
        text = values.get(name)
        if text is None:
            return default
        if re.fullmatch(r"\d{1,12}", text, re.ASCII) and low <= int(text) <= high:
            return int(text)
        self.append(f"{name} must be a whole number from {low} to {high}, got {text!r}")
        return default

    def seconds(self, values: Mapping[str, str], name: str, default: float) -> float:
        """A finite number of seconds from 0.01 to one day."""
        text = values.get(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if 0.01 <= number <= 86400.0:
            return number
        self.append(f"{name} must be seconds from 0.01 to 86400, got {text!r}")
        return default

    def choice(
        self, values: Mapping[str, str], name: str, default: str, known: tuple[str, ...]
    ) -> str:
        """One of the known words."""
        text = values.get(name, default)
        if text in known:
            return text
        self.append(f"{name} must be one of {', '.join(known)}, got {text!r}")
        return default

    def name(self, values: Mapping[str, str], name: str, default: str) -> str:
        """A short name that may stand in file names and logs."""
        text = values.get(name, default)
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
            return text
        self.append(f"{name} must be 1 to 100 letters, digits, '.', '_' or '-', got {text!r}")
        return default

    def device(self, values: Mapping[str, str], name: str) -> str:
        """A torch device name, or auto."""
        text = values.get(name, "auto")
        if DEVICE.fullmatch(text):
            return text
        self.append(f"{name} must be auto, cpu, cuda, cuda:N or mps, got {text!r}")
        return "auto"


def http_url(values: Mapping[str, str], name: str, default: str, faults: Faults) -> str:
    """An http(s) address without credentials, query or fragment; the last slash is dropped."""
    text = values.get(name, default)
    expected = f"{name} must be an http:// or https:// address with a host"
    try:
        parts = urlsplit(text)
        port_ok = parts.port is None or parts.port > 0
        credentials = parts.username is not None or parts.password is not None
    except ValueError:
        faults.append(f"{expected}, got {text!r}")
        return default
    if credentials:
        # The value is not repeated: it holds a password.
        faults.append(f"{name} must not hold a user or password; use the settings made for them")
        return default
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        faults.append(f"{expected}, got {text!r}")
        return default
    if parts.query or parts.fragment or not VISIBLE_ASCII.fullmatch(text):
        faults.append(f"{expected} and no query, fragment or spaces, got {text!r}")
        return default
    return text.rstrip("/")


def database_url(values: Mapping[str, str], name: str, default: Path, faults: Faults) -> str:
    """A SQLAlchemy address of SQLite or PostgreSQL; PostgreSQL always through psycopg 3."""
    text = values.get(name)
    if text is None:
        return f"sqlite:///{default}"
    # The value is never repeated: it may hold a password.
    expected = f"{name} must look like sqlite:////folder/file.db or postgresql://user:pw@host/name"
    if text.startswith("postgres://"):
        text = "postgresql://" + text.removeprefix("postgres://")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        faults.append(expected)
        return text
    dialect = url.get_backend_name()
    if dialect == "postgresql":
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if dialect != "sqlite" or not url.database or url.database == ":memory:":
        # Two processes share the store, so a database in memory cannot work.
        faults.append(expected)
    return text


def token(values: Mapping[str, str], name: str, faults: Faults) -> str:
    """A word of visible ASCII characters, so that it fits an HTTP header; "" when unset."""
    text = values.get(name, "")
    if not VISIBLE_ASCII.fullmatch(text):
        faults.append(f"{name} must consist of visible ASCII characters without spaces")
    return text


def own_worker_id(home: Path) -> str:
    """The same at each start of a worker on this machine and home, another anywhere else."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "host"
    return f"w-{host[:80]}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"
