"""Under load nothing fails and nothing is lost; how fast it is, is measured, and bounded loosely.

`pytest --reliability DIR` runs the promised sizes, else they are small.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
from backend_helpers import make_project, make_settings, make_store

from ml_backend.load import QUICK, LoadSize, answers_beside_training, growth, percentiles
from ml_backend.load_client import Answer, Due, paced, play
from ml_backend.memory import resident_bytes
from ml_backend.priority import NICENESS
from ml_backend.processes import free_port
from ml_backend.round_steps import train_round
from ml_backend.runtime import Runtime
from training.config import CONFIGS

RecordProperty = Callable[[str, object], None]
# The promise is 250 and 100 ms; a machine that runs other things beside may take this long.
GENEROUS_MS = 10_000.0


@pytest.mark.slow
@pytest.mark.guarantee(1)
@pytest.mark.timeout(900)
def test_events_are_acknowledged_beside_training(
    tmp_path: Path, full_size: bool, record_property: RecordProperty
) -> None:
    """Every request gets a 2xx and every acknowledged event is stored, while real trainings run.

    Seen failing with every seventh event acknowledged and not inserted (`Events._record`).
    """
    runs = []
    for number in range(3 if full_size else 1):  # other work on the machine may disturb one
        folder = tmp_path / str(number)
        folder.mkdir()
        found = answers_beside_training(folder, LoadSize() if full_size else QUICK)
        assert (found.failed, found.lost) == (0, 0)
        assert max(ms for times in found.ms.values() for ms in times.values()) < GENEROUS_MS
        runs.append(found.ms)
    if full_size:
        for kind, times in runs[0].items():
            record_property(
                f"{kind}_ms", {share: median(run[kind][share] for run in runs) for share in times}
            )
            record_property(f"{kind}_ms_runs", {s: [run[kind][s] for run in runs] for s in times})


@pytest.mark.slow
@pytest.mark.guarantee(25)
@pytest.mark.timeout(1800)
def test_memory_stays_flat(
    tmp_path: Path, full_size: bool, record_property: RecordProperty
) -> None:
    """Ten thousand events and predictions beside five rounds (few here, without a bound): no event
    lost, all applied, memory of the web processes and of the training process grows under 5 %.

    Seen failing with four megabytes kept of every event (tests/sabotage.py).
    """
    size = LoadSize() if full_size else QUICK
    found = growth(tmp_path, size)
    assert (found.lost, found.unapplied) == (0, 0)
    assert min(found.web[0], found.worker[0]) > 10_000_000
    # What a process needs once shows in a short run.
    assert found.worst < (0.05 if full_size else 0.5)
    if full_size:
        record_property("rss_growth", round(found.worst, 4))


def test_requests_are_due_at_even_times() -> None:
    schedule = paced(2.0, {"webhook": 5.0, "health": 2.0})
    assert [d.number for d in schedule if d.kind == "webhook"] == list(range(1, 11))
    times = [d.at_s for d in schedule if d.kind == "webhook"]
    assert times == pytest.approx([n / 5 for n in range(10)])
    assert len(schedule) == 14


def test_a_late_request_is_late_from_the_moment_it_was_due() -> None:
    """Nobody listens; each refusal is an answer 0, and a second one on the connection is later."""
    found = play(free_port(), [Due("health", n) for n in range(3)], 2)
    assert [a.status for a in found] == [0, 0, 0]
    assert all(a.ms >= 0 for a in found)


def test_percentiles_are_of_one_kind() -> None:
    answers = [Answer("health", n, 200, float(n)) for n in range(101)]
    answers.append(Answer("webhook", 1, 201, 999.0))
    assert percentiles(answers, "health") == {"p50": 50.0, "p99": 99.0}


def test_memory_of_a_process_group() -> None:
    block = "x = bytearray(50_000_000); x[::4096] = b'1' * len(x[::4096])"
    code = f"{block}; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        assert 50e6 < resident_bytes(child.pid) < 150e6
        child.kill()
    assert resident_bytes(None) > 10_000_000
    assert resident_bytes(child.pid) == 0


def test_the_thread_of_a_round_stands_back_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.rounds

    def priority(*_: object, **__: object) -> Any:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return SimpleNamespace(path=tmp_path)

    found: list[int] = []
    monkeypatch.setattr(training.rounds, "run_round", priority)
    with make_store(tmp_path, make_project(train_config=CONFIGS["demo"].to_json())) as store:
        runtime = Runtime(make_settings(tmp_path), store, None)  # type: ignore[arg-type]
        store.start_round(4, 1, "labels", "w")
        priority()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(train_round, runtime, 4, 1, str(tmp_path)).result()
        priority()
    assert found == [found[0], min(19, found[0] + NICENESS), found[0]]


def test_standing_back_twice_is_standing_back_once() -> None:
    code = "from ml_backend.priority import stand_back; import os; stand_back(); stand_back()"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(os.nice(0))"], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert int(done.stdout) == min(19, os.nice(0) + NICENESS)
