"""`pixbal status`: what it says of a project, readable on a terminal of 80 columns."""

from __future__ import annotations

import io
from pathlib import Path

from backend_helpers import make_project, make_settings, make_store
from click.testing import CliRunner
from dashboard_helpers import beating, busy_store
from rich.console import Console

from ml_backend.answers_status import answers_lines
from ml_backend.cli import main
from ml_backend.liveness import WorkerSign
from ml_backend.status import project_status, status_tables

ALIVE = (WorkerSign("w", "w@here", True, 0.0),)


def printed(status: dict[str, object], columns: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, width=columns)
    for table in status_tables(status):
        console.print(table)
    return out.getvalue()


def in_words(status: dict[str, object]) -> str:
    return " ".join(printed(status).replace("│", " ").split())


def test_failed_events_of_one_project_leave_room_for_anothers(tmp_path: Path) -> None:
    """Seen failing as it was: the newest hundred of all were taken, and then those of this one."""
    with make_store(tmp_path, make_project(4), make_project(5)) as store:
        for number, project in enumerate([4, *[5] * 100]):
            event, _ = store.record_event(project, "ANNOTATION_CREATED", {"number": number})
            store.finish_event(event.id, error=f"of project {project}")
        (kept,) = project_status(make_settings(tmp_path), store, 4)["events_kept_aside"]
        assert kept["why"] == "of project 4"
        assert len(project_status(make_settings(tmp_path), store, 5)["events_kept_aside"]) == 100


def test_status_can_be_read_at_80_columns(tmp_path: Path) -> None:
    """Seen failing as it was: nine columns, and reasons in one of ten characters."""
    home = tmp_path / "home"
    with busy_store(home) as store:
        long = "NonFiniteError: The loss of stage1 became nan at step 12. Lower stage1.lr."
        store.update_round(4, 5, error=long, note="taken over from a lost worker")
        text = printed(project_status(make_settings(home), store, 4, ALIVE))
    assert max(map(len, text.splitlines())) <= 80
    for whole in (
        "Street scenes", "http://127.0.0.1:8080/projects/4/data", "60 pool ready",
        "round 6: training, stage 1, step 163 of 240, loss 0.831",
        "training, stage 1 ", "0.531", "NonFiniteError: The loss of stage1 became nan at step",
    ):  # fmt: skip
        assert whole in text, (whole, text)
    # Of the stage, and said so: nobody knows how long what follows takes.
    assert "of training left" in " ".join(text.replace("│", " ").split())


def test_status_says_who_runs_and_behind_whom_a_round_waits(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    environment = {"PIXBAL_HOME": str(tmp_path), "PIXBAL_LEASE_S": "1", "COLUMNS": "80"}

    def status() -> str:
        result = CliRunner().invoke(main, ["status"], env=environment)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.replace("│", " ").split())

    with make_store(tmp_path) as store:
        assert "no worker runs: start one with `pixbal worker`" in status()
        store.start_round(4, 1, "labels", "w")
        waiting = project_status(settings, store, 4)["waiting"]
        assert "no worker runs" in waiting
        assert "round 1: waiting, but no worker runs" in status()
        asked = CliRunner().invoke(main, ["train"], env=environment).output
        assert "asked, but no worker runs: start one" in asked
        with beating(store, "w1"):
            text = status()
            asked = CliRunner().invoke(main, ["train"], env=environment).output
        assert "asked; the worker starts as soon as it is free" in asked
        assert "worker w1: alive" in text
        assert "round 1: waiting for the worker, which takes it up in a moment" in text


def test_a_request_to_train_that_led_to_nothing_says_why(tmp_path: Path) -> None:
    """`pixbal train` said "see `pixbal status`", which said nothing."""
    settings = make_settings(tmp_path)
    with make_store(tmp_path) as store:
        for number in range(5):
            event, _ = store.record_event(4, "TRAIN_REQUESTED", {"number": number})
            why = f"There is no answer to train on yet ({number} open)."
            store.finish_event(event.id, error=why)
        text = in_words(project_status(settings, store, 4, ALIVE))
    assert "TRAIN_REQUESTED: There is no answer to train on yet (4 open)." in text
    assert "(0 open)" not in text
    assert "2 earlier ones" in text


def test_a_new_project_has_no_version_called_none(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with make_store(tmp_path) as store:
        store.update_project(4, model_version=None, push_held=True)
        text = in_words(project_status(settings, store, 4, ALIVE))
    assert "model_version none yet" in text
    assert "not before `pixbal push --project 4` (--no-push)" in text


def test_the_command_for_hasty_answers_names_the_project() -> None:
    """Beside a second project `pixbal ask-again --flagged` was refused: which one?"""
    status = {"project": 4, "ticks": {"says": ""}, "version_in_use": None, "model_version": None,
              "version_warning": None, "flagged": [1, 2], "asked_again": 1}  # fmt: skip
    lines = dict(answers_lines(status))
    assert lines["flagged"] == "2 answers saved at once: pixbal ask-again --flagged --project 4"
    assert lines["asked again"] == "1 question"
