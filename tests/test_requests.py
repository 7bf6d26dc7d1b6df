"""What a person asks the worker for is done, or the project says why not.

A real worker with rounds and pushes that end within a look; Label Studio is the fake one.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from inline_site import InlineSite, inline_site, open_worker

from ml_backend import asking, round_steps
from ml_backend.engine import EngineState
from ml_backend.errors import NotFound
from ml_backend.leases import push_lease
from ml_backend.player import Player
from ml_backend.version_use import activate

__all__ = ["inline_site"]  # a fixture

pytestmark = pytest.mark.slow


def two_versions(site: InlineSite) -> None:
    """Rounds 1 and 2 are done, and questions are open."""
    site.play_round()
    site.play_round()
    assert site.project().current_version == "p4-r2"
    assert site.open()


def test_a_pool_that_cannot_be_scored_says_so(inline_site: InlineSite) -> None:
    """A picture was lost from the disk; "Push more questions" did nothing and said nothing."""
    site = inline_site
    site.play_round()
    for query in site.open():
        site.answer(query, skip=True)
    site.worker.runtime.scores_path(4, "p4-r1").unlink()
    lost = Path(site.store.images(4)[0].path)
    kept = lost.read_bytes()
    lost.unlink()
    asking.ask(site.store, 4, asking.PUSH)
    site.look(2)
    trouble = site.project().trouble
    assert trouble is not None
    assert lost.name in trouble
    (said,) = [e.error for e in site.store.failed_events(4) if e.action == asking.PUSH]
    assert said == trouble
    lost.write_bytes(kept)
    site.look(3, seconds_later=700)
    assert site.project().trouble is None
    assert site.open()


def test_a_roll_back_while_questions_are_pushed_is_not_lost(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The admin goes back to version 1 just when the worker answers another request."""
    site = inline_site
    two_versions(site)
    player = site.engine.player
    real = asking.requests

    def meanwhile(store: Any, project_id: int, *actions: str) -> Any:
        monkeypatch.setattr(asking, "requests", real)
        activate(site.store, 4, "p4-r1")
        return real(store, project_id, *actions)

    asking.ask(site.store, 4, asking.PUSH)
    monkeypatch.setattr(asking, "requests", meanwhile)
    player.push_next(4)
    site.look(2)
    assert site.project().model_version == "p4-r1"
    assert {q.model_version for q in site.open()} == {"p4-r1"}


def test_a_roll_back_to_a_version_without_scores_waits_for_them(inline_site: InlineSite) -> None:
    """It came between scoring and pushing; the request must not be answered with a refusal."""
    site = inline_site
    two_versions(site)
    player = site.engine.player
    site.worker.runtime.scores_path(4, "p4-r1").unlink()
    player.score_for_push(4)
    activate(site.store, 4, "p4-r1")
    assert player.push_next(4) == 0
    assert asking.requests(site.store, 4, asking.PUSH)
    assert site.project().trouble is None
    site.look(2)
    assert site.project().model_version == "p4-r1"
    assert {q.model_version for q in site.open()} == {"p4-r1"}
    assert not asking.requests(site.store, 4, asking.PUSH)


def test_nothing_is_scored_for_a_project_that_was_forgotten_meanwhile(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The push waited for its turn while `pixbal project forget` deleted the project's files."""
    site = inline_site
    keeper = site.engine.player.keeper
    real = keeper.turn

    def turn(*names: str, wait: bool = True) -> Any:
        if push_lease(4) in names:
            monkeypatch.setattr(keeper, "turn", real)
            site.store.forget_project(4)
        return real(*names, wait=wait)

    monkeypatch.setattr(keeper, "turn", turn)
    assert site.engine.player.score_for_push(4) == ""
    assert not site.worker.runtime.scores_path(4, "r0").exists()


def test_two_workers_score_the_pool_once(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were asked; the second one waited for its turn, and finds the scores of the first."""
    site = inline_site
    scored: list[int] = []
    real_score = round_steps.score_current

    def score(runtime: Any, project: Any) -> Path:
        scored.append(project.id)
        return real_score(runtime, project)

    monkeypatch.setattr(round_steps, "score_current", score)
    keeper = site.engine.player.keeper
    real = keeper.turn

    def turn(*names: str, wait: bool = True) -> Any:
        monkeypatch.setattr(keeper, "turn", real)
        site.engine.player.score_for_push(4)  # the other one has its turn first
        return real(*names, wait=wait)

    monkeypatch.setattr(keeper, "turn", turn)
    site.engine.player.score_for_push(4)
    assert scored == [4]


def test_a_project_that_is_forgotten_in_its_trouble_stops_no_other(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trouble has no place any more; the worker goes on with project 5 in the same look."""
    site = inline_site
    real = site.worker.advance

    def advance(project: Any) -> Any:
        if project.id == 4:
            site.store.forget_project(4)
            raise NotFound("Project 4 is not recorded.")
        return real(project)

    monkeypatch.setattr(site.worker, "advance", advance)
    real_project = type(site.store).project
    seen = [site.project(4)]

    def project(store: Any, project_id: int) -> Any:
        found = real_project(store, project_id)
        return seen.pop() if found is None and project_id == 4 and seen else found

    monkeypatch.setattr(type(site.store), "project", project)
    site.look()
    assert seen == []  # somebody looked just before it was gone
    assert site.open(5)


def test_who_waits_for_the_gpu_keeps_nobody_from_the_questions(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another project trains for hours; this one can be pushed by command, or forgotten.

    Seen failing with the lease of the questions taken before that of the device.
    """
    site = inline_site
    site.play_round()
    scores = site.worker.runtime.scores_path(4, "p4-r1")
    scores.unlink()
    keeper = site.engine.player.keeper
    other = open_worker(site.worker.runtime, site.clock, "two").keeper
    monkeypatch.setattr(Player, "_device", lambda self: ("gpu:one",))
    asked: list[str] = []
    real = keeper.take

    def take(name: str) -> Any:
        asked.append(name)
        return real(name)

    monkeypatch.setattr(keeper, "take", take)
    with other.turn("gpu:one"):
        waiting = threading.Thread(target=site.engine.player.score_for_push, args=(4,))
        waiting.start()
        while asked.count("gpu:one") < 2:
            time.sleep(0.01)
        lease = site.store.lease(push_lease(4))
        assert lease is None or lease.holder is None
        with other.turn(push_lease(4), wait=False) as held:
            assert held
    waiting.join()
    assert scores.exists()


def test_a_request_that_waits_for_a_round_is_not_looked_at_every_second(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is counted for it, which takes time from the training; a new one is seen at once.

    Seen failing (20 counts) with whatever is pending taken for news.
    """
    site = inline_site
    site.play_round()
    site.store.start_round(4, 2, "labels", "another worker's")
    site.engine.states["another worker's"] = EngineState("pending", "other")
    asking.ask(site.store, 4, asking.TRAIN)
    site.look()
    counted: list[int] = []
    real = site.worker.cycle.state

    def state(project: Any) -> Any:
        counted.append(project.id)
        return real(project)

    monkeypatch.setattr(site.worker.cycle, "state", state)
    monkeypatch.setattr(site.worker, "_reconcile_due", lambda: False)
    site.look(20, seconds_later=1)
    assert counted.count(4) <= 2
    assert asking.requests(site.store, 4, asking.TRAIN)
    counted.clear()
    asking.ask(site.store, 4, asking.PUSH)
    site.look(seconds_later=0.1)
    assert counted.count(4) == 1
