"""Logging: one line an event, and never a secret, wherever in the line it turns up."""

from __future__ import annotations

import base64
import logging
import sys
from collections.abc import Iterable
from typing import IO
from urllib.parse import quote

from ml_backend.settings import Settings

MASK = "***"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RedactingFormatter(logging.Formatter):
    """Masks secrets in the finished text: message, arguments and traceback alike."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__(FORMAT)
        # The longest first: one secret may be part of another.
        self._secrets = sorted({s for s in secrets if s}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text


def log_secrets(settings: Settings) -> set[str]:
    """Every form in which a secret could turn up: as it is, in an address, in a header."""
    found: set[str] = set()
    for value in settings.secret_values():
        found |= {value, quote(value, safe="")}
    if settings.basic_password:
        pair = f"{settings.basic_user}:{settings.basic_password}"
        found.add(base64.b64encode(pair.encode()).decode())
    return found


def configure_logging(settings: Settings, stream: IO[str] | None = None) -> None:
    """Send the root logger to standard error, or to `stream`, with secrets masked.

    Doing it again replaces the handler of the time before.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(RedactingFormatter(log_secrets(settings)))
    handler.set_name("pixbal")
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.get_name() == "pixbal"]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    # Alembic tells at every start which database it found.
    logging.getLogger("alembic").setLevel("WARNING")
    # One line for every request to Label Studio buries the rounds.
    quiet = "INFO" if settings.log_level == "DEBUG" else "WARNING"
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(quiet)
