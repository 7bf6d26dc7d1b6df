"""The part of the OpenAPI description that a person's browser asks for."""

from __future__ import annotations

from typing import Any


def dashboard_paths() -> dict[str, Any]:
    """Pages and their data."""
    return {}
