"""Pause, resume, archive: twice, in the wrong order, during a round, with Label Studio gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_helpers import make_project, make_store
from command_line import CommandLine, open_command_line
from queueing_site import InlineSite, open_inline_site

from ml_backend import asking, project_states
from ml_backend.engine import workflow_id
from ml_backend.errors import Conflict


@pytest.fixture
def site(tmp_path: Path) -> Iterator[InlineSite]:
    yield from open_inline_site(tmp_path)


def open_questions(site: InlineSite, project_id: int = 4) -> int:
    return site.store.count_queries(project_id).get("open", 0)


def state(site: InlineSite, number: int) -> str:
    row = site.store.round(4, number)
    return "none" if row is None else row.state


# Paused


def test_a_paused_project_neither_trains_nor_asks_and_keeps_its_answers(site: InlineSite) -> None:
    site.look()
    assert open_questions(site) > 0
    project_states.pause(site.store, 4)
    site.answer_all(4)
    site.answer_all(5)
    site.look()
    site.look()
    assert len(site.store.labels(4)) > 0, "answers are taken in"
    assert site.store.rounds(4) == []
    assert open_questions(site) == 0
    assert [r.state for r in site.store.rounds(5)] == ["done"], "the other one goes on"
    # Resumed, it goes on by itself.
    project_states.resume(site.store, 4)
    site.look()
    assert state(site, 1) == "done"
    assert open_questions(site) > 0


def test_a_round_that_runs_ends_and_its_questions_are_not_pushed(site: InlineSite) -> None:
    engine = site.engine
    site.look()
    site.answer_all(4)
    engine.dies_before = "push"
    site.look()
    assert state(site, 1) == "scoring"
    said = project_states.pause(site.store, 4)
    assert "round 1, which runs, ends; its questions are not pushed" in said
    engine.recover(site.worker.keeper.worker_id)
    assert state(site, 1) == "done"
    assert open_questions(site) == 0
    for _ in range(3):
        site.look()
    assert open_questions(site) == 0
    project_states.resume(site.store, 4)
    site.look()
    assert open_questions(site) > 0
    assert [r.number for r in site.store.rounds(4)] == [1]


def test_a_round_that_only_waits_does_not_begin_and_is_made_up_for(site: InlineSite) -> None:
    """It was queued behind another project's when somebody paused this one."""
    site.look()
    site.answer_all(4)
    project_states.pause(site.store, 4)
    site.look()
    key = workflow_id(site.worker.runtime.project(4), 1, 1)
    assert site.store.start_round(4, 1, "labels", key)
    site.look()  # rescue queues it
    row = site.store.round(4, 1)
    assert row is not None
    assert (row.state, row.version) == ("failed", None)
    assert "paused before the round began" in str(row.error)
    project_states.resume(site.store, 4)
    site.look()
    site.look()
    assert state(site, 1) == "done"


def test_who_asks_something_of_a_paused_project_is_told(site: InlineSite) -> None:
    site.look()
    project_states.pause(site.store, 4)
    for action in (asking.TRAIN, asking.PUSH):
        asking.ask(site.store, 4, action)
    site.look()
    assert site.store.pending_events() == []
    assert {str(e.error) for e in site.store.failed_events(4)} == {
        "The project is paused: `pixbal project resume --project 4`."
    }


# Archived


def test_an_archived_project_is_left_alone_and_comes_back(site: InlineSite) -> None:
    site.look()
    project_states.archive(site.store, 4)
    site.answer_all(4)
    site.ls.server.requests.clear()
    site.look()
    assert not [r for r in site.ls.server.requests if r[1] == 4], "nothing is asked of its project"
    assert site.store.labels(4) == []
    project_states.resume(site.store, 4)
    site.look()
    site.look()
    assert state(site, 1) == "done", "the answers of meanwhile were found"


def test_a_request_in_the_archive_starts_nothing_later(site: InlineSite) -> None:
    """START_TRAINING of a webhook; left pending, it made the worker decide at every look."""
    site.look()
    project_states.archive(site.store, 4)
    site.store.record_event(4, "START_TRAINING", {"action": "START_TRAINING"})
    site.store.record_event(77, "START_TRAINING", {"action": "START_TRAINING"})  # forgotten
    site.look()
    assert site.store.pending_events() == []


@pytest.mark.parametrize("move", [project_states.pause, project_states.archive])
def test_label_studio_gone_stops_neither(site: InlineSite, move: object) -> None:
    site.ls.server.delete_project(4)
    site.look()
    project = site.store.project(4)
    assert project is not None
    assert "404" in str(project.trouble)
    assert callable(move)
    move(site.store, 4)
    site.look()
    assert open_questions(site, 5) > 0


# Buttons in every order


def test_twice_and_in_the_wrong_order(tmp_path: Path) -> None:
    with make_store(tmp_path) as store:
        assert "is active already" in project_states.resume(store, 4)
        assert "is paused:" in project_states.pause(store, 4)
        assert "is paused already" in project_states.pause(store, 4)
        assert "is archived:" in project_states.archive(store, 4)
        assert "is archived already" in project_states.archive(store, 4)
        with pytest.raises(Conflict, match="is archived, which is more"):
            project_states.pause(store, 4)
        assert "active again" in project_states.resume(store, 4)
        store.update_project(4, push_held=True)
        project_states.pause(store, 4)
        assert "`pixbal push` begins" in project_states.resume(store, 4)


@pytest.mark.parametrize("move", ["pause", "archive", "resume"])
def test_an_import_is_not_given_up_by_a_button(tmp_path: Path, move: str) -> None:
    """Resumed, it would be pushed from a part of its images."""
    with make_store(tmp_path, make_project(4, state="importing")) as store:
        with pytest.raises(Conflict, match="import of its images has not ended") as caught:
            getattr(project_states, move)(store, 4)
        assert "pixbal init" in caught.value.hint
        project = store.project(4)
        assert project is not None
        assert project.state == "importing"


# Commands


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    line = open_command_line(tmp_path, monkeypatch)
    make_store(line.home, make_project(4), make_project(5, title="fields")).close()
    return line


def test_archived_projects_are_shown_to_who_asks(line: CommandLine) -> None:
    line.run("project", "archive", "--project", "4")
    assert "street" not in line.run("status")
    assert "1 archived project not shown" in line.said
    assert [p["project"] for p in json.loads(line.run("status", "--json"))] == [5]
    assert [p["project"] for p in json.loads(line.run("status", "--json", "--all"))] == [4, 5]
    assert "archived" in line.run("status", "--project", "4")
    # With one that is not archived, that one is meant.
    assert "project 5" in line.run("project", "pause")


@pytest.mark.parametrize("command", ["train", "push"])
@pytest.mark.parametrize("state", ["pause", "archive"])
def test_commands_on_a_paused_project_say_what_to_do(
    line: CommandLine, command: str, state: str
) -> None:
    """`pixbal train` said "asked; the worker starts as soon as it is free"."""
    line.run("project", state, "--project", "4")
    line.run(command, "--project", "4", code=1)
    assert "nothing was asked for" in line.said
    assert "hint: `pixbal project resume --project 4`" in line.said
    with line.store() as store:
        assert store.pending_events() == []
    line.run("project", "resume", "--project", "4")
    said = line.run("train", "--project", "4")
    assert "There is no answer to train on yet" in said
    assert "paused" not in said


def test_trouble_is_shown_with_what_to_do(line: CommandLine) -> None:
    with line.store() as store:
        at = make_project().created_at
        reason = "Label Studio answered 404 to project 4: Not found."
        store.update_project(4, trouble=reason, trouble_at=at)
        store.update_project(5, trouble="Label Studio answered 500 to it", trouble_at=at)
    said = " ".join(line.run("status", "--project", "4").replace("│", " ").split())
    assert "answered 404" in said
    assert "Since 2026-11-22 15:00 UTC" in said
    assert "pixbal project forget --project 4" in said
    said = " ".join(line.run("status", "--project", "5").replace("│", " ").split())
    assert "tried again by itself" in said
    assert "forget" not in said


def test_without_a_project_commands_say_how_to_make_one(line: CommandLine) -> None:
    """They said: 0 projects are known here. Region projects: []."""
    for project_id in (4, 5):
        line.run("project", "forget", "--project", str(project_id), "--yes")
    line.run("push", code=1)
    assert "no project is known here" in line.said
    assert "hint: Make one: `pixbal init --images ... --classes ...`." in line.said
    line.run("push", "--project", "4", code=1)
    assert "project 4 is unknown here" in line.said
    assert "[]" not in line.said


def test_of_several_projects_one_must_be_named(line: CommandLine) -> None:
    line.run("push", code=1)
    assert "2 projects are known here" in line.said
    assert "hint: Name one with --project: 4, 5." in line.said
