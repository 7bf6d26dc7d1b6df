"""Priority of a question -> the score Label Studio orders by."""

from __future__ import annotations

import math

from ml_backend.errors import BackendError


def queue_score(priority: float) -> float:
    """A score in (0, 1), lower where the priority is higher; Label Studio asks the lowest first.

    s(p) = 1 / (2 + 2p) for p >= 0, and 1 - s(-p) below: strictly falling, s(0) = 1/2.

    Not -p: Label Studio answers 201 to imported predictions with a score outside [0, 1] and drops
    them, and logs an error for each one that comes with a task.

    Raises:
        BackendError: the priority is not finite.
    """
    if not math.isfinite(priority):
        raise BackendError(
            f"A question needs a finite priority, got {priority}.",
            "Leave regions without a score out of the queue.",
        )
    score = 0.5 / (1.0 + abs(priority))
    return score if priority >= 0 else 1.0 - score
