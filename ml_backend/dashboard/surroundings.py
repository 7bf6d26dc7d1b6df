"""What the page says about its surroundings: the workers and Label Studio."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ml_backend.liveness import WorkerSign

KEPT_S = 10.0
TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Sign:
    """Good or bad, in words."""

    good: bool
    text: str


def worker_sign(workers: Sequence[WorkerSign]) -> Sign:
    """Which workers live; one that lives hides none that is lost."""
    alive = [worker.id for worker in workers if worker.alive]
    lost = [worker for worker in workers if not worker.alive]
    gone = f"no sign of {', '.join(worker.id for worker in lost)}" if lost else ""
    if not alive:
        return Sign(False, f"{gone or 'none runs'}; start it with `pixbal worker` or `pixbal up`")
    said = "alive" if len(alive) == 1 else f"{len(alive)} alive"
    # What a lost one held is taken over; until then somebody waits for it.
    good = not any(worker.held for worker in lost)
    return Sign(good, f"{said}; {gone}" if gone else said)


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
