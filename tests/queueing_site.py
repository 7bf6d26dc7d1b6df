"""A worker over projects 4 and 5 whose rounds have ended when a look returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backend_helpers import make_project, make_settings
from desk import SCHEMA, Site, pool_images
from fake_label_studio import FakeLabelStudio
from inline_engine import InlineEngine
from training_helpers import tiny_config

from ml_backend.engine import EngineState
from ml_backend.leases import Keeper
from ml_backend.player import Player
from ml_backend.runtime import Runtime
from ml_backend.store import Round, Store
from ml_backend.worker import Worker


@dataclass
class QueueingEngine(InlineEngine):
    """Plays a round after the look that started it: the worker holds its lease until then."""

    queue: list[Round] = field(default_factory=list)

    def start(self, row: Round) -> None:
        if row.workflow_id not in self.states:
            self.states[row.workflow_id] = EngineState("queued")
            self.queue.append(row)

    def play_queued(self) -> None:
        while self.queue:
            row = self.queue.pop(0)
            self._unfinished[row.workflow_id] = row
            self._play(row)


class InlineSite(Site):
    """Rounds have ended when `look` returns."""

    @property
    def engine(self) -> QueueingEngine:
        assert isinstance(self.worker.engine, QueueingEngine)
        return self.worker.engine

    def look(self) -> None:
        super().look()
        self.engine.play_queued()
        self.worker._reconcile_at.clear()


def open_inline_site(tmp_path: Path) -> Iterator[InlineSite]:
    """As `desk.open_site`, with the inline engine."""
    settings = make_settings(
        tmp_path / "home", PIXBAL_RETRY_S="0.01", PIXBAL_RECONCILE_S="0.01", PIXBAL_DEVICE="cpu"
    )
    ls = FakeLabelStudio()
    with Store.open(settings.database_url) as store:
        for project_id in (4, 5):
            project = make_project(
                project_id, SCHEMA, budget_clicks=4, train_config=tiny_config().to_json(),
                method="grid", title=f"street {project_id}",
            )  # fmt: skip
            store.add_project(project)
            ls.server.add_project(project_id, project.label_config, sampling="Uncertainty sampling")
            store.add_images(pool_images(project_id, settings.home / "images" / f"p{project_id}"))
        runtime = Runtime(settings, store, ls)
        keeper = Keeper(store, settings.worker_id, settings.lease_s)
        worker = Worker(runtime, keeper, QueueingEngine(Player(runtime, keeper)))
        keeper.start()
        yield InlineSite(worker, ls)
        keeper.stop()
