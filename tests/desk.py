"""A worker, its engine and the trainer as they are, beside a fake Label Studio."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend_helpers import basic_auth, make_image, make_project, make_schema, make_settings
from fake_label_studio import FakeLabelStudio
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
class Site:
    """A worker over two projects, 4 and 5."""

    worker: Worker
    ls: FakeLabelStudio

    @property
    def store(self) -> Store:
        return self.worker.runtime.store

    def answer_all(self, project_id: int) -> None:
        """Every task without an answer gets one; classes alternate."""
        for task in self.ls.tasks(project_id):
            if not task["annotations"]:
                names = (SCHEMA.names[task["id"] % 2],)
                result = answer_result(Answer("classes", names), SCHEMA, "region_multiclass")
                self.ls.server.annotate(task["id"], result)

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
        self.answer_all(project_id)

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
        assert self.ls.project(project_id)["model_version"] == name
        settings = self.worker.runtime.settings
        assert project.current_version == name
        client = create_app(Services(settings, self.store)).test_client()
        assert client.get("/health", headers=basic_auth()).status_code == 200
        body = {
            "tasks": [{"id": list(self.ls.tasks(project_id))[-1]["id"]}],
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
    ls = FakeLabelStudio()
    with Store.open(settings.database_url) as store:
        for project_id in (4, 5):
            config = tiny_config().to_json()
            project = make_project(
                project_id, SCHEMA, budget_clicks=4, train_config=config, method="grid"
            )
            store.add_project(project)
            ls.server.add_project(project_id, project.label_config, sampling="Uncertainty sampling")
            store.add_images(pool_images(project_id, tmp_path / f"p{project_id}"))
        runtime = Runtime(settings, store, ls)
        keeper = Keeper(store, settings.worker_id, settings.lease_s)
        engine = DurableEngine(Player(runtime, keeper))
        worker = Worker(runtime, keeper, engine)
        keeper.start()
        engine.launch(settings)
        try:
            yield Site(worker, ls)
        finally:
            engine.shut_down()


def pool_images(project_id: int, folder: Path) -> list[Any]:
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
