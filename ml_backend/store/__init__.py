"""Projects, images, queries, labels, events, rounds and versions in SQLite or PostgreSQL."""

from ml_backend.store.rows import (
    Event,
    Image,
    Label,
    Project,
    Query,
    Round,
    VersionRow,
)
from ml_backend.store.store import Store

__all__ = ["Event", "Image", "Label", "Project", "Query", "Round", "Store", "VersionRow"]
