"""Fixtures shared by every test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from postgres import PostgresServer, find_postgres

if TYPE_CHECKING:
    from desk import Site

pytest_plugins = ["servers", "reliability", "pytester"]

POSTGRES_URL = "PIXBAL_TEST_POSTGRES_URL"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def postgres() -> Iterator[None]:
    """Debian's PostgreSQL where it is installed, for the tests that run on both databases.

    An address that was given in the environment is used instead.
    """
    programs = find_postgres()
    if os.environ.get(POSTGRES_URL) or programs is None:
        yield
        return
    # Not below pytest's own folder, which other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="pixbal-postgres-"))
    folder.chmod(0o711)
    try:
        with PostgresServer(folder / "server", programs) as server:
            os.environ[POSTGRES_URL] = server.url
            yield
    finally:
        os.environ.pop(POSTGRES_URL, None)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A real worker over two projects, beside a fake Label Studio."""
    from desk import open_site  # imports torch and the engine

    yield from open_site(tmp_path)


def _data_root() -> Path:
    return Path(os.environ.get("PIXBAL_DATA") or ROOT.parent / "shared" / "data").resolve()


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The CamVid folder, or a skip that says where it was looked for."""
    folder = _data_root() / "camvid"
    if not (folder / "train" / "images").is_dir():
        pytest.skip(f"no CamVid at {folder}; set PIXBAL_DATA to the folder that holds camvid/")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numeric cases copied from the authors' functions."""
    return ROOT / "tests" / "golden"
