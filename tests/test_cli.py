"""The command line: quick help, one-line errors with a hint, tracebacks only by --debug."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from backend_helpers import make_label, make_project, make_store
from click.testing import CliRunner

from ml_backend.cli import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIXBAL_HOME", str(tmp_path / "home"))
    # Nobody listens on port 9 of this machine.
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=True)
    return result.exit_code, result.output


def assert_one_line_with_hint(output: str) -> None:
    lines = output.strip().splitlines()
    assert lines[-2].startswith("pixbal: ")
    assert lines[-1].startswith("  hint: ")
    assert "Traceback" not in output


def test_help_loads_neither_torch_nor_the_sdk() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from ml_backend.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "for name in main.commands:\n"
        "    assert CliRunner().invoke(main, [name, '--help']).exit_code == 0, name\n"
        "heavy = {'torch', 'label_studio_sdk', 'dbos', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_web_process_loads_no_torch(tmp_path: Path) -> None:
    code = "import sys, ml_backend.wsgi\nassert 'torch' not in sys.modules\n"
    environment = {
        "PIXBAL_HOME": str(tmp_path),
        "PIXBAL_WEBHOOK_SECRET": "s" * 20,
        "PIXBAL_BASIC_PASSWORD": "p" * 20,
        "PIXBAL_MEDIA_KEY": "m" * 20,
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("init", "--images", "x", "--classes", "nonsense"), "neither a preset nor a file"),
        (("train",), "no project is known here"),
        (("push", "--project", "3"), "project 3 is unknown here"),
        (("export", "--out", "out"), "no project is known here"),
        (("reconcile", "--project", "7"), "project 7 is unknown here"),
    ],
)
def test_errors_are_one_line_with_a_hint(
    home: Path, arguments: tuple[str, ...], expected: str
) -> None:
    code, output = run(*arguments)
    assert code == 1
    assert expected in output
    assert_one_line_with_hint(output)


def test_settings_are_all_named_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXBAL_PORT", "ninety")
    monkeypatch.setenv("PIXBAL_MEDIA", "carrier pigeon")
    code, output = run("status")
    assert code == 1
    assert "PIXBAL_PORT" in output
    assert "PIXBAL_MEDIA" in output


def test_debug_shows_the_traceback(home: Path) -> None:
    result = CliRunner().invoke(main, ["--debug", "train"])
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "NotFound"


def test_unreachable_label_studio_says_so(home: Path, tmp_path: Path) -> None:
    from training.scenes import write_scene_set

    write_scene_set(tmp_path / "scenes", train=1, heldout=0, seed=0)
    code, output = run("init", "--images", str(tmp_path / "scenes"), "--classes", "camvid")
    assert code == 1
    assert "127.0.0.1:9" in output
    assert_one_line_with_hint(output)


def test_status_as_json(home: Path) -> None:
    make_store(home, make_project(4), open_tasks=3).close()
    code, output = run("status", "--json")
    assert code == 0
    (found,) = json.loads(output)
    assert found["project"] == 4
    assert found["questions"] == {"open": 3}
    code, output = run("status")
    assert code == 0
    assert "3 open" in output


def test_train_records_a_request(home: Path) -> None:
    store = make_store(home, make_project(4), open_tasks=2)
    code, output = run("train")
    assert (code, store.pending_events()) == (0, [])
    assert output == "There is no answer to train on yet (2 questions are open).\n"
    store.apply_label(make_label(1))
    assert run("train")[0] == 0
    assert run("train")[0] == 0
    assert [e.action for e in store.pending_events()] == ["TRAIN_REQUESTED", "TRAIN_REQUESTED"]


def test_healthcheck_without_servers(home: Path) -> None:
    assert run("healthcheck")[0] == 1
    code, output = run("healthcheck", "--worker")
    assert code == 1
    assert "pixbal worker" in output


def test_secrets_are_drawn_once_and_are_private(home: Path) -> None:
    run("status")
    path = home / "secrets.env"
    assert path.stat().st_mode & 0o077 == 0
    before = path.read_text()
    run("status")
    assert path.read_text() == before
