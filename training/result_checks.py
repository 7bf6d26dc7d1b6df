"""Checks of single values read from files; each raises ValueError saying what was expected."""

from __future__ import annotations

import math
from typing import Any


def check_count(name: str, value: Any, least: int = 0) -> None:
    """A whole number (not bool) of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}.")


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> None:
    """A finite number (not bool) in low..high."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}.")
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must lie in {low:g}..{high:g}, got {value!r}.")


def check_share(name: str, value: Any) -> None:
    """A number in 0..1; percentages are refused."""
    check_number(name, value, 0.0, 1.0)


def check_text(name: str, value: Any) -> None:
    """A text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a text that is not empty, got {value!r}.")
