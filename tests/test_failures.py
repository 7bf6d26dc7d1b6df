"""Training that cannot go well: failed with a reason, the version before serves, the queue moves.

The worker, its durable engine, the trainer and the web application are real; Label Studio is a list
of tasks. What fails is injected where the fault would arise.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_helpers import basic_auth, make_image, make_project, make_schema, make_settings
from training_helpers import grid, tiny_config, write_pool

from label_config import Answer, answer_result
from ml_backend import workflow
from ml_backend.app import create_app
from ml_backend.errors import LabelStudioError
from ml_backend.failures import TRIES, pause_before_retry, reason_of
from ml_backend.runtime import Runtime
from ml_backend.services import Services
from ml_backend.store import Round, Store
from ml_backend.worker import Worker
from training import rounds
from training.errors import ConfigError, NonFiniteError, OutOfMemory
from training.versions import Version

SCHEMA = make_schema("Grass", "Brick")


@dataclass
class Desk:
    """Label Studio as lists: tasks come in, are answered, and are walked over."""

    projects: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    settings: dict[int, dict[str, Any]] = field(default_factory=dict)
    last_id: int = 0

    def import_tasks(self, project_id: int, payloads: Sequence[dict[str, Any]]) -> list[int]:
        rows = self.projects.setdefault(project_id, [])
        made = []
        for payload in payloads:
            self.last_id += 1
            rows.append({"id": self.last_id, "data": payload["data"], "annotations": []})
            made.append(self.last_id)
        return made

    def tasks(self, project_id: int, *, with_annotations: bool) -> Iterator[dict[str, Any]]:
        yield from list(self.projects.get(project_id, []))

    def tasks_with_prediction(self, *_: object) -> set[int]:
        return set()

    def import_predictions(self, *_: object) -> int:
        return 0

    def update_project(self, project_id: int, **fields: Any) -> None:
        self.settings.setdefault(project_id, {}).update(fields)

    def answer_all(self, project_id: int) -> None:
        """Every task without an answer gets one; classes alternate."""
        for task in self.projects.get(project_id, []):
            if not task["annotations"]:
                self.last_id += 1
                names = (SCHEMA.names[self.last_id % 2],)
                task["annotations"].append(
                    {
                        "id": self.last_id,
                        "task": task["id"],
                        "result": answer_result(
                            Answer("classes", names), SCHEMA, "region_multiclass"
                        ),
                        "updated_at": datetime.now(UTC).isoformat(),
                        "was_cancelled": False,
                    }
                )


@dataclass
class Site:
    """A worker over two projects, 4 and 5."""

    worker: Worker
    desk: Desk

    @property
    def store(self) -> Store:
        return self.worker.runtime.store

    def until(self, what: str, true: Callable[[], object]) -> None:
        """Let the worker look until something holds."""
        deadline = time.monotonic() + 240
        while not true():
            assert time.monotonic() < deadline, f"{what}: {self.store.rounds(4)}"
            self.worker._decided = -1000.0
            self.worker.tick()
            time.sleep(0.05)

    def train(self, number: int, project_id: int = 4, state: str = "done") -> Round:
        """Answer what is open and wait until the round that follows has ended."""
        self.until("questions", lambda: self.store.queries(project_id, status="open"))
        self.desk.answer_all(project_id)

        def ended() -> bool:
            row = self.store.round(project_id, number)
            return row is not None and row.state == state and row.retry_in_s is None

        self.until(f"round {number} {state}", ended)
        row = self.store.round(project_id, number)
        assert row is not None
        return row

    def assert_serves(self, name: str, project_id: int = 4) -> None:
        """The version is whole and current, and the web application is well."""
        row = self.store.version(project_id, name)
        assert row is not None
        assert Version.load(Path(row.path)).name == name
        project = self.store.project(project_id)
        assert project is not None
        assert project.model_version == name
        assert self.desk.settings[project_id]["model_version"] == name
        settings = self.worker.runtime.settings
        client = create_app(Services(settings, self.store)).test_client()
        assert client.get("/health", headers=basic_auth()).status_code == 200
        body = {
            "tasks": [{"id": self.desk.projects[project_id][-1]["id"]}],
            "project": f"{project_id}.1",
            "label_config": project.label_config,
        }
        answer = client.post("/predict", json=body, headers=basic_auth())
        assert answer.status_code == 200
        assert answer.get_json()["results"][0]["model_version"] == name


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = make_settings(
        tmp_path / "home", PIXBAL_RETRY_S="0.2", PIXBAL_RECONCILE_S="0.2", PIXBAL_DEVICE="cpu"
    )
    with Store.open(settings.database_url) as store:
        for project_id in (4, 5):
            config = tiny_config().to_json()
            store.add_project(
                make_project(project_id, SCHEMA, budget_clicks=4, train_config=config,
                             method="grid")
            )  # fmt: skip
            store.add_images(_images(project_id, tmp_path / f"p{project_id}"))
        desk = Desk()
        worker = Worker(Runtime(settings, store, desk))  # type: ignore[arg-type]
        worker.keeper.start()
        workflow.configure(worker.runtime, worker.keeper)
        workflow.launch(settings)
        try:
            yield Site(worker, desk)
        finally:
            workflow.shut_down()


def _images(project_id: int, folder: Path) -> list[Any]:
    found = []
    for number, (name, image, regions, _) in enumerate(write_pool(folder, 4)):
        map_ = grid(40, 56)
        found.append(
            make_image(
                project_id, f"{number}{name}", source=str(image), path=str(image), width=56,
                height=40, regions_path=str(regions), regions_hash=map_.hash,
                region_count=map_.count,
            )
        )  # fmt: skip
    return found


# What fails


def nan_loss(site: Site, patch: pytest.MonkeyPatch) -> str:
    real = rounds.stage1_loss
    patch.setattr(rounds, "stage1_loss", lambda *a, **k: real(*a, **k) * float("nan"))
    return r"The loss of stage1 became nan at step 1\. Lower stage1\.lr"


def no_gpu_memory(site: Site, patch: pytest.MonkeyPatch) -> str:
    def loss(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    patch.setattr(rounds, "stage2_loss", loss)
    return r"too small for 2 images of a batch.*1\.00 GiB.*lower augment\.crop"


def no_memory(site: Site, patch: pytest.MonkeyPatch) -> str:
    def loss(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    patch.setattr(rounds, "stage1_loss", loss)
    return r"RuntimeError: DefaultCPUAllocator.*Free memory, or lower model\.short_side"


def broken_image(site: Site, patch: pytest.MonkeyPatch) -> str:
    for image in site.store.images(4):
        path = Path(image.path)
        data = path.read_bytes()
        path.unlink()  # the snapshots of earlier rounds keep theirs
        path.write_bytes(data[: len(data) // 2])
    # Its features were kept under the hash of the whole file, so they do not help.
    return r"\.png cannot be decoded.*The file may be truncated or damaged: fetch"


@pytest.mark.slow
@pytest.mark.guarantee(11)
@pytest.mark.parametrize(
    ("fault", "tries"),
    [(nan_loss, 1), (no_gpu_memory, TRIES), (no_memory, TRIES), (broken_image, 1)],
)
def test_a_round_that_fails_has_a_reason_and_harms_nothing_else(
    site: Site,
    fault: Callable[[Site, pytest.MonkeyPatch], str],
    tries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The version before serves; not yet seen failing on purpose."""
    assert site.train(1).version == "r1"
    with monkeypatch.context() as patch:
        reason = fault(site, patch)
        failed = site.train(2, state="failed")
        assert failed.error is not None
        assert re.search(reason, failed.error), failed.error
        assert (failed.attempts, failed.version) == (tries, None)
        assert failed.finished_at is not None
        site.assert_serves("r1")
        assert [v.name for v in site.store.versions(4)] == ["r1"]
    assert site.train(1, project_id=5).version == "r1"


@pytest.mark.slow
@pytest.mark.guarantee(9)
def test_a_round_that_always_fails_ends_and_lets_others_pass(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its tries the round of another project is trained; on request it is tried again.

    Not yet seen failing on purpose.
    """
    real, order = rounds.run_round, []

    def run_round(snapshot: Path, config: Any, out: Path, **options: Any) -> Version:
        order.append(out.parent.name)
        if out.parent.name == "p4" and not repaired:
            raise ZeroDivisionError("division by zero")
        return real(snapshot, config, out, **options)

    repaired: list[bool] = []
    monkeypatch.setattr(rounds, "run_round", run_round)
    for project_id in (4, 5):
        site.until("questions", lambda p=project_id: site.store.queries(p, status="open"))
        site.desk.answer_all(project_id)
    failed = site.train(1, state="failed")
    assert (failed.error, failed.attempts) == ("ZeroDivisionError: division by zero", TRIES)
    assert site.train(1, project_id=5).version == "r1"
    assert order.count("p4") == TRIES
    assert order.index("p5") < len(order) - 1 - order[::-1].index("p4")
    for _ in range(5):
        site.worker._decided = -1000.0
        site.worker.tick()  # nothing starts it again by itself
    row = site.store.round(4, 1)
    assert row is not None
    assert row.attempts == TRIES
    repaired.append(True)
    site.store.record_event(4, "TRAIN_REQUESTED", {"action": "TRAIN_REQUESTED"})
    site.until("the round", lambda: (site.store.round(4, 1) or row).state == "done")
    again = site.store.round(4, 1)
    assert again is not None
    assert (again.attempts, again.error, again.version) == (TRIES + 1, None, "r1")


# The rules


@pytest.mark.guarantee(9)
@pytest.mark.parametrize(
    ("error", "pauses"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), [1.0, 2.0, None]),
        (OutOfMemory("too small"), [1.0, 2.0, None]),
        (NonFiniteError("nan"), [None, None, None]),
        (ConfigError("no such device"), [None, None, None]),
        (LabelStudioError("refused"), [1.0, 2.0, 4.0]),
    ],
)
def test_pauses(error: Exception, pauses: list[float | None]) -> None:
    assert [pause_before_retry(error, attempt, 1.0) for attempt in (1, 2, 3)] == pauses


def test_label_studio_is_waited_for_with_a_longest_pause() -> None:
    assert pause_before_retry(LabelStudioError("away"), 1000, 30.0) == 600.0


def test_the_reason_of_many_tries_is_the_last() -> None:
    class Tried(Exception):
        errors = (LabelStudioError("away"), LabelStudioError("gone", "Start it."))

    tried = Tried("Step push has exceeded its maximum of 8 retries")
    tried.errors = list(Tried.errors)  # type: ignore[misc]
    assert reason_of(tried) == "gone Start it."
    full = reason_of(OSError(errno.ENOSPC, "No space left on device"))
    assert full.startswith("OSError: [Errno 28] No space left on device The disk is full")
