"""How long to wait before another try."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True)
class Backoff:
    """Exponential delays with jitter: first_s * 2^n, at most cap_s, times a draw from [0.5, 1).

    Clients that failed together must not come back together, hence the draw.
    """

    attempts: int = 5
    first_s: float = 0.5
    cap_s: float = 30.0
    jitter: random.Random = field(default_factory=random.Random)
    sleep: Callable[[float], None] = time.sleep

    def delay_s(self, tries: int, retry_after_s: float | None = None) -> float:
        """Seconds to wait after `tries` >= 1 failures; a server's own wish wins, up to cap_s."""
        if retry_after_s is not None:
            return min(retry_after_s, self.cap_s)
        grown = min(self.first_s * 2.0 ** (tries - 1), self.cap_s)
        return grown * (0.5 + 0.5 * self.jitter.random())

    def wait(self, tries: int, retry_after_s: float | None = None) -> None:
        """Sleep for `delay_s`."""
        self.sleep(self.delay_s(tries, retry_after_s))


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, a number or an HTTP date; None if unreadable."""
    text = (header or "").strip()
    if text.isdigit():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
