"""`pixbal project forget`: what goes, what stays, and what stands in its way."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backend_helpers import (
    WEBHOOK_SECRET,
    assert_error,
    at,
    make_label,
    make_project,
    make_query,
    make_store,
)
from command_line import CommandLine, open_command_line
from queueing_site import InlineSite, open_inline_site

from ml_backend.app import create_app
from ml_backend.errors import BackendError, Conflict, NotFound
from ml_backend.forget import forget, plan_forgetting
from ml_backend.leases import Keeper, project_lease, push_lease
from ml_backend.locks import file_lock, project_lock
from ml_backend.security import SECRET_HEADER
from ml_backend.services import Services
from ml_backend.store import Store
from ml_backend.store.schema import metadata
from ml_backend.trouble import FORGETTING


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Two projects of the same two pictures, made by `init`, each with questions."""
    line = open_command_line(tmp_path, monkeypatch)
    line.run("init", *line.images(), "--title", "street scenes")
    line.run("init", *line.images(), "--title", "the same again")
    return line


def files(home: Path) -> set[str]:
    """Everything below the home but the database, locks and secrets."""
    apart = ("pixbal.db", "locks", "secrets.env")
    return {
        path.relative_to(home).as_posix()
        for path in home.rglob("*")
        if path.is_file() and not path.relative_to(home).as_posix().startswith(apart)
    }


def rows_of(store: Store, project_id: int) -> dict[str, int]:
    """How many rows of each table name the project."""
    from sqlalchemy import func, select

    found = {}
    with store.engine.connect() as connection:
        for table in metadata.sorted_tables:
            column = table.c.get(
                "project_id", table.c.id if table.name == "pixbal_project" else None
            )
            if column is not None:
                statement = select(func.count()).select_from(table).where(column == project_id)
                found[table.name] = int(connection.execute(statement).scalar_one())
    return found


# What goes and what stays


def test_shared_files_stay_until_the_last_project_goes(line: CommandLine) -> None:
    before = files(line.home)
    assert any(name.startswith("scores/p1/") for name in before)
    images = {name for name in before if name.startswith(("images/", "regions/"))}
    assert len(images) == 4
    said = line.run("project", "forget", "--project", "1", "--yes")
    assert "4 files that another project uses too" in said
    after = files(line.home)
    assert images <= after
    assert not [name for name in after if "/p1/" in name]
    assert [name for name in after if "/p2/" in name] == sorted(
        name for name in before if "/p2/" in name
    )
    with line.store() as store:
        assert not any(rows_of(store, 1).values())
        assert store.count_queries(2).get("open", 0) > 0
    line.run("project", "forget", "--project", "2", "--yes")
    assert not [n for n in files(line.home) if n.startswith(("images/", "regions/", "scores/"))]
    with line.store() as store:
        assert store.projects() == []
    # Label Studio keeps everything, but what leads to us.
    for project in line.server.projects.values():
        assert project.tasks
        assert (project.webhooks, project.ml_backends) == ({}, {})


def test_no_row_of_any_table_is_left(tmp_path: Path) -> None:
    """Whatever table comes later: one that names projects is looked at here."""
    with make_store(tmp_path, make_project(4), make_project(5), open_tasks=2) as store:
        store.plan_queries([make_query(5)])
        store.apply_label(make_label(1))
        store.record_event(4, "ANNOTATION_CREATED", {"x": 1})
        store.start_round(4, 1, "labels", "w")
        others = rows_of(store, 5)
        assert sum(rows_of(store, 4).values()) >= 6
        assert store.forget_project(4) is True
        assert not any(rows_of(store, 4).values())
        assert rows_of(store, 5) == others
        assert store.forget_project(4) is False


def test_files_outside_the_home_are_not_ours(line: CommandLine, tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"x")
    with line.store() as store:
        image = store.images(1)[0]
        store.update_image(1, image.image_id, path=str(mine))
    line.run("project", "forget", "--project", "1", "--yes")
    assert mine.exists()


def test_it_can_be_made_again(line: CommandLine) -> None:
    line.run("project", "forget", "--project", "1", "--yes")
    assert "project 3: created" in line.run("init", *line.images(), "--title", "street scenes")


# Asked twice


def test_it_is_asked_twice_and_says_what_goes(line: CommandLine, tmp_path: Path) -> None:
    archive = tmp_path / "before.zip"
    said = line.run(
        "project", "forget", "--project", "1", typed=f"y\ny\n{archive}\nstreet scenes\n"
    )
    for text in ("deleted:", "2 images", "kept:", "annotations", "Forget it?",
                 "Make a backup first?", "Type the title"):  # fmt: skip
        assert text in said
    assert archive.exists()
    with line.store() as store:
        assert [p.id for p in store.projects()] == [2]


@pytest.mark.parametrize("typed", ["n\n", "y\nn\nstreet\n", "y\nn\nthe same again\n", "y\n", ""])
def test_without_the_title_nothing_goes(line: CommandLine, typed: str) -> None:
    before = files(line.home)
    line.run("project", "forget", "--project", "1", typed=typed, code=1)
    assert files(line.home) == before
    with line.store() as store:
        assert [p.id for p in store.projects()] == [1, 2]
    assert line.server.projects[1].webhooks


def test_a_backup_that_cannot_be_made_stops_it(line: CommandLine, tmp_path: Path) -> None:
    there = tmp_path / "there.zip"
    there.write_text("")
    line.run("project", "forget", "--project", "1", "--yes", "--backup", str(there), code=1)
    assert "exists" in line.said
    # "... or add --force" is of `pixbal backup`: there is no such option here.
    assert "hint: Choose another name." in line.said
    assert line.project(1).state == "active"


def test_twice_and_unknown(line: CommandLine) -> None:
    line.run("project", "forget", "--project", "1", "--yes")
    line.run("project", "forget", "--project", "1", "--yes", code=1)
    assert "project 1 is unknown here" in line.said
    assert "nothing to forget" in line.said


# With Label Studio gone


@pytest.mark.parametrize("how", ["deleted", "away", "forbidden"])
def test_label_studio_gone_does_not_stop_it(line: CommandLine, how: str) -> None:
    if how == "deleted":
        line.server.delete_project(1)
    elif how == "away":
        line.server.go_away()
    else:
        line.server.fail("*", 403, times=99)
    said = line.run("project", "forget", "--project", "1", "--yes")
    assert "not disconnected in Label Studio" in said or how == "deleted"
    with line.store() as store:
        assert [p.id for p in store.projects()] == [2]


def test_a_mask_project_is_forgotten_too(line: CommandLine) -> None:
    with line.store() as store:
        store.add_project(make_project(9, template="image_masks", title="masks", region_project=1))
    assert "project 9: none any more" in line.run(
        "project", "forget", "--project", "1", typed="n\n", code=1
    )
    line.run("project", "forget", "--project", "9", "--yes")
    with line.store() as store:
        assert [p.id for p in store.projects()] == [1, 2]


def test_what_comes_later_is_answered_as_for_an_unknown_project(line: CommandLine) -> None:
    from ml_backend.cli_common import load_settings

    line.run("project", "forget", "--project", "1", "--yes")
    with line.store() as store:
        client = create_app(Services(load_settings(), store)).test_client()
        for action in ("ANNOTATION_CREATED", "START_TRAINING"):
            answer_ = {"id": 1, "task": 1, "result": [], "updated_at": at(0).isoformat()}
            about = {"annotation": answer_, "task": {"id": 1}}
            body = {"action": action, "project": {"id": 1}, **about}
            answer = client.post("/webhook", json=body, headers={SECRET_HEADER: WEBHOOK_SECRET})
            assert "unknown here" in assert_error(answer, 404)["error"]
        assert store.count_events() == 0


# During a round, beside others


@pytest.fixture
def site(tmp_path: Path) -> Iterator[InlineSite]:
    yield from open_inline_site(tmp_path)


def forget_4(site: InlineSite, *, alive: bool = True) -> list[str]:
    settings = site.worker.runtime.settings
    return forget(settings, site.store, lambda: site.ls, 4, "street 4", alive=lambda: alive)


def test_a_round_that_runs_refuses_and_says_what_to_do(site: InlineSite) -> None:
    engine = site.engine
    site.look()
    site.answer_all(4)
    engine.dies_before = "push"
    site.look()
    with pytest.raises(Conflict, match="round 1 of project 4 is running") as caught:
        forget_4(site)
    assert "pixbal project pause --project 4" in caught.value.hint
    project = site.store.project(4)
    assert project is not None
    assert project.state == "active", "a refusal changes nothing"
    engine.recover(site.worker.keeper.worker_id)
    assert "is forgotten" in forget_4(site)[0]
    home = site.worker.runtime.settings.home
    assert not [p for p in home.rglob("p4") if p.is_dir() and p.parent.name != "images"]
    site.look()
    assert site.store.count_queries(5).get("open", 0) > 0


def test_a_round_whose_worker_is_gone_does_not_stop_it(site: InlineSite) -> None:
    """Killed, it stands still for ever, and so would the project."""
    site.look()
    site.store.start_round(4, 1, "labels", "w")
    site.store.update_round(4, 1, state="stage1")
    with pytest.raises(Conflict):
        forget_4(site)
    assert "is forgotten" in forget_4(site, alive=False)[0]


def test_a_queued_round_goes_with_it_and_the_engine_lives_on(site: InlineSite) -> None:
    site.look()
    row = site.worker.runtime.project(4)
    site.store.start_round(4, 1, "labels", "w")
    queued = site.store.round(4, 1)
    assert queued is not None
    forget_4(site)
    site.engine.start(queued)  # the engine had it in its queue
    site.engine.play_queued()
    assert site.store.round(4, 1) is None
    # Adopted again, its first round is another one for the engine, which remembers the old one.
    from dataclasses import replace

    from ml_backend.engine import workflow_id

    again = replace(row, created_at=datetime.now(UTC))
    assert workflow_id(again, 1, 1) != workflow_id(row, 1, 1)


@pytest.mark.parametrize("lease", [project_lease(4), push_lease(4)])
def test_somebody_at_work_refuses(site: InlineSite, lease: str) -> None:
    other = Keeper(site.store, "another", 30.0)
    assert other.take(lease)
    with pytest.raises(Conflict, match="is at work there"):
        forget_4(site)
    project = site.store.project(4)
    assert project is not None
    assert project.state == "active"


@pytest.mark.parametrize("project_id", [4, 5])
def test_an_import_refuses(site: InlineSite, project_id: int) -> None:
    """Of another project too: it takes files that are there for granted."""
    path = project_lock(site.worker.runtime.settings.home, project_id)
    with file_lock(path, what="x"), pytest.raises(Conflict, match=f"import into {project_id} is"):
        forget_4(site)


def test_cut_off_in_the_middle_it_is_ended_by_the_same_command(
    site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.look()

    def full(*_: object, **__: object) -> None:
        raise PermissionError("no permission")

    monkeypatch.setattr(shutil, "rmtree", full)
    with pytest.raises(BackendError, match="cannot be deleted: no permission"):
        forget_4(site)
    project = site.store.project(4)
    assert project is not None
    assert (project.state, project.trouble) == ("archived", FORGETTING)
    from ml_backend import project_states

    with pytest.raises(Conflict, match="files are being removed"):
        project_states.resume(site.store, 4)
    monkeypatch.undo()
    forget_4(site)
    assert site.store.project(4) is None


def test_the_plan_changes_nothing_and_knows_the_size(site: InlineSite) -> None:
    site.look()
    settings = site.worker.runtime.settings
    plan = plan_forgetting(settings, site.store, 4)
    assert plan.size == sum(
        p.stat().st_size
        for p in settings.home.rglob("*")
        if p.is_file() and "p4" in p.parts and stat.S_ISREG(p.stat().st_mode)
        and not p.name.endswith("-mask.png")  # no row names it
    )  # fmt: skip
    with pytest.raises(NotFound):
        plan_forgetting(settings, site.store, 77)


def test_the_doctor_names_a_project_that_is_gone(site: InlineSite) -> None:
    from ml_backend.doctor_project import examine_project

    site.ls.server.delete_project(4)
    settings, project = site.worker.runtime.settings, site.worker.runtime.project(4)
    (check,) = examine_project(settings, site.store, site.ls, project)
    assert check.ok is False
    assert "404" in check.detail
    assert "`pixbal project forget --project 4`" in check.advice


def test_a_project_whose_versions_lie_elsewhere_is_forgotten(
    line: CommandLine, tmp_path: Path
) -> None:
    """Somebody moved them to a larger disk: the way there goes, what is there is theirs.

    Seen failing ("a file cannot be deleted", for good) with the link taken for a folder.
    """
    place = tmp_path / "large"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    link = line.home / "versions" / "p1"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(place)
    line.run("project", "forget", "--project", "1", "--yes")
    assert not link.is_symlink()
    assert (place / "notes.txt").read_text() == "mine"
    with line.store() as store:
        assert store.project(1) is None
