"""The line of the README, and of the page, that starts a training from anywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from backend_helpers import WEBHOOK_SECRET, make_project, make_settings, make_store
from dashboard_helpers import PASSWORD, admin_client, log_in

from ml_backend.asking import webhook_command
from ml_backend.processes import BackendServer, free_port
from ml_backend.settings import Settings
from ml_backend.store import Store

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Settings, Store]]:
    """A real backend under gunicorn, over a store with project 7."""
    port = free_port()
    environment = {
        "PIXBAL_HOME": str(tmp_path), "PIXBAL_PORT": str(port),
        "PIXBAL_WEBHOOK_SECRET": WEBHOOK_SECRET, "PIXBAL_ADMIN_PASSWORD": PASSWORD,
    }  # fmt: skip
    settings = make_settings(tmp_path, **environment)
    given = {k: v for k, v in os.environ.items() if not k.startswith("PIXBAL_")}
    with (
        make_store(tmp_path, make_project(7)) as store,
        BackendServer(env={**given, **environment}, log=tmp_path / "backend.log", port=port),
    ):
        yield settings, store


def run(line: str, settings: Settings, secret: str = WEBHOOK_SECRET) -> int:
    """In a shell whose environment has what the README names, and no more."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    environment = {
        "PATH": os.environ["PATH"],
        "PIXBAL_WEBHOOK_SECRET": secret,
        "PIXBAL_PUBLIC_URL": settings.public_url,
    }
    return subprocess.run(
        ["sh", "-c", line], env=environment, capture_output=True, check=False
    ).returncode


def requests(store: Store) -> list[int | None]:
    return [event.project_id for event in store.pending_events(actions=("START_TRAINING",))]


def line_of_the_readme() -> str:
    found = re.findall(r"^curl .*START_TRAINING.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


def test_the_line_of_the_readme_starts_a_training(served: tuple[Settings, Store]) -> None:
    """Seen failing with another header in the line, and with another name of the action."""
    settings, store = served
    line = line_of_the_readme()
    assert run(line, settings) == 0
    assert requests(store) == [7]
    assert run(line, settings) == 0  # asking again is a new request
    assert requests(store) == [7, 7]
    assert run(line, settings, "not the secret") != 0
    assert run(line.replace('"id": 7', '"id": 8'), settings) != 0
    assert requests(store) == [7, 7]


def test_the_page_shows_the_same_line_without_the_secret(served: tuple[Settings, Store]) -> None:
    settings, store = served
    assert line_of_the_readme() == webhook_command("$PIXBAL_PUBLIC_URL", 7)
    client = admin_client(settings, store)
    log_in(client)
    html = client.get("/dashboard/projects/7").get_data(as_text=True)
    assert WEBHOOK_SECRET not in html
    shown = re.search(r"<pre[^>]*>(curl .*)</pre>", html)
    assert shown is not None
    line = unescape(shown[1])
    assert "$PIXBAL_WEBHOOK_SECRET" in line
    assert run(line, settings) == 0
    assert requests(store) == [7]
