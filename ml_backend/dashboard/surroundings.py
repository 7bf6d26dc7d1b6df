"""What the page says about its surroundings: the worker's heartbeat and Label Studio."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WORKER_MAX_AGE_S = 30.0
KEPT_S = 10.0
TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Sign:
    """Good or bad, in words."""

    good: bool
    text: str


def worker_sign(home: Path, now: float) -> Sign:
    """How long ago the worker gave a sign of life."""
    try:
        age = max(0.0, now - float((home / "worker.heartbeat").read_text(encoding="ascii")))
    except FileNotFoundError:
        return Sign(False, "never ran here; start it with `pixbal worker` or `pixbal up`")
    except (OSError, ValueError) as error:
        return Sign(False, f"its heartbeat cannot be read: {error}")
    if age >= WORKER_MAX_AGE_S:
        return Sign(False, f"no sign for {duration(age)}; start it with `pixbal worker`")
    return Sign(True, f"alive {age:.0f} s ago")


class LabelStudioSign:
    """Whether Label Studio answers; asked without a token, and not for every page."""

    def __init__(self, url: str, now: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._now = now
        self._lock = threading.Lock()
        self._kept: tuple[float, Sign] | None = None

    def __call__(self) -> Sign:
        """The answer, at most ten seconds old."""
        with self._lock:
            if self._kept is None or self._now() - self._kept[0] > KEPT_S:
                sign = self._ask()
                self._kept = (self._now(), sign)
            return self._kept[1]

    def _ask(self) -> Sign:
        import httpx

        try:
            answer = httpx.get(f"{self._url}/health", timeout=TIMEOUT_S, trust_env=False)
        except httpx.HTTPError as error:
            return Sign(False, f"no answer within {TIMEOUT_S:g} s ({type(error).__name__})")
        if answer.status_code != 200:
            return Sign(False, f"answered {answer.status_code}")
        return Sign(True, "reachable")


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days"
