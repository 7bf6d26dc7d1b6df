"""What the web process works with."""

from __future__ import annotations

from dataclasses import dataclass

from ml_backend.settings import Settings
from ml_backend.store import Store


@dataclass(frozen=True)
class Services:
    """Handed to `create_app`; tests hand in a store on a temporary file."""

    settings: Settings
    store: Store
