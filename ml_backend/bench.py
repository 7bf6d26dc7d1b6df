"""`pixbal bench`: the group "service" beside those of the training package."""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sqlalchemy import create_engine

from label_config import ClassSchema, build
from ml_backend.errors import BackendError
from ml_backend.managed import LOOPBACK
from ml_backend.overlay import draw_crop, draw_locator
from ml_backend.processes import BackendServer, free_port
from ml_backend.store import Label, Project, Query, Store, schema
from training.bench import GROUPS as TRAINING_GROUPS
from training.bench import Group, Options
from training.bench_report import Row, measured, timed
from training.bench_timing import take_turns
from training.superpixels import segment

THREADS, REQUESTS = 4, 300
PROJECT = 4
NOW = datetime(2026, 1, 1, tzinfo=UTC)
# Of this process alone, on a temporary folder and a loopback port.
SECRETS = {
    "PIXBAL_WEBHOOK_SECRET": "secret-of-the-bench",
    "PIXBAL_BASIC_PASSWORD": "password-of-the-bench",
    "PIXBAL_MEDIA_KEY": "key-of-the-bench",
}
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
        store.add_project(_project())
    port = free_port()
    env = SECRETS | {
        "PIXBAL_HOME": str(home),
        "PIXBAL_PORT": str(port),
        "PIXBAL_LOG_LEVEL": "ERROR",
    }
    kinds: dict[str, tuple[Request, float]] = {
        "GET /health": (lambda n: ("GET", "/health", None), 50.0),
        "POST /setup": (lambda n: ("POST", "/setup", {"project": f"{PROJECT}.1"}), 50.0),
        "POST /webhook": (lambda n: ("POST", "/webhook", _created(n)), 100.0),
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
    pair = base64.b64encode(f"pixbal:{SECRETS['PIXBAL_BASIC_PASSWORD']}".encode()).decode()
    headers = {"Authorization": f"Basic {pair}", "Content-Type": "application/json"}

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
        store.add_project(_project())
        _fill(folder, count)
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


def _project() -> Project:
    classes = ClassSchema.preset("camvid")
    return Project(
        id=PROJECT, title="bench", schema_json=classes.to_json(), template="region_multiclass",
        label_config=build(classes), method="seeds", side_px=32, seed=0, budget_clicks=100.0,
        train_every=None, preticks=True, train_config={}, acquisition="pixbal", created_at=NOW,
    )  # fmt: skip


def _created(number: int) -> dict[str, Any]:
    """An ANNOTATION_CREATED event as Label Studio sends it, reduced to what is read."""
    task = {"id": number, "data": {"region": f"image:{number}"}}
    value = {"choices": ["0", "3"]}
    result = [{"from_name": "classes", "to_name": "region", "type": "choices", "value": value}]
    annotation = {"id": number, "task": number, "result": result, "updated_at": NOW.isoformat()}
    project = {"id": PROJECT}
    kind = "ANNOTATION_CREATED"
    return {"action": kind, "annotation": annotation, "project": project, "task": task}


def _fill(folder: Path, count: int) -> None:
    """Labels 1..count, each answering its own question; quicker than through the store's doors."""
    query = Query(
        id=0, project_id=PROJECT, image_id="image", region_index=0, regions_hash="hash", round=1,
        status="answered", task_id=None, score=1.0, expected_clicks=1.0, preticks=(),
        model_version="r0",
    )  # fmt: skip
    label = Label(
        annotation_id=0, project_id=PROJECT, task_id=None, query_id=None, kind="classes",
        classes=("Road",), clicks=1, lead_time_s=2.5, annotator="1", updated_at=NOW, deleted=False,
        seen_at=NOW,
    )  # fmt: skip
    numbers = range(1, count + 1)
    queries = [{**vars(query), "id": i, "region_index": i, "task_id": i} for i in numbers]
    labels = [{**vars(label), "annotation_id": i, "query_id": i, "task_id": i} for i in numbers]
    engine = create_engine(f"sqlite:///{folder}/pixbal.db")
    with engine.begin() as connection:
        connection.execute(schema.query.insert(), queries)
        connection.execute(schema.label.insert(), labels)
    engine.dispose()


GROUPS: Mapping[str, Group] = {**TRAINING_GROUPS, "service": service}
