"""A worker, its engine and the trainer as they are; Label Studio is lists of tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend_helpers import basic_auth, make_image, make_project, make_schema, make_settings
from stack import WAIT_S
from training_helpers import grid, tiny_config, write_pool

from label_config import Answer, answer_result
from ml_backend.app import create_app
from ml_backend.leases import Keeper
from ml_backend.player import Player
from ml_backend.runtime import Runtime
from ml_backend.services import Services
from ml_backend.store import Round, Store
from ml_backend.worker import Worker
from ml_backend.workflow import DurableEngine
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

    def look(self) -> None:
        """What the worker does once a second, without its pauses."""
        self.worker._decided = self.worker.rescue._looked_at = -math.inf
        self.worker.rescue.look()
        self.worker.tick()

    def until(self, what: str, true: Callable[[], object]) -> None:
        """Let the worker look until something holds."""
        deadline = time.monotonic() + WAIT_S
        while not true():
            assert time.monotonic() < deadline, f"{what}: {self.store.rounds(4)}"
            self.look()
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
        assert project.current_version == name
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


def open_site(tmp_path: Path) -> Iterator[Site]:
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
        runtime = Runtime(settings, store, desk)  # type: ignore[arg-type]
        keeper = Keeper(store, settings.worker_id, settings.lease_s)
        engine = DurableEngine(Player(runtime, keeper))
        worker = Worker(runtime, keeper, engine)
        keeper.start()
        engine.launch(settings)
        try:
            yield Site(worker, desk)
        finally:
            engine.shut_down()


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
