"""A worker whose rounds end at once: inline engine, fake Label Studio, a stub of a trainer.

Its models see what a test says they see; everything else is the real thing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_helpers import make_image, make_project, make_schema, make_settings
from fake_label_studio import FakeLabelStudio
from fake_label_studio_server import OWNER, FakeServer
from inline_engine import InlineEngine
from training_helpers import grid, tiny_config, write_pool

from label_config import Answer, answer_result
from ml_backend import round_steps
from ml_backend.leases import Keeper
from ml_backend.payloads import stored_payload
from ml_backend.player import Player
from ml_backend.predictions import NO_MODEL
from ml_backend.runtime import Runtime, version_name
from ml_backend.store import Project, Query, Store
from ml_backend.worker import Worker
from training.files import file_sha256, sealed, write_json
from training.pool_scores import ImageScores, PoolScores
from training.snapshot import Snapshot

SCHEMA = make_schema("Grass", "Brick")
PROJECT = 4
IMAGES = 4
Sees = Callable[[str, str, int], tuple[str, ...]]  # version, image, region -> classes


def sees_grass(version: str, image_id: str, region: int) -> tuple[str, ...]:
    return ("Grass",)


@dataclass
class Site:
    """Project 4: four images of 35 regions, five clicks a batch."""

    worker: Worker
    ls: FakeLabelStudio
    sees: Sees = sees_grass
    heldout: dict[str, dict[str, str]] = field(default_factory=dict)  # by version
    seed: int = 0
    _delivered: int = 0

    @property
    def server(self) -> FakeServer:
        return self.ls.server

    @property
    def runtime(self) -> Runtime:
        return self.worker.runtime

    @property
    def store(self) -> Store:
        return self.runtime.store

    @property
    def project(self) -> Project:
        return self.runtime.project(PROJECT)

    def look(self, times: int = 1) -> None:
        """The webhooks of what people did, then what the worker does once a second."""
        for _ in range(times):
            for action, body in self.server.said[self._delivered :]:
                payload = stored_payload(action, PROJECT, body)
                self.store.record_event(PROJECT, action, payload)
            self._delivered = len(self.server.said)
            self.worker._decided = self.worker.rescue._looked_at = -math.inf
            self.worker.rescue.look()
            self.worker.tick()

    def open(self) -> list[Query]:
        return self.store.queries(PROJECT, status="open")

    def answer(
        self, query: Query, *names: str, kind: Any = "classes", seconds: float = 5.0,
        user: int = OWNER,
    ) -> int:  # fmt: skip
        """Answer a question in the browser; the annotation's id."""
        assert query.task_id is not None
        made = Answer(kind, names) if kind == "classes" else Answer(kind)
        result = answer_result(made, SCHEMA, self.project.template)
        annotation = self.server.annotate(query.task_id, result, lead_time=seconds, user=user)
        return int(annotation["id"])

    def answer_all(self, *names: str) -> list[Query]:
        """Answer whatever is open, the same everywhere; those questions."""
        questions = self.open()
        for query in questions:
            self.answer(query, *(names or ("Grass",)))
        return questions

    def round(self, *names: str) -> str:
        """Answer the batch; the round that follows, and its version."""
        self.answer_all(*names)
        self.look()
        row = self.store.rounds(PROJECT)[-1]
        assert row.state == "done", row.error
        assert row.version is not None
        self.look()
        return row.version

    def shown(self, query: Query) -> tuple[str, list[str]]:
        """(version, ticks) of the prediction that Label Studio shows with a question."""
        project = self.server.project(PROJECT)
        version = str(project.fields["model_version"])
        task = project.tasks[query.task_id or 0]
        [found] = [p for p in task.predictions if p["model_version"] == version]
        ticks = [c for item in found["result"] for c in item["value"]["choices"]]
        return version, [SCHEMA.names[int(alias)] for alias in ticks]

    # What stands in for training

    def train(self, project_id: int, number: int, snapshot: str) -> str:
        assert Snapshot.load(Path(snapshot)).label_count > 0
        name = version_name(project_id, number)
        folder = self.runtime.version_dir(project_id, number)
        if not folder.exists():
            write_version(folder, name, self.heldout.get(name, {}))
        return str(folder)

    def score(self, runtime: Runtime, project: Project) -> Path:
        name = round_steps.name_in_use(project)
        row = runtime.store.version(project.id, name)
        draw = np.random.default_rng([self.seed, 0 if row is None else row.round])
        found = {}
        for image in runtime.store.images(project.id, split="pool", status="ready"):
            presence = np.zeros((image.region_count, 0 if name == NO_MODEL else 3), np.float16)
            for region in range(image.region_count if name != NO_MODEL else 0):
                for seen in self.sees(name, image.image_id, region):
                    presence[region, SCHEMA.index(seen)] = 1.0
            clicks = np.ones(image.region_count, np.float32)
            found[image.image_id] = ImageScores(draw.random(image.region_count), clicks, presence)
        out = runtime.scores_path(project.id, name)
        out.parent.mkdir(parents=True, exist_ok=True)
        PoolScores(found, None if row is None else name, "pixbal").save(out)
        return out


def write_version(folder: Path, name: str, heldout: dict[str, str]) -> None:
    """A version folder that loads; its weights are no weights."""
    folder.mkdir(parents=True)
    files = ("stage1.safetensors", "model.safetensors")
    for file in files:
        (folder / file).write_bytes(f"{name} {file}".encode())
    content = {
        "format": 1, "name": name, "classes": list(SCHEMA.names), "undefined": True,
        "config": tiny_config().to_json(), "weights_hash": name, "snapshot_hash": "",
        "metrics": {"miou": None, "stage2": {"per_class": {n: None for n in SCHEMA.names}},
                    "heldout": heldout},
        "sha256": {file: file_sha256(folder / file) for file in files},
    }  # fmt: skip
    write_json(folder / "version.json", sealed(content))


class QuickPlayer(Player):
    """Trains nothing."""

    site: Site

    def train(self, project_id: int, number: int, snapshot: str) -> str:
        return self.site.train(project_id, number, snapshot)


@contextlib.contextmanager
def round_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **project: Any) -> Iterator[Site]:
    """The site; fields of the project may be given."""
    settings = make_settings(tmp_path / "home", PIXBAL_RECONCILE_S="3600", PIXBAL_DEVICE="cpu")
    settings.home.mkdir(parents=True)
    with Store.open(settings.database_url) as store:
        fields: dict[str, Any] = {"budget_clicks": 4.0, "preticks": "auto", **project}
        row = make_project(PROJECT, SCHEMA, train_config=tiny_config().to_json(), **fields)
        store.add_project(row)
        map_ = grid(40, 56)
        store.add_images([
            make_image(
                PROJECT, f"{number}{name}", source=str(image), path=str(image), width=56, height=40,
                regions_path=str(regions), regions_hash=map_.hash, region_count=map_.count,
            )
            for number, (name, image, regions, _) in enumerate(
                write_pool(tmp_path / "pool", IMAGES)
            )
        ])  # fmt: skip
        ls = FakeLabelStudio()
        ls.server.add_project(PROJECT, row.label_config, sampling="Uncertainty sampling")
        runtime = Runtime(settings, store, ls)
        keeper = Keeper(store, "one", 30.0)
        player = QuickPlayer(runtime, keeper)
        site = Site(Worker(runtime, keeper, InlineEngine(player)), ls)
        object.__setattr__(player, "site", site)  # frozen
        monkeypatch.setattr(round_steps, "score_current", site.score)
        site.look()
        yield site
