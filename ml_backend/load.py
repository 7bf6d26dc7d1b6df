"""`pixbal bench --only load`: answers while training saturates the cores, and memory over time.

Loopback only, bounded: a minute of load beside two trainings, then 10,000 events and as many
predictions beside five rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_backend.bench_site import PROJECT, fill, site_environment, site_project
from ml_backend.errors import BackendError
from ml_backend.load_client import Answer, Due, paced, play
from ml_backend.load_trainer import write_training_data
from ml_backend.memory import resident_bytes
from ml_backend.processes import BackendServer, free_port
from ml_backend.round_steps import apply_pending_events
from ml_backend.store import Store
from training.bench import Options
from training.bench_report import Row, absent, measured

CONNECTIONS = 20
TRAINER_ENDS_S = 900.0


@dataclass(frozen=True)
class LoadSize:
    """How much of everything; the defaults are what is promised."""

    seconds: float = 60.0
    webhooks_per_s: float = 50.0
    others_per_s: float = 10.0  # of /health, and of /predict
    trainings: int = 2
    events: int = 10_000
    rounds: int = 5
    epochs: int = 2  # of each stage of a round


QUICK = LoadSize(seconds=2.0, trainings=1, events=100, rounds=1, epochs=1)


@dataclass(frozen=True)
class Answers:
    """What clients saw.

    Attributes:
        ms: by kind of request, milliseconds at p50 and p99.
        sent, failed: requests, and those without a 2xx.
        lost: events that were acknowledged and are not stored.
    """

    ms: Mapping[str, Mapping[str, float]]
    sent: int
    failed: int
    lost: int


@dataclass(frozen=True)
class Growth:
    """Memory before and after, in bytes, of the web processes and of the training process."""

    web: tuple[int, int]
    worker: tuple[int, int]
    events: int
    lost: int
    unapplied: int

    @property
    def worst(self) -> float:
        """The larger growth of the two, as a share; below 0 where both shrank."""
        return max(after / before - 1 for before, after in (self.web, self.worker) if before)


def load(options: Options) -> Iterator[Row]:
    """Rows of both measurements."""
    size = QUICK if options.quick else LoadSize()
    with tempfile.TemporaryDirectory(prefix="pixbal-load-") as folder:
        found = answers_beside_training(Path(folder), size)
    beside = (
        f"{size.webhooks_per_s:g} events/s for {size.seconds:g} s from {CONNECTIONS} connections "
        f"beside {size.trainings} trainings"
    )
    most = {"webhook": (50.0, 250.0), "health": (50.0, 250.0), "predict": (np.inf, 100.0)}
    for kind, times in found.ms.items():
        for (share, ms), target in zip(times.items(), most[kind], strict=True):
            yield measured("load", f"{kind}, {share}; {beside}", ms, "ms", most=target)
    yield measured("load", f"requests without a 2xx, of {found.sent}", found.failed, "", most=0)
    yield measured("load", "acknowledged events not stored", found.lost, "", most=0)
    with tempfile.TemporaryDirectory(prefix="pixbal-load-") as folder:
        grown = growth(Path(folder), size)
    what = (
        f"growth of memory over {size.events:,} events, as many predictions, {size.rounds} rounds"
    )
    if not grown.web[0]:
        yield absent("load", what, "%", "needs /proc; pixbal bench --only load on Linux")
        return
    for name, (before, after) in {"web": grown.web, "worker": grown.worker}.items():
        value = max(0.0, 100 * (after / before - 1))
        yield measured("load", f"{what}: {name}", value, "%", most=5)
    yield measured("load", "events lost or never applied", grown.lost + grown.unapplied, "", most=0)


def answers_beside_training(home: Path, size: LoadSize) -> Answers:
    """Webhooks, /health and cached /predict, while trainings use all the processor there is."""
    rates = {
        "webhook": size.webhooks_per_s, "health": size.others_per_s, "predict": size.others_per_s,
    }  # fmt: skip
    schedule = paced(size.seconds, rates)
    database = _make_store(home, sum(due.kind == "webhook" for due in schedule))
    data = write_training_data(home / "data").path
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(_backend(home, port))
        trainers = [
            stack.enter_context(
                _Trainer(home / f"t{n}", data, 0, size.epochs, "" if n else database)
            )
            for n in range(size.trainings)
        ]
        for trainer in trainers:
            trainer.next_round()  # imports are over, work has begun
        play(port, [Due("health", 0)] * (4 * CONNECTIONS), CONNECTIONS)  # connections are warm
        found = play(port, schedule, CONNECTIONS)
    with Store.open(database) as store:
        acknowledged = sum(a.kind == "webhook" and a.status in (200, 201) for a in found)
        lost = acknowledged - store.count_events()
    failed = sum(not 200 <= answer.status < 300 for answer in found)
    return Answers({kind: percentiles(found, kind) for kind in rates}, len(found), failed, lost)


def percentiles(found: Sequence[Answer], kind: str) -> dict[str, float]:
    """p50 and p99 in ms of the answers of one kind."""
    times = [answer.ms for answer in found if answer.kind == kind]
    return {f"p{share}": round(float(np.percentile(times, share)), 2) for share in (50, 99)}


def growth(home: Path, size: LoadSize) -> Growth:
    """Memory over many events, predictions and rounds; a tenth and one round to get warm first."""
    warm = max(20, size.events // 10)
    total = warm + size.events
    database = _make_store(home, total)
    data = write_training_data(home / "data").path
    port = free_port()
    backend = _backend(home, port)
    with backend, _Trainer(home / "t", data, 1 + size.rounds, size.epochs, database) as trainer:
        taken = _send(port, range(1, warm + 1))
        worker_before = trainer.next_round()
        web_before = resident_bytes(backend.pid)
        taken += _send(port, range(warm + 1, total + 1))
        worker_after = [trainer.next_round() for _ in range(size.rounds)][-1]
        web_after = resident_bytes(backend.pid)
        trainer.wait()
    with Store.open(database) as store:
        apply_pending_events(store)
        labels = len(store.labels(PROJECT))
        answered = len(store.queries(PROJECT, status="answered"))
        lost = taken - store.count_events()
    return Growth(
        (web_before, web_after), (worker_before, worker_after), taken, lost,
        abs(total - labels) + abs(total - answered),
    )  # fmt: skip


def _send(port: int, numbers: range) -> int:
    """Each event and a prediction for its question, as fast as they are answered."""
    schedule = [Due(kind, n) for n in numbers for kind in ("webhook", "predict")]
    found = play(port, schedule, CONNECTIONS - 1)  # odd: each connection sends both kinds
    bad = [answer for answer in found if not 200 <= answer.status < 300]
    if bad:
        raise BackendError(
            f"{len(bad)} of {len(found)} requests failed, the first with {bad[0].status}.",
            "Look at the backend's log; a measurement needs one that works.",
        )
    return len(numbers)


def _make_store(home: Path, questions: int) -> str:
    database = f"sqlite:///{home}/pixbal.db"
    with Store.open(database) as store:
        store.add_project(site_project())
    fill(home, questions, labelled=False)
    return database


def _backend(home: Path, port: int) -> BackendServer:
    """The processes and threads that `pixbal serve` starts."""
    return BackendServer(
        env=site_environment(home, port), log=home / "backend.log", port=port, workers=2
    )


class _Trainer:
    """One training process; a context manager that ends it."""

    def __init__(self, home: Path, data: Path, rounds: int, epochs: int, database: str) -> None:
        arguments = [str(home), str(data), str(rounds), str(epochs), database]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ml_backend.load_trainer", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def next_round(self) -> int:
        """Wait for the end of a round; returns the memory the process holds then."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise BackendError(
                "The training beside the load has ended.", "Its error is printed above."
            )
        return int(json.loads(line)["rss"])

    def wait(self) -> None:
        """Wait for its end by itself."""
        self._process.communicate(timeout=TRAINER_ENDS_S)

    def __enter__(self) -> _Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
