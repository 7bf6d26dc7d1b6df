"""A worker whose rounds end when its look ends, over a real store and a fake Label Studio.

No thread, no sleep: clocks are handed in, the trainer is the real one on pictures of 40 x 56 px.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from backend_helpers import make_image, make_project, make_schema, make_settings
from fake_label_studio import FakeLabelStudio
from inline_engine import InlineEngine
from training_helpers import grid, tiny_config, write_pool

from label_config import Answer, answer_result
from ml_backend.errors import LeaseLost
from ml_backend.leases import Keeper
from ml_backend.player import Player
from ml_backend.runtime import Runtime
from ml_backend.store import Project, Query, Round, Store
from ml_backend.worker import Worker
from training.config import ModelConfig

SCHEMA = make_schema("Grass", "Brick")
# A round in half a second: the smallest encoder that timm has, with random weights.
MODEL = ModelConfig(
    encoder="test_efficientnet", weights="none", short_side=32, head_channels=8,
    low_level_channels=4,
)  # fmt: skip


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class InlineSite:
    """A worker over the projects 4 and 5; `seconds_later` is its only time."""

    worker: Worker
    ls: FakeLabelStudio
    clock: Clock

    @property
    def store(self) -> Store:
        return self.worker.runtime.store

    @property
    def engine(self) -> InlineEngine:
        assert isinstance(self.worker.engine, InlineEngine)
        return self.worker.engine

    def look(self, times: int = 1, *, seconds_later: float = 61.0) -> None:
        """What the worker does with each look; by then every pause but a doubled one is over."""
        for _ in range(times):
            self.clock.seconds += seconds_later
            self.worker.rescue.look()
            self.worker.tick()

    def project(self, project_id: int = 4) -> Project:
        found = self.store.project(project_id)
        assert found is not None
        return found

    def round(self, number: int, project_id: int = 4) -> Round:
        found = self.store.round(project_id, number)
        assert found is not None
        return found

    def open(self, project_id: int = 4) -> list[Query]:
        return self.store.queries(project_id, status="open")

    def answer(self, query: Query, *names: str, skip: bool = False, **more: Any) -> dict[str, Any]:
        """An annotator answers, and the webhook arrives; without names "Can't tell"."""
        assert query.task_id is not None
        said = Answer("classes", names) if names else Answer("unsure")
        result = [] if skip else answer_result(said, SCHEMA, "region_multiclass")
        before = len(self.ls.server.said)
        made = self.ls.server.annotate(query.task_id, result, skip=skip, **more)
        for action, payload in self.ls.server.said[before:]:
            body = {**payload, "action": action, "project": {"id": query.project_id}}
            self.store.record_event(query.project_id, action, body)
        return made

    def answer_all(self, project_id: int = 4) -> None:
        """Every open question gets an answer; classes alternate."""
        for number, query in enumerate(self.open(project_id)):
            self.answer(query, SCHEMA.names[number % 2])

    def play_round(self, project_id: int = 4) -> Round:
        """Questions, answers, a round that is done."""
        before = len(self.store.rounds(project_id))
        while not self.open(project_id):
            self.look()
        self.answer_all(project_id)
        self.look()
        row = self.round(before + 1, project_id)
        assert row.state == "done", row.error
        return row


def lost(error: LeaseLost) -> NoReturn:
    """In place of the end of the process."""
    raise error


@contextmanager
def open_inline_site(folder: Path, **fields: Any) -> Iterator[InlineSite]:
    """Two projects of four pictures of 35 regions each; `fields` of both rows."""
    settings = make_settings(folder / "home", PIXBAL_DEVICE="cpu")
    ls = FakeLabelStudio()
    clock = Clock()
    with Store.open(settings.database_url) as store:
        for project_id in (4, 5):
            values = {"budget_clicks": 4, "method": "grid", "side_px": 8, **fields}
            values.setdefault("train_config", tiny_config(model=MODEL).to_json())
            project = make_project(project_id, SCHEMA, **values)
            store.add_project(project)
            ls.server.add_project(project_id, project.label_config, sampling="Uncertainty sampling")
            store.add_images(pool_images(project_id, folder / f"p{project_id}"))
        yield InlineSite(open_worker(Runtime(settings, store, ls), clock, "one"), ls, clock)


def open_worker(runtime: Runtime, clock: Clock, worker_id: str) -> Worker:
    """A worker; several may work on one store."""
    settings = replace(runtime.settings, worker_id=worker_id)
    runtime = Runtime(settings, runtime.store, runtime.ls)
    keeper = Keeper(runtime.store, worker_id, settings.lease_s, clock)
    keeper.start()
    engine = InlineEngine(Player(runtime, keeper, lost))
    return Worker(runtime, keeper, engine, clock)


def pool_images(project_id: int, folder: Path) -> list[Any]:
    """Rows of four pictures with their region maps."""
    map_ = grid(40, 56)
    return [
        make_image(
            project_id, f"{number}{name}", source=str(image), path=str(image), width=56, height=40,
            regions_path=str(regions), regions_hash=map_.hash, region_count=map_.count,
        )
        for number, (name, image, regions, _) in enumerate(write_pool(folder, 4))
    ]  # fmt: skip


@pytest.fixture
def inline_site(tmp_path: Path) -> Iterator[InlineSite]:
    """A worker over the projects 4 and 5."""
    with open_inline_site(tmp_path) as site:
        yield site
