"""Whole rounds in a real Label Studio on real images; real processes, really killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from stack import Stack, link_camvid

from ml_backend.errors import Conflict, NotFound
from ml_backend.export import export_version
from ml_backend.processes import LabelStudioServer
from training.images import read_mask
from training.predict import VOID
from training.regions import RegionId
from training.versions import Version

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def stack(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("stack"), label_studio)
    made.backend.start()
    made.worker.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def images(
    camvid: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, Path]]:
    return link_camvid(camvid, tmp_path_factory.mktemp("images"), pool=6, heldout=3)


def next_scores(stack: Stack, project_id: int, count: int) -> list[float]:
    """Scores of the tasks that Label Studio hands out next, answered one by one with "unsure"."""
    headers = {"Authorization": f"Token {stack.label_studio.token}"}
    found = []
    for _ in range(count):
        answer = requests.get(
            f"{stack.label_studio.url}/api/projects/{project_id}/next", headers=headers, timeout=30
        )
        answer.raise_for_status()
        task = answer.json()
        query = stack.store.query_by_task(project_id, task["id"])
        assert query is not None
        found.append(query.score)
        submitted = requests.post(
            f"{stack.label_studio.url}/api/tasks/{task['id']}/annotations/",
            headers=headers,
            json={
                "result": [
                    {
                        "from_name": "classes",
                        "to_name": "region",
                        "type": "choices",
                        "value": {"choices": ["unsure"]},
                    }
                ],
                "was_cancelled": False,
            },
            timeout=30,
        )
        submitted.raise_for_status()
    return found


def assert_each_region_once(stack: Stack, project_id: int) -> None:
    """No region has two tasks, and every task in Label Studio is in the ledger."""
    tasks = list(stack.ls.tasks(project_id, with_annotations=True))
    regions = [task["data"]["region"] for task in tasks]
    assert len(regions) == len(set(regions))
    ledger = {
        q.task_id: str(RegionId(q.image_id, q.region_index))
        for q in stack.store.queries(project_id)
    }
    assert {task["id"]: task["data"]["region"] for task in tasks} == ledger


def test_two_rounds(stack: Stack, images: tuple[Path, Path, dict[str, Path]]) -> None:
    listing, heldout, masks = images
    report = stack.init(listing, heldout, "two rounds", budget=14)
    project_id = report.project.id
    assert report.created
    assert report.images.added == 9
    assert report.pushed > 0
    first = stack.store.queries(project_id)
    assert all(q.round == 1 and q.status == "open" and q.preticks == () for q in first)
    assert stack.ls.project(project_id)["model_version"] == "r0"

    # Again: nothing changes, neither here nor there.
    again = stack.init(listing, heldout, "two rounds", budget=14)
    assert not again.created
    assert (again.images.added, again.pushed) == (0, 0)
    assert all(how == "unchanged" for _, how in again.connected)
    assert stack.store.queries(project_id) == first

    annotator = stack.annotator(project_id, masks)
    assert annotator.annotate_all(limit=len(first)) == len(first)
    # /next handed them out best first.
    scores = {q.task_id: q.score for q in first}
    handed = [scores[task] for task in annotator.handed_out]
    assert handed == sorted(handed, reverse=True)

    done = stack.wait_for_round(project_id, 1)
    assert done.labels == len([q for q in stack.store.queries(project_id, round=1)])
    assert done.version == f"p{project_id}-r1"
    project = stack.ls.project(project_id)
    assert project["model_version"] == f"p{project_id}-r1"
    assert project["sampling"] == "Uncertainty sampling"
    version = stack.store.version(project_id, f"p{project_id}-r1")
    assert version is not None
    assert 0.0 <= version.metrics["miou"] <= 1.0
    second = stack.store.queries(project_id, round=2)
    assert second
    assert all(q.model_version == f"p{project_id}-r1" for q in second)
    assert any(q.preticks for q in second)
    assert_each_region_once(stack, project_id)

    # The second batch, too, comes in PixBal order.
    assert next_scores(stack, project_id, 4) == sorted((q.score for q in second), reverse=True)[:4]
    assert_exported(stack, project_id, stack.settings.home / "exported")
    clicks = sum(label.clicks for label in stack.store.effective_labels(project_id).values())
    assert stack.store.clicks(project_id) == clicks


def assert_exported(stack: Stack, project_id: int, out: Path) -> None:
    """The exported version loads, and each pool image has a mask of its size and known classes."""
    export_version(stack.store, project_id, None, out, masks=True)
    version = Version.load(out)
    assert version.name == f"p{project_id}-r1"
    images = stack.store.images(project_id, split="pool", status="ready")
    masks = [read_mask(path) for path in sorted((out / "masks").iterdir())]
    assert len(masks) == len(images)
    for mask in masks:
        assert mask.shape == (360, 480)
        assert set(np.unique(mask)) <= {*range(len(version.classes)), VOID}
    with pytest.raises(Conflict, match="not empty"):
        export_version(stack.store, project_id, None, out)
    with pytest.raises(NotFound, match="r9"):
        export_version(stack.store, project_id, "r9", out)


def test_questions_pushed_midway_are_handed_out_in_order(
    stack: Stack, images: tuple[Path, Path, dict[str, Path]]
) -> None:
    """Trained on half of a batch: open questions get new scores, and new ones join the order."""
    listing, _, masks = images
    project_id = stack.init(listing, None, "midway", budget=16).project.id
    annotator = stack.annotator(project_id, masks)
    half = len(stack.store.queries(project_id)) // 2
    annotator.annotate_all(limit=half)
    # The task that /next has handed out last stays locked to its annotator; nothing else may.
    answer = requests.post(
        f"{stack.label_studio.url}/api/ml/{_ml_backend(stack, project_id)}/train",
        headers={"Authorization": f"Token {stack.label_studio.token}"},
        timeout=30,
    )
    answer.raise_for_status()
    row = stack.wait_for_round(project_id, 1)
    assert row.trigger == "request"
    open_now = stack.store.queries(project_id, status="open")
    assert {q.round for q in open_now} == {1, 2}
    assert {q.model_version for q in open_now} == {f"p{project_id}-r1"}
    best = sorted((q.score for q in open_now), reverse=True)
    assert next_scores(stack, project_id, len(best) - 1) == best[:-1]
    assert_each_region_once(stack, project_id)


def _ml_backend(stack: Stack, project_id: int) -> int:
    answer = requests.get(
        f"{stack.label_studio.url}/api/ml",
        params={"project": project_id},
        headers={"Authorization": f"Token {stack.label_studio.token}"},
        timeout=30,
    )
    answer.raise_for_status()
    (backend,) = answer.json()
    return int(backend["id"])


@pytest.mark.guarantee(5)
def test_lost_webhooks_are_found(stack: Stack, images: tuple[Path, Path, dict[str, Path]]) -> None:
    """The backend is away while a batch is answered: reconciliation finds the labels, one round."""
    listing, _, masks = images
    project_id = stack.init(listing, None, "lost webhooks", budget=6).project.id
    count = len(stack.store.queries(project_id))
    stack.backend.stop()
    try:
        stack.annotator(project_id, masks).annotate_all(limit=count)
        row = stack.wait_for_round(project_id, 1)
    finally:
        stack.backend.start()
    assert row.labels == count
    assert [r.number for r in stack.store.rounds(project_id)] == [1]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_killed_worker_goes_on(
    stack: Stack, images: tuple[Path, Path, dict[str, Path]], stage: str
) -> None:
    listing, _, masks = images
    project_id = stack.init(listing, None, f"killed in {stage}", budget=6).project.id
    count = len(stack.store.queries(project_id))
    stack.annotator(project_id, masks).annotate_all(limit=count)
    stack.wait_for_round(project_id, 1, states=(stage,))
    stack.worker.kill()
    row = stack.store.round(project_id, 1)
    assert row is not None
    assert row.state == stage
    stack.worker.start()
    done = stack.wait_for_round(project_id, 1)
    assert done.labels == count
    assert [r.number for r in stack.store.rounds(project_id)] == [1]
    assert [v.name for v in stack.store.versions(project_id)] == [f"p{project_id}-r1"]
    assert_each_region_once(stack, project_id)


def test_killed_backend_and_label_studio_lose_nothing(
    stack: Stack, images: tuple[Path, Path, dict[str, Path]]
) -> None:
    """kill -9 of the backend and of Label Studio between answers; both start again; one round."""
    listing, _, masks = images
    project_id = stack.init(listing, None, "killed servers", budget=6).project.id
    count = len(stack.store.queries(project_id))
    annotator = stack.annotator(project_id, masks)
    annotator.annotate_all(limit=count // 2)
    stack.backend.kill()
    stack.label_studio.kill()
    stack.backend.start()
    stack.label_studio.start()
    annotator.annotate_all(limit=count)
    row = stack.wait_for_round(project_id, 1)
    assert row.labels == count
    assert_each_region_once(stack, project_id)


def test_pictures_served_by_label_studio(
    label_studio: LabelStudioServer,
    images: tuple[Path, Path, dict[str, Path]],
    tmp_path: Path,
) -> None:
    """PIXBAL_MEDIA=local-files: pictures lie below Label Studio's document root."""
    listing, _, _ = images
    media = {
        "PIXBAL_MEDIA": "local-files",
        "PIXBAL_LOCAL_FILES_ROOT": str(label_studio.files_root),
    }
    local = Stack(tmp_path / "local", label_studio, extra=media)
    local.backend.start()
    try:
        project_id = local.init(listing, None, "local files", budget=4).project.id
        (task, *_) = local.ls.tasks(project_id, with_annotations=False)
        for kind in ("crop", "locator"):
            assert task["data"][kind].startswith("/data/local-files/?d=pixbal/")
            data = local.ls.fetch(task["data"][kind])
            assert data[:2] == b"\xff\xd8"
        again = local.init(listing, None, "local files", budget=4)
        assert ("local files", "unchanged") in again.connected
    finally:
        local.stop()
