"""The worker's decisions on real processes: requests coalesce, failed rounds wait and recover."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from stack import Stack, link_camvid

from ml_backend.errors import Conflict
from ml_backend.processes import LabelStudioServer, WorkerProcess
from ml_backend.worker import main as run_worker

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def stack(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "stack", label_studio)
    made.backend.start()
    yield made
    made.stop()


def start_training(stack: Stack, project_id: int) -> None:
    """What Label Studio's button "Start training" sends."""
    settings = stack.settings
    pair = f"{settings.basic_user}:{settings.basic_password}".encode()
    answer = requests.post(
        f"{settings.backend_url}/webhook",
        json={"action": "START_TRAINING", "project": {"id": project_id}},
        headers={"Authorization": "Basic " + base64.b64encode(pair).decode()},
        timeout=10,
    )
    assert answer.status_code < 300, answer.text


def test_requests_during_a_round_make_no_second_one(
    stack: Stack, camvid: Path, tmp_path: Path
) -> None:
    """Forty requests while a round runs: all are handled, and nothing is trained twice."""
    listing, _, masks = link_camvid(camvid, tmp_path, pool=4, heldout=2)
    project_id = stack.init(listing, None, "coalescing", budget=6).project.id
    count = len(stack.store.queries(project_id))
    stack.annotator(project_id, masks).annotate_all(limit=count)
    stack.worker.start()
    stack.wait_for_round(project_id, 1, states=("stage1", "pseudo_labels", "stage2"))
    for _ in range(40):
        start_training(stack, project_id)
    stack.wait_for_round(project_id, 1)
    stack.wait_for("handled requests", lambda: not stack.store.pending_events(), timeout_s=30)
    assert [r.number for r in stack.store.rounds(project_id)] == [1]
    assert "No label is new" in stack.worker.log.read_text()


def test_trains_after_a_count_of_labels(stack: Stack, camvid: Path, tmp_path: Path) -> None:
    listing, _, masks = link_camvid(camvid, tmp_path, pool=4, heldout=2)
    report = stack.init(listing, None, "count of labels", budget=12, train_every=3)
    project_id = report.project.id
    stack.worker.start()
    stack.annotator(project_id, masks).annotate_all(limit=3)
    row = stack.wait_for_round(project_id, 1)
    assert row.labels == 3
    assert stack.store.queries(project_id, status="open")


def test_a_failed_round_keeps_its_reason_and_is_tried_again_on_request(
    stack: Stack, camvid: Path, tmp_path: Path
) -> None:
    """No GPU here: the round fails with what to do, waits, and recovers with the right setting."""
    listing, _, masks = link_camvid(camvid, tmp_path, pool=4, heldout=2)
    project_id = stack.init(listing, None, "failing", budget=6).project.id
    count = len(stack.store.queries(project_id))
    stack.annotator(project_id, masks).annotate_all(limit=count)
    broken = WorkerProcess(
        env={**stack.environment, "PIXBAL_DEVICE": "cuda:7"}, log=tmp_path / "broken.log"
    )
    with broken:
        row = stack.wait_for_round(project_id, 1, states=("failed",))
        assert row.error
        assert "cuda" in row.error
    stack.worker.start()
    start_training(stack, project_id)

    def tried_again() -> bool:
        row = stack.store.round(project_id, 1)
        return row is not None and row.attempts == 2

    stack.wait_for("a second try", tried_again, timeout_s=60)
    done = stack.wait_for_round(project_id, 1)
    assert (done.attempts, done.error, done.labels) == (2, None, count)
    assert [r.number for r in stack.store.rounds(project_id)] == [1]


def test_one_worker_per_home(stack: Stack) -> None:
    stack.worker.start()
    with pytest.raises(Conflict, match="already running"):
        run_worker(stack.settings)
