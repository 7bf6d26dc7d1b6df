"""The search for secrets of test_dashboard_round finds what it should, else it shows nothing."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from secret_search import ArgumentWatch, files_with, forms

SECRET = "s3cret/with+odd=letters-0123456789"
ALLOWED = {"secrets.env": "made for them"}


@pytest.mark.guarantee(22)
@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"postgresql://me:{quote(SECRET, safe='')}@db",
        *(base64.b64encode(f"{'u' * n}:{SECRET}".encode()).decode() for n in range(1, 7)),
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2lnbmF0dXJlLW9mLWl0",
    ],
)
def test_secrets_are_found_in_every_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.log").write_bytes(b"\0\xff before " + text.encode() + b" behind")
    (tmp_path / "secrets.env").write_text(SECRET)
    (tmp_path / "b.log").write_text("nothing *** here, s3cret")
    hits = files_with(forms([SECRET]), tmp_path, ALLOWED)
    assert hits
    assert all(hit.startswith("deep/a.log: ") for hit in hits)


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "b.log").write_bytes(b"nothing *** here, s3cret" + bytes(range(256)) * 100)
    assert files_with(forms([SECRET]), tmp_path, ALLOWED) == []


@pytest.mark.guarantee(22)
def test_arguments_of_processes_are_seen() -> None:
    code = "import sys; sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code, SECRET], stdin=subprocess.PIPE)
    try:
        with ArgumentWatch() as watch:
            deadline = time.monotonic() + 30
            while not any(SECRET.encode() in words for words in watch.seen):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait()
