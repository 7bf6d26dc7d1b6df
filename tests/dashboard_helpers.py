"""A store with a life behind it, and a browser-like client that logs in."""

from __future__ import annotations

import atexit
import contextlib
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from backend_helpers import (
    START,
    make_image,
    make_label,
    make_project,
    make_schema,
    make_settings,
    make_store,
    open_queries,
)
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from ml_backend.app import Services, create_app
from ml_backend.leases import Keeper
from ml_backend.settings import Settings
from ml_backend.store import Store, VersionRow
from training.files import write_json

PASSWORD = "admin-password-of-the-tests"
CLASSES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
           "Pedestrian", "Bicyclist")  # fmt: skip
MIOUS = (0.292, 0.418, 0.487, 0.531)


def admin_settings(home: Path, **environ: str) -> Settings:
    """Settings with the admin's page on, and a Label Studio that nobody runs."""
    base = {"PIXBAL_ADMIN_PASSWORD": PASSWORD, "LABEL_STUDIO_URL": "http://127.0.0.1:9"}
    return make_settings(home, **{**base, **environ})


def admin_client(settings: Settings, store: Store) -> FlaskClient:
    """A client of the app that has not logged in."""
    return create_app(Services(settings, store)).test_client()


def form_token(page: str) -> str:
    """The token of the forms of a page."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None, page[:500]
    return found[1]


def log_in(
    client: FlaskClient, password: str = PASSWORD, user: str = "admin", **more: Any
) -> TestResponse:
    """Fill in the form; `more` goes to the request, such as environ_overrides."""
    token = form_token(client.get("/dashboard/login").get_data(as_text=True))
    form = {"user": user, "password": password, "csrf_token": token}
    return client.post("/dashboard/login", data=form, **more)


@contextlib.contextmanager
def beating(store: Store, *names: str) -> Iterator[None]:
    """Workers that hold their leases and beat, from a thread as real ones do."""
    keepers = [Keeper(store, name, 30.0) for name in names]
    for keeper in keepers:
        keeper.start()
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            for keeper in keepers:
                keeper.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def busy_store(home: Path) -> Store:
    """Project 4 after four finished rounds, one that failed and one that trains; a fresh copy."""
    template = _busy_home()
    shutil.copytree(template, home)
    with contextlib.closing(sqlite3.connect(home / "pixbal.db")) as database, database:
        move = "UPDATE pixbal_version SET path = replace(path, ?, ?)"
        database.execute(move, (str(template), str(home)))
    return Store.open(f"sqlite:///{home}/pixbal.db")


@cache
def _busy_home() -> Path:
    """Made once: every write waits for the disk."""
    home = Path(tempfile.mkdtemp(prefix="pixbal-busy-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    fill(home, labels=8).close()
    return home


def fill(home: Path, labels: int) -> Store:
    """The busy store itself; a fifth of its questions is open."""
    home.mkdir(parents=True, exist_ok=True)
    schema = make_schema(*CLASSES)
    store = make_store(home, make_project(schema=schema, title="Street scenes"))
    store.add_images([make_image(image_id=f"{i:024x}", region_count=165) for i in range(60)])
    open_queries(store, 4, labels + labels // 4)
    asked = store.queries(4)
    for index in range(labels):
        store.apply_label(
            make_label(
                index + 1,
                task_id=index + 1,
                query_id=asked[index].id,
                classes=CLASSES[index % 7 : index % 7 + 1 + index % 3],
                clicks=1 + index % 3,
            )
        )
    for number, miou in enumerate(MIOUS, 1):
        finished_round(store, home, number, miou)
    store.start_round(4, 5, "request", "w5")
    store.update_round(4, 5, state="failed", started_at=START + timedelta(minutes=50),
                       finished_at=START + timedelta(minutes=51), labels=612, clicks=905,
                       error="RuntimeError: the loss is not a number")  # fmt: skip
    store.start_round(4, 6, "labels", "w6")
    store.update_round(4, 6, state="stage1", stage="stage1", epoch=7, step=163, steps=240,
                       loss=0.8312, eta_s=254.0, labels=640, clicks=951)  # fmt: skip
    store.update_project(4, model_version="r4", current_version="r4")
    return store


def finished_round(
    store: Store, home: Path, number: int, miou: float | None, classes: tuple[str, ...] = CLASSES
) -> None:
    """A finished round and its version, whose folder exists; without mIoU nothing measured it."""
    folder = home / "versions" / "p4" / f"r{number}"
    folder.mkdir(parents=True)
    write_json(folder / "version.json", {"name": f"r{number}"})
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40 * number)
    metrics: dict[str, Any] = {"miou": miou}
    if miou is not None:
        values = {name: round(miou * (1.5 - 0.09 * i), 4) for i, name in enumerate(classes)}
        metrics["stage2"] = {"per_class": {**values, classes[-1]: None}}
    made = START + timedelta(minutes=11 * number)
    version = VersionRow(4, f"r{number}", number, str(folder), metrics, f"{number}a4f" * 16, made)
    store.start_round(4, number, "labels", f"w{number}")
    started = START + timedelta(minutes=11 * number - 2)
    store.update_round(4, number, state="done", labels=150 * number, clicks=221 * number,
                       started_at=started, finished_at=made,
                       version=version.name)  # fmt: skip
    store.add_version(version)
