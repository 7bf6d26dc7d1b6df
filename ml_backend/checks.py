"""One answer of the doctor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What was looked at: ok True, False (with what to do), or None where it could not be told."""

    name: str
    ok: bool | None
    detail: str
    advice: str = ""
