"""`pixbal bench`: the group "service" beside those of the training package."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ml_backend.bench_site import (
    PROJECT,
    created_event,
    fill,
    site_environment,
    site_headers,
    site_project,
)
from ml_backend.errors import BackendError
from ml_backend.load import load
from ml_backend.managed import LOOPBACK
from ml_backend.overlay import draw_crop, draw_locator
from ml_backend.processes import BackendServer, free_port
from ml_backend.store import Store
from training.bench import GROUPS as TRAINING_GROUPS
from training.bench import Group, Options
from training.bench_report import Row, measured, timed
from training.bench_timing import take_turns
from training.superpixels import segment

THREADS, REQUESTS = 4, 300
Request = Callable[[int], tuple[str, str, Mapping[str, Any] | None]]


def service(options: Options) -> Iterator[Row]:
    """Pictures, answers of a real backend to four clients, and reads of a large store."""
    yield from picture_rows(options)
    with tempfile.TemporaryDirectory(prefix="pixbal-bench-") as folder:
        yield from backend_rows(Path(folder), 20 if options.quick else REQUESTS)
    with tempfile.TemporaryDirectory(prefix="pixbal-bench-") as folder:
        yield from store_rows(Path(folder), 1000 if options.quick else 100_000, options.repeats)


def picture_rows(options: Options) -> Iterator[Row]:
    """Both pictures of a question, from a decoded image."""
    sizes = [(48, 64, 10.0)] if options.quick else [(360, 480, 10.0), (1024, 2048, 40.0)]
    for height, width, most in sizes:
        noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        image = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.uint8)
        tiles = segment(image, "grid", 32)
        crop, locator = take_turns(
            [partial(draw, image, tiles, 1) for draw in (draw_crop, draw_locator)], options.repeats
        )
        yield timed("service", f"crop picture, {height}x{width}", crop, most_ms=most)
        yield timed("service", f"locator picture, {height}x{width}", locator, most_ms=most)


def backend_rows(home: Path, requests: int) -> Iterator[Row]:
    """Time to the last byte of each answer, seen by clients that keep their connection."""
    with Store.open(f"sqlite:///{home}/pixbal.db") as store:
        store.add_project(site_project())
    port = free_port()
    env = site_environment(home, port)
    kinds: dict[str, tuple[Request, float]] = {
        "GET /health": (lambda n: ("GET", "/health", None), 50.0),
        "POST /setup": (lambda n: ("POST", "/setup", {"project": f"{PROJECT}.1"}), 50.0),
        "POST /webhook": (lambda n: ("POST", "/webhook", created_event(n)), 100.0),
    }
    with BackendServer(env=env, log=home / "backend.log", port=port):
        for name, (request, most) in kinds.items():
            times = _ask(port, request, requests)
            for share in (50, 99):
                what = f"{name}, p{share} of {requests} requests by {THREADS} clients"
                value = float(np.percentile(times, share))
                yield measured("service", what, value, "ms", most=most)


def _ask(port: int, request: Request, requests: int) -> list[float]:
    """Milliseconds of each request, made by THREADS clients at once."""
    headers = site_headers()

    def client(first: int) -> list[float]:
        connection, taken = HTTPConnection(LOOPBACK, port, timeout=30), []
        for number in range(first, requests + 1, THREADS):
            method, path, body = request(number)
            data = None if body is None else json.dumps(body)
            started = time.perf_counter()
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            answer.read()
            taken.append(1000 * (time.perf_counter() - started))
            if answer.status >= 300:
                raise BackendError(
                    f"{method} {path} was answered with {answer.status}.",
                    hint="Run the tests of the backend; a benchmark needs one that works.",
                )
        connection.close()
        return taken[1:] or taken  # the first one opens the connection

    with ThreadPoolExecutor(THREADS) as pool:
        return [ms for found in pool.map(client, range(1, THREADS + 1)) for ms in found]


def store_rows(folder: Path, count: int, repeats: int) -> Iterator[Row]:
    """Reads of all labels, and of one, among `count` labels of as many questions."""
    with Store.open(f"sqlite:///{folder}/pixbal.db") as store:
        store.add_project(site_project())
        fill(folder, count, labelled=True)
        whole: dict[str, Callable[[], object]] = {
            "effective labels": lambda: store.effective_labels(PROJECT),
            "answered questions": lambda: store.queries(PROJECT, status="answered"),
            "sum of clicks": lambda: store.clicks(PROJECT),
            "number of questions by status": lambda: store.count_queries(PROJECT),
            "one question by its task": lambda: store.query_by_task(PROJECT, count),
        }
        for name, read in whole.items():
            (times,) = take_turns([read], repeats)
            yield timed("service", f"store, {count:,} labels: {name}", times)


GROUPS: Mapping[str, Group] = {**TRAINING_GROUPS, "service": service}
# Minutes long, and it keeps every core busy: only where it is named.
ON_REQUEST: Mapping[str, Group] = {"load": load}
