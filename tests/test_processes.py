from __future__ import annotations

import json
import os
import socket
import stat
import sys
import urllib.request
from pathlib import Path

import pytest

from ml_backend import processes
from ml_backend.leases import Keeper
from ml_backend.managed import ManagedProcess, answers, wait_until
from ml_backend.processes import (
    BackendServer,
    LabelStudioServer,
    ProcessError,
    WorkerProcess,
    find_label_studio,
    free_port,
    label_studio_version,
)
from ml_backend.settings import Settings
from ml_backend.store import Store

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = (
    "import os, signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "if os.fork() == 0:\n"
    "    time.sleep(60)\n"
    "print('up', flush=True)\n"
    "time.sleep(60)\n"
)


class Printer(ManagedProcess):
    """Ready once it has printed `up`."""

    name = "printer"
    stop_timeout_s = 0.5

    def ready(self) -> bool:
        return "up" in self.log_tail()


def python(code: str, log: Path, **env: str) -> Printer:
    return Printer([sys.executable, "-c", code], env={"PATH": os.defpath, **env}, log=log)


def group_members(group: int) -> list[int]:
    """The live (not zombie) processes of a process group, from /proc."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            members.append(int(entry.parent.name))
    return members


def test_free_port_can_be_bound() -> None:
    port = free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))


def test_child_sees_only_the_environment_it_was_given(tmp_path: Path) -> None:
    code = "import os, time; print(sorted(os.environ), 'up', flush=True); time.sleep(9)"
    with python(code, tmp_path / "log", PIXBAL_X="1") as child:
        assert child.running
        assert "['LC_CTYPE', 'PATH', 'PIXBAL_X']" in child.log_tail() or (
            "['PATH', 'PIXBAL_X']" in child.log_tail()
        )


def test_stop_ends_the_child_and_says_how(tmp_path: Path) -> None:
    child = python(SLEEPER, tmp_path / "log").start(10)
    pid = child.pid
    assert pid is not None
    assert child.stop() == -15
    assert child.pid is None
    assert group_members(pid) == []
    assert child.stop() is None


def test_a_child_that_ignores_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    child = python(STUBBORN, tmp_path / "log").start(10)
    pid = child.pid
    assert pid is not None
    assert len(group_members(pid)) == 2
    assert child.stop() == -9
    assert wait_until(lambda: group_members(pid) == [], timeout_s=5, alive=lambda: True)


def test_an_early_end_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    child = python("raise SystemExit('no such database')", tmp_path / "log")
    with pytest.raises(ProcessError, match="ended with 1") as caught:
        child.start(10)
    assert "no such database" in caught.value.hint
    assert not child.running


def test_a_late_child_is_stopped(tmp_path: Path) -> None:
    child = python("import time; time.sleep(60)", tmp_path / "log")
    with pytest.raises(ProcessError, match=r"not ready after 0\.3 s"):
        child.start(0.3)
    assert child.pid is None


def test_starting_twice_is_refused(tmp_path: Path) -> None:
    with python(SLEEPER, tmp_path / "log") as child, pytest.raises(ProcessError, match="already"):
        child.launch()


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    child = ManagedProcess(["./no-such-program"], env={}, log=tmp_path / "log")
    with pytest.raises(ProcessError, match=r"\./no-such-program"):
        child.start()


def test_a_killed_child_can_be_started_again(tmp_path: Path) -> None:
    child = python(SLEEPER, tmp_path / "log").start(10)
    first = child.pid
    child.kill()
    assert not child.running
    with child:
        assert child.pid != first


def test_worker_is_ready_only_by_a_lease_of_its_own(tmp_path: Path) -> None:
    """A lease that an earlier worker of the same id left behind, alive or killed, is none."""
    with Store.open(f"sqlite:///{tmp_path}/pixbal.db") as store:
        settings = Settings.from_env({"PIXBAL_HOME": str(tmp_path)})
        keeper = Keeper(store, settings.worker_id, 30.0)
        keeper.start()
        worker = WorkerProcess(env={"PIXBAL_HOME": str(tmp_path)}, log=tmp_path / "log")
        worker.command = (sys.executable, "-c", "import time; time.sleep(60)")
        worker.launch()
        try:
            keeper.beat()
            assert not worker.ready()
            keeper.take(keeper.name)
            assert worker.ready()
        finally:
            worker.stop()


def test_backend_command_binds_where_its_url_points(tmp_path: Path) -> None:
    backend = BackendServer(env={}, log=tmp_path / "log", port=9191)
    assert backend.url == "http://127.0.0.1:9191"
    assert "127.0.0.1:9191" in backend.command
    assert backend.command[0] == sys.executable


def test_answers_is_false_for_a_dead_port() -> None:
    assert not answers(f"http://127.0.0.1:{free_port()}/")


def test_account_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = LabelStudioServer(tmp_path / "data", executable=Path("label-studio"))
    again = LabelStudioServer(tmp_path / "data", executable=Path("label-studio"))
    path = tmp_path / "data" / processes.ACCOUNT_FILE
    assert first.token == again.token
    assert len(first.token) == 40
    assert int(first.token, 16) >= 0
    assert json.loads(path.read_text())["password"] == first.password
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.token not in " ".join(first.command)
    assert first.password not in " ".join(first.command)


def test_a_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "label_studio.sqlite3").write_bytes(b"")
    with pytest.raises(ProcessError, match=r"no account\.json"):
        LabelStudioServer(tmp_path, executable=Path("label-studio"))


def test_template_is_copied_only_into_a_new_folder(tmp_path: Path) -> None:
    template = tmp_path / "template"
    original = LabelStudioServer(template, executable=Path("label-studio"))
    copy = LabelStudioServer(tmp_path / "a", executable=Path("label-studio"), template=template)
    assert copy.token == original.token
    (tmp_path / "a" / "mark").write_text("mine")
    (template / "mark").write_text("template")
    LabelStudioServer(tmp_path / "a", executable=Path("label-studio"), template=template)
    assert (tmp_path / "a" / "mark").read_text() == "mine"


def test_label_studio_does_not_inherit_foreign_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_PORT", "1")
    monkeypatch.setenv("PIXBAL_WEBHOOK_SECRET", "s")
    server = LabelStudioServer(tmp_path / "data", executable=Path("label-studio"))
    assert "LABEL_STUDIO_PORT" not in server.env
    assert "PIXBAL_WEBHOOK_SECRET" not in server.env
    assert server.env["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert server.env["USER_ADDITIONAL_BANNED_SUBNETS"] == "169.254.0.0/16"


def test_a_taken_port_is_refused_not_moved(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = LabelStudioServer(tmp_path / "d", executable=Path("label-studio"), port=port)
        with pytest.raises(ProcessError, match=f"Port {port} is in use"):
            server.launch()


def test_a_missing_label_studio_names_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProcessError) as caught:
        find_label_studio(tmp_path)
    assert "pip install" in caught.value.hint


def test_version_comes_from_the_metadata_beside_the_program(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "label-studio"
    with pytest.raises(ProcessError, match="No installed label-studio"):
        label_studio_version(program)
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    (packages / "label_studio_sdk-2.1.2.dist-info").mkdir(parents=True)
    (packages / "label_studio-1.23.2.dist-info").mkdir()
    assert label_studio_version(program) == "1.23.2"


@pytest.mark.server
@pytest.mark.slow
def test_a_real_label_studio_serves_its_account(label_studio: LabelStudioServer) -> None:
    request = urllib.request.Request(
        f"{label_studio.url}/api/current-user/whoami",
        headers={"Authorization": f"Token {label_studio.token}"},
    )
    with urllib.request.urlopen(request) as response:
        assert json.load(response)["email"] == label_studio.user
