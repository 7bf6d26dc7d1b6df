"""How much memory processes hold, from /proc."""

from __future__ import annotations

import os
from pathlib import Path


def resident_bytes(group: int | None) -> int:
    """Resident memory of a process group together; of this process where None; 0 without /proc."""
    if group is None:
        return _resident(Path("/proc/self"))
    return sum(_resident(path) for path in Path("/proc").glob("[0-9]*") if _group(path) == group)


def _group(path: Path) -> int:
    try:
        # The name in brackets may hold anything; what follows it is plain.
        return int((path / "stat").read_text().rpartition(")")[2].split()[2])
    except (OSError, IndexError, ValueError):
        return -1  # it has ended meanwhile


def _resident(path: Path) -> int:
    try:
        pages = int((path / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
