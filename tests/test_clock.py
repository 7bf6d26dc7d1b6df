"""The wall clock jumps: reconciliation goes on at its own pace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backend_helpers import make_project, make_settings, make_store
from inline_engine import InlineEngine

from ml_backend import worker as worker_module
from ml_backend.leases import Keeper
from ml_backend.player import Player
from ml_backend.reconcile import ReconcileReport
from ml_backend.runtime import Runtime
from ml_backend.worker import Worker

START = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # half an hour before Europe's clocks go back


@pytest.mark.guarantee(27)
@pytest.mark.parametrize("jump_s", [0, 3600, -3600, 400 * 86400, -400 * 86400])
def test_a_jump_neither_repeats_nor_stops_reconciliation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Ten minutes, a walk each minute, a jump after five: eleven walks, a minute apart.

    Seen failing with the wall clock in `_reconcile_due` (tests/sabotage.py).
    """
    passed = 0.0

    def wall() -> datetime:
        jump = jump_s if passed > 300 else 0
        return START + timedelta(seconds=passed + jump)

    walks: list[float] = []

    def reconcile(*_: object) -> ReconcileReport:
        walks.append(passed)
        return ReconcileReport()

    monkeypatch.setattr(worker_module, "reconcile", reconcile)
    monkeypatch.setattr(Worker, "advance", lambda *_: None)
    with make_store(tmp_path, make_project()) as store:
        settings = make_settings(tmp_path, PIXBAL_RECONCILE_S="60")
        runtime = Runtime(settings, store, None)  # type: ignore[arg-type]
        keeper = Keeper(store, "one", 30.0)
        worker = Worker(runtime, keeper, InlineEngine(Player(runtime, keeper)),
                        lambda: passed, wall)  # fmt: skip
        while passed <= 600:
            worker.tick()
            passed += 5
    assert walks == [60.0 * n for n in range(11)]
