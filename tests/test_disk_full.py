"""A disk that is really full: a small file system, filled to the last byte in a round."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from servers import LabelStudioServer
from test_store import _postgres_url
from tiny_project import TinyProject

from label_config import Answer, ClassSchema, answer_result
from ml_backend.failures import DISK_FULL

pytestmark = [pytest.mark.server, pytest.mark.slow]
DISK = "64m"  # some ten times of what the tiny project needs


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system where the home of the tiny project will be."""
    folder = tmp_path / "tiny" / "stack" / "pixbal"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "pixbal-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a disk to fill needs the right to mount one: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte that is left; returns the file that has them."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
    assert os.statvfs(disk).f_bfree == 0
    with pytest.raises(OSError, match="No space left"):
        (disk / "one more byte").write_bytes(b"\0")
    (disk / "one more byte").unlink()
    return ballast


@dataclass
class Caller:
    """What Label Studio and its annotators do meanwhile."""

    tiny: TinyProject

    def predicts(self, version: str) -> None:
        """Health and predictions are answered."""
        settings, store = self.tiny.stack.settings, self.tiny.stack.store
        auth = (settings.basic_user, str(settings.basic_password))
        health = requests.get(f"{settings.backend_url}/health", auth=auth, timeout=10)
        assert health.status_code == 200, health.text
        project = store.project(self.tiny.project_id)
        query = next(q for q in store.queries(self.tiny.project_id) if q.task_id)
        assert project is not None
        body = {
            "tasks": [{"id": query.task_id}],
            "project": f"{project.id}.1",
            "label_config": project.label_config,
        }
        answer = requests.post(f"{settings.backend_url}/predict", json=body, auth=auth, timeout=10)
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"][0]["model_version"] == version

    def changes_an_answer(self) -> tuple[int, tuple[str, ...]]:
        """An annotator corrects an answer; its webhook may find no room. Its id, its classes."""
        server, store = self.tiny.stack.label_studio, self.tiny.stack.store
        project = store.project(self.tiny.project_id)
        assert project is not None
        schema = ClassSchema.from_json(project.schema_json)
        label = store.labels(project.id)[0]
        classes = tuple(n for n in schema.names if n not in label.classes) or schema.names[:1]
        result: list[dict[str, Any]] = answer_result(
            Answer("classes", classes), schema, project.template
        )
        done = requests.patch(
            f"{server.url}/api/annotations/{label.annotation_id}/",
            json={"result": result},
            headers={"Authorization": f"Token {server.token}"},
            timeout=60,
        )
        assert done.status_code == 200, done.text
        return label.annotation_id, classes


@pytest.mark.guarantee(11)
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("point", "databases"),
    [
        # Nothing can be recorded then, not even that it failed.
        ("snapshot written", "on the full disk"),
        ("half of the tasks pushed", "on the full disk"),
        ("mid-epoch of stage 1", "elsewhere"),
    ],
)
def test_a_full_disk_stops_a_round_and_loses_nothing(
    label_studio: LabelStudioServer,
    disk: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    point: str,
    databases: str,
) -> None:
    """The version before serves meanwhile; with room again the round ends by itself, once.

    Seen failing (the round stood still for good) with `Rescue._go_on` doing nothing, and with the
    turn of a thread not given back where the lease cannot be (`Keeper._leave`).
    """
    extra = {}
    if databases == "elsewhere":
        request.getfixturevalue("postgres")
        url = _postgres_url()
        extra = {"PIXBAL_DATABASE_URL": url, "PIXBAL_WORKFLOW_DATABASE_URL": url}
    # The pause is longer than the disk stays full: a try that fails again is another test's.
    tiny = TinyProject(tmp_path / "tiny", label_studio, PIXBAL_RETRY_S="20", **extra)
    stack, project_id, caller = tiny.stack, tiny.project_id, Caller(tiny)
    try:
        tiny.annotate()
        stack.wait_for_round(project_id, 1)
        tiny.points.arm(point)
        tiny.annotate()
        tiny.wait_at(point)
        ballast = fill(disk)
        tiny.points.go(point)
        stack.wait_for("the reason in the log", lambda: DISK_FULL in stack.worker.log_tail(500))
        caller.predicts(f"p{project_id}-r1")
        changed, classes = caller.changes_an_answer()
        if databases == "elsewhere":
            row = stack.wait_for_round(project_id, 2, states=("failed",))
            assert row.error is not None
            assert row.error.endswith(DISK_FULL)
            assert row.retry_in_s == 20.0
        caller.predicts(f"p{project_id}-r1")
        assert stack.worker.running
        assert stack.backend.running
        ballast.unlink()

        def ended() -> bool:
            row = stack.store.round(project_id, 2)
            return row is not None and row.state == "done"

        stack.wait_for("the end of the round", ended)

        def corrected() -> bool:
            labels = stack.store.labels(project_id)
            return {label.annotation_id: label.classes for label in labels}[changed] == classes

        stack.wait_for("the changed answer", corrected, 60)
        tiny.check(2)
        caller.predicts(f"p{project_id}-r2")
    finally:
        stack.stop()
