"""Real servers for the tests: one Label Studio per session, one backend per test that asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.processes import (
    BackendServer,
    LabelStudioServer,
    ProcessError,
    WorkerProcess,
    find_label_studio,
    free_port,
    label_studio_template,
)

__all__ = ["BackendServer", "LabelStudioServer", "WorkerProcess", "free_port", "label_studio"]

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "label-studio"


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """A running Label Studio with an empty database; skips where it is not installed."""
    try:
        executable = find_label_studio(ROOT)
    except ProcessError as error:
        pytest.skip(f"{error.message} {error.hint}")
    template = label_studio_template(CACHE, executable)
    folder = tmp_path_factory.mktemp("label-studio") / "data"
    with LabelStudioServer(folder, executable=executable, template=template) as server:
        yield server
