"""Fixtures shared by every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["servers"]

ROOT = Path(__file__).resolve().parents[1]


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
