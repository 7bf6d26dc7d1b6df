"""Clients that keep their connections: requests at set times, or one after the other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from ml_backend.bench_site import created_event, predict_request, site_headers
from ml_backend.managed import LOOPBACK

TIMEOUT_S = 30.0
Body = Mapping[str, Any] | None
KINDS: Mapping[str, Callable[[int], tuple[str, str, Body]]] = {
    "webhook": lambda n: ("POST", "/webhook", created_event(n)),
    "health": lambda n: ("GET", "/health", None),
    "predict": lambda n: ("POST", "/predict", predict_request(n)),
}


@dataclass(frozen=True)
class Due:
    """A request: `at_s` after the start (0: as soon as its connection is free)."""

    kind: str
    number: int
    at_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What came: the status, 0 where nothing came, and ms since the request was due."""

    kind: str
    number: int
    status: int
    ms: float


def paced(seconds: float, rates: Mapping[str, float]) -> list[Due]:
    """Requests of each kind, evenly spaced at so many a second, numbered from 1."""
    found = [
        Due(kind, n + 1, (n + shift / len(rates)) / rate)
        for shift, (kind, rate) in enumerate(rates.items())
        for n in range(int(seconds * rate))
    ]
    return sorted(found, key=lambda due: due.at_s)


def play(port: int, schedule: Sequence[Due], connections: int) -> list[Answer]:
    """Send a schedule over so many connections, each one taking every n-th request.

    A request that waits because the one before it is slow is late from the moment it was due.
    """
    start = time.perf_counter() + 0.2

    def client(first: int) -> list[Answer]:
        return list(_answers(port, schedule[first::connections], start))

    with ThreadPoolExecutor(connections) as pool:
        return [answer for found in pool.map(client, range(connections)) for answer in found]


def _answers(port: int, schedule: Sequence[Due], start: float) -> Iterator[Answer]:
    connection, headers = HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_S), site_headers()
    for due in schedule:
        method, path, body = KINDS[due.kind](due.number)
        data = None if body is None else json.dumps(body)
        now = time.perf_counter()
        when = start + due.at_s if due.at_s else now
        if when > now:
            time.sleep(when - now)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, HTTPException):
            status = 0
            connection.close()
        yield Answer(due.kind, due.number, status, 1000 * (time.perf_counter() - when))
    connection.close()
