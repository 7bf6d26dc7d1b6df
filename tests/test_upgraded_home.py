"""A home of release 0.1.0 goes on under this release: questions, rounds, roll-back, forgetting."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_helpers import make_settings
from fake_label_studio import FakeLabelStudio
from inline_engine import InlineEngine
from inline_site import Clock, InlineSite, lost
from old_home import unpack_home

from label_config import Answer, ClassSchema, answer_result
from ml_backend import asking
from ml_backend.forget import forget
from ml_backend.leases import Keeper
from ml_backend.player import Player
from ml_backend.runtime import Runtime
from ml_backend.store import Store
from ml_backend.version_use import activate
from ml_backend.worker import Worker

pytestmark = pytest.mark.slow


def as_it_was(store: Store) -> FakeLabelStudio:
    """Label Studio with the tasks, predictions and annotations that release 0.1.0 left there."""
    ls = FakeLabelStudio()
    for project in store.projects():
        schema = ClassSchema.from_json(project.schema_json)
        ls.server.add_project(
            project.id, project.label_config, sampling="Uncertainty sampling",
            model_version=project.model_version,
        )  # fmt: skip
        for query in store.queries(project.id):
            if query.task_id is None or query.status == "withdrawn":
                continue
            # No `asking`: that release knew one question about each region.
            data = {
                "crop": "x",
                "locator": "y",
                "image": "z",
                "region": f"{query.image_id}:{query.region_index}",
                "regions_hash": query.regions_hash,
            }
            prediction = {"result": [], "score": 0.5, "model_version": query.model_version}
            ls.server.add_task(project.id, query.task_id, data, [prediction])
        for label in store.labels(project.id):
            if label.task_id not in ls.server.projects[project.id].tasks:
                continue
            answer = Answer("empty" if label.kind == "skipped" else label.kind, label.classes)
            ls.server.annotate(
                label.task_id, answer_result(answer, schema, project.template),
                skip=label.kind == "skipped", annotation_id=label.annotation_id,
                updated_at=label.updated_at.isoformat(), lead_time=label.lead_time_s or 1.0,
            )  # fmt: skip
    ls.server.said.clear()
    return ls


@pytest.fixture
def site(tmp_path: Path) -> Iterator[InlineSite]:
    """A worker of this release over that home."""
    settings = make_settings(unpack_home(tmp_path / "home"), PIXBAL_DEVICE="cpu")
    with Store.open(settings.database_url) as store:
        ls = as_it_was(store)
        clock = Clock()
        runtime = Runtime(settings, store, ls)
        keeper = Keeper(store, settings.worker_id, settings.lease_s, clock)
        keeper.start()
        worker = Worker(runtime, keeper, InlineEngine(Player(runtime, keeper, lost)), clock)
        yield InlineSite(worker, ls, clock)


def test_an_upgrade_changes_nothing_by_itself(site: InlineSite) -> None:
    """No answer is new, no question is pushed or withdrawn, no round begins.

    One question of the home was answered with r0 in use, and its answer deleted afterwards. It
    would be handed out last, so it alone is scored anew.
    """
    store = site.store

    def kept(project_id: int) -> object:
        places = [(q.id, q.status, q.task_id, q.round) for q in store.queries(project_id)]
        return places, store.rounds(project_id)

    before = {p.id: kept(p.id) for p in store.projects()}
    stale = [q.task_id for q in store.queries(4, status="open") if q.model_version != "r2"]
    assert len(stale) == 1
    labels = {p.id: store.effective_labels(p.id) for p in store.projects()}
    site.look(10)
    for project in store.projects():
        assert project.trouble is None
        assert kept(project.id) == before[project.id]
        open_now = store.queries(project.id, status="open")
        assert {q.model_version for q in open_now} == {project.current_version}
        found = store.effective_labels(project.id)
        assert {i: (r.kind, r.classes) for i, r in found.items()} == {
            i: (r.kind, r.classes) for i, r in labels[project.id].items()
        }
    assert site.ls.server.asked("import_tasks", "delete_tasks") == []
    (renewed,) = site.ls.server.asked("import_predictions")
    assert [row["task"] for row in renewed[1]] == stale


@pytest.mark.parametrize("project_id", [4, 5])
def test_an_upgraded_project_trains_on_and_goes_back(site: InlineSite, project_id: int) -> None:
    """The next round of each project, the version of the old release again, and forward."""
    done = site.store.rounds(project_id)
    row = site.play_round(project_id)
    assert site.store.rounds(project_id)[: len(done)] == done
    assert row.version == f"p{project_id}-r{row.number}"
    assert {q.model_version for q in site.open(project_id)} == {row.version}
    activate(site.store, project_id, "r1")
    site.look(3)
    assert {q.model_version for q in site.open(project_id)} == {"r1"}
    assert site.ls.project(project_id)["model_version"] == "r1"
    activate(site.store, project_id, row.version)
    site.look(3)
    assert {q.model_version for q in site.open(project_id)} == {row.version}
    asking.ask(site.store, project_id, asking.PUSH)
    again = site.play_round(project_id)
    assert again.number == row.number + 1
    assert site.project(project_id).trouble is None


def test_an_upgraded_project_is_forgotten_and_the_other_goes_on(site: InlineSite) -> None:
    """They share pictures and regions; every file of project 5 stays."""
    runtime = site.worker.runtime
    title = site.project(4).title
    forget(runtime.settings, site.store, lambda: site.ls, 4, title, alive=lambda: False)
    assert site.store.project(4) is None
    for image in site.store.images(5, status="ready"):
        assert Path(image.path).exists()
        assert Path(image.regions_path).exists()
    assert not any(runtime.settings.home.glob("*/p4"))
    row = site.play_round(5)
    assert row.state == "done"


def test_scores_of_the_old_release_may_be_gone(site: InlineSite) -> None:
    """A home that was tidied up: the pool is scored by the version in use, then pushed."""
    shutil.rmtree(site.worker.runtime.settings.home / "scores")
    for query in site.open(5):
        site.answer(query, skip=True)
    site.look(3)
    assert site.open(5)
    assert {q.model_version for q in site.open(5)} == {"r1"}
