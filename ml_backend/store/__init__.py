"""Projects, images, queries, labels, events, rounds and versions in SQLite or PostgreSQL."""

from ml_backend.store.fence import fenced, held_token
from ml_backend.store.rows import (
    Event,
    Image,
    Label,
    Lease,
    Project,
    Query,
    Round,
    VersionRow,
)
from ml_backend.store.store import Store

__all__ = [
    "Event",
    "Image",
    "Label",
    "Lease",
    "Project",
    "Query",
    "Round",
    "Store",
    "VersionRow",
    "fenced",
    "held_token",
]
