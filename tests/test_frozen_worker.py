"""A worker that freezes in a round: another one takes over, the first is refused when it wakes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from kill_points import MUTE, PAGE_MARKED
from servers import LabelStudioServer
from test_store import _postgres_url
from tiny_project import TinyProject

from ml_backend.leases import EXIT_LOST
from ml_backend.store import Store
from training.versions import Version

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where the store and the workflows are."""
    if request.param == "sqlite":
        return {}
    request.getfixturevalue("postgres")
    url = _postgres_url()
    return {"PIXBAL_DATABASE_URL": url, "PIXBAL_WORKFLOW_DATABASE_URL": url}


def everything(store: Store, project_id: int, home: Path) -> list[object]:
    """Rows and files that a round leaves."""
    versions = home / "versions" / f"p{project_id}"
    files = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in versions.rglob("*")}
    return [
        store.rounds(project_id), store.versions(project_id), store.projects(),
        store.queries(project_id), files,
    ]  # fmt: skip


@pytest.mark.guarantee(8)
@pytest.mark.guarantee(12)
@pytest.mark.guarantee(13)
@pytest.mark.parametrize(
    ("how", "point"),
    [
        ("frozen", "mid-epoch of stage 1"),
        # Alive, but its heartbeat stands still: the fence alone holds what it writes.
        ("mute", "mid-epoch of stage 2"),
        ("frozen", "model_version patched"),
        # No fence is at Label Studio: the page that it sends late is found and taken back.
        ("mute", PAGE_MARKED),
    ],
)
def test_a_lost_worker_is_replaced_and_refused(
    label_studio: LabelStudioServer,
    databases: dict[str, str],
    tmp_path: Path,
    how: str,
    point: str,
) -> None:
    """One round, one version, no late write that stays. Seen failing (a late write; SQLite, mute)
    with `check_fence` returning at once.
    """
    tiny = TinyProject(
        tmp_path / "tiny", label_studio, PIXBAL_LEASE_S="3", PIXBAL_WORKER_ID="first",
        **databases, **({MUTE: "1"} if how == "mute" else {}),
    )  # fmt: skip
    stack, project_id = tiny.stack, tiny.project_id
    second = tiny.another_worker(tmp_path / "second.log", PIXBAL_WORKER_ID="second", **{MUTE: ""})
    try:
        tiny.points.arm(point)
        tiny.annotate()
        tiny.wait_at(point)
        first = stack.worker
        assert first.pid is not None
        if how == "frozen":
            os.kill(first.pid, signal.SIGSTOP)
        second.start()
        stack.wait_for_round(project_id, 1)
        tiny.check(1)
        row = stack.store.round(project_id, 1)
        assert row is not None
        assert row.note == "worker first was lost; taken over by second"
        assert row.attempts == 1
        before = everything(stack.store, project_id, stack.settings.home)
        if how == "frozen":
            os.kill(first.pid, signal.SIGCONT)
        tiny.points.go(point)
        stack.wait_for("the end of the first worker", lambda: not first.running, 60)
        assert first.exit_code == EXIT_LOST
        assert "has lost the lease" in first.log_tail(200)
        assert everything(stack.store, project_id, stack.settings.home) == before
        if point == PAGE_MARKED:
            stack.wait_for(
                "the end of what was pushed twice",
                lambda: "that were pushed twice" in second.log_tail(200), 60,
            )  # fmt: skip
        tiny.check(1)
        Version.load(stack.settings.home / "versions" / f"p{project_id}" / "r1")
    finally:
        tiny.points.go(point)
        second.stop()
        stack.stop()
