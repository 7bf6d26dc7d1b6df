"""Leases: one trainer per project across processes; a worker that lost its lease writes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from backend_helpers import make_project, make_query, make_settings, open_queries
from sqlalchemy import text
from test_liveness import watched
from test_store import _postgres_url

from ml_backend.doctor_workers import examine_workers
from ml_backend.errors import Conflict, LeaseLost
from ml_backend.leases import Keeper, project_lease
from ml_backend.locks import file_lock, worker_lock
from ml_backend.round_steps import claim_work, work_folders
from ml_backend.status import project_status, status_tables
from ml_backend.store import Store, VersionRow, fenced
from training.checkpoints import Checkpoints

TTL_S = 10.0


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/pixbal.db"
    if request.param == "postgresql":
        request.getfixturevalue("postgres")
        url = _postgres_url()
    with Store.open(url) as opened:
        opened.add_project(make_project())
        opened.start_round(4, 1, "labels", "project-4-round-1-try-1")
        open_queries(opened, 4, 3)
        yield opened


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def keepers(store: Store, clock: Clock, *names: str) -> list[Keeper]:
    """Workers that share the store and the time."""
    return [Keeper(store, name, TTL_S, clock) for name in names]


def pass_time(clock: Clock, seconds: float, *alive: Keeper) -> None:
    """Time passes while these keepers beat."""
    for _ in range(round(seconds)):
        clock.now += 1
        for keeper in alive:
            keeper.beat()


# Taking and keeping


def test_only_one_takes_a_lease_that_was_seen_free(store: Store) -> None:
    first = store.take_lease("project:4", "a", None)
    assert first is not None
    assert (first.holder, first.token) == ("a", 1)
    assert store.take_lease("project:4", "b", None) is None
    assert store.take_lease("project:4", "b", replace(first, beat=7)) is None
    second = store.take_lease("project:4", "b", first)
    assert second is not None
    assert (second.holder, second.token, second.taken_from) == ("b", 2, "a")
    assert store.renew_leases([first, second]) == [first]
    assert not store.release_lease(first)
    assert store.release_lease(second)
    assert store.leases()[0].holder is None


@pytest.mark.guarantee(8)
@pytest.mark.guarantee(13)
def test_a_lease_goes_over_when_its_holder_is_silent(store: Store) -> None:
    """Seen failing with the comparison of silence and `ttl_s` removed from `take`."""
    clock = Clock()
    a, b = keepers(store, clock, "a", "b")
    assert a.take("project:4") is not None
    pass_time(clock, 3 * TTL_S, a, b)
    assert b.take("project:4") is None  # a beats: three times the limit changes nothing
    pass_time(clock, TTL_S - 1, b)
    assert b.take("project:4") is None  # silent, but not for long enough
    pass_time(clock, 2, b)
    taken = b.take("project:4")
    assert taken is not None
    assert taken.taken_from == a.holder
    with pytest.raises(LeaseLost, match=r"project:4: b@.* has it.*PIXBAL_LEASE_S"):
        a.beat()
    with pytest.raises(LeaseLost):
        a.verify()
    b.beat()
    b.verify()


@pytest.mark.guarantee(27)
def test_time_in_which_nobody_could_look_is_not_silence(store: Store) -> None:
    """The database was away, or the machine slept: nobody is lost for that.

    Seen failing with the cap on the gap between two looks removed.
    """
    clock = Clock()
    a, b = keepers(store, clock, "a", "b")
    a.take("project:4")
    pass_time(clock, 2, a, b)
    clock.now += 3600
    assert b.take("project:4") is None
    a.beat()
    pass_time(clock, 3, a, b)
    assert b.take("project:4") is None


@pytest.mark.guarantee(27)
def test_the_wall_clock_has_no_say(store: Store) -> None:
    """A holder whose clock is a day behind, or ahead, keeps its lease as long as it beats.

    Seen failing with a lease called silent where its holder's clock is behind (tests/sabotage.py).
    """
    clock = Clock()
    a, b = keepers(store, clock, "a", "b")
    a.take("project:4")
    for day in ("1999-01-01 00:00:00", "2099-01-01 00:00:00"):
        for _ in range(int(2 * TTL_S)):
            pass_time(clock, 1, a)
            with store._engine.begin() as connection:
                connection.execute(
                    text("UPDATE pixbal_lease SET renewed_at = :day"), {"day": f"{day}.000000"}
                )
            b.beat()
        assert b.take("project:4") is None


def test_the_same_worker_started_again_waits_for_nothing(store: Store) -> None:
    clock = Clock()
    before, after = keepers(store, clock, "a", "a")
    before.start()
    before.take("project:4")
    after.start()
    assert after.take("project:4") is not None
    with pytest.raises(LeaseLost):
        before.beat()


def test_threads_and_workers_take_turns(store: Store) -> None:
    a, b = keepers(store, Clock(), "a", "b")
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(30)
        with a.turn("project:4") as held:
            order.append(f"second {held}")

    thread = threading.Thread(target=second)
    thread.start()
    with a.turn("project:4") as held:
        assert held
        inside.set()
        with b.turn("project:4", wait=False) as other:
            order.append(f"other worker {other}")
        order.append("first")
    thread.join(30)
    assert order == ["other worker False", "first", "second True"]
    with b.turn("project:4", wait=False) as held:
        assert held  # given back by both


# The fence

WRITES: dict[str, Callable[[Store], object]] = {
    "round": lambda s: s.update_round(4, 1, state="done", version="r1"),
    "version": lambda s: s.add_version(VersionRow(4, "r1", 1, "/nowhere", {}, "0" * 64)),
    "model version": lambda s: s.update_project(4, model_version="r1"),
    "plan": lambda s: s.plan_queries([make_query(4, 9)]),
    "status": lambda s: s.set_query_status([1], "pushing"),
    "task ids": lambda s: s.set_task_ids({1: 99}),
    "scores": lambda s: s.update_query_scores([replace(s.queries(4)[0], score=0.123)]),
    "event": lambda s: s.record_event(4, "TRAIN_REQUESTED", {"action": "x"}),
}


def content(store: Store) -> list[object]:
    """All rows that a round writes."""
    return [
        store.rounds(4), store.versions(4), store.projects(), store.queries(4),
        store.pending_events(),
    ]  # fmt: skip


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_late_write_leaves_no_trace(store: Store, write: Callable[[Store], object]) -> None:
    """Seen failing with `check_fence` removed from the transaction."""
    old = store.take_lease("project:4", "a", None)
    assert old is not None
    with fenced(old):
        store.update_round(4, 1, state="stage1")  # while it is ours, it may write
    assert store.take_lease("project:4", "b", old) is not None
    before = content(store)
    with fenced(old), pytest.raises(LeaseLost, match="a has lost the lease project:4: b has it"):
        write(store)
    assert content(store) == before
    write(store)  # and without the fence it would have written
    assert content(store) != before


def test_a_fence_is_of_its_thread(store: Store) -> None:
    """The heartbeat beats, and events are recorded, whatever a step has lost."""
    old = store.take_lease("project:4", "a", None)
    assert old is not None
    store.take_lease("project:4", "b", old)
    errors: list[BaseException] = []

    def beside() -> None:
        try:
            store.update_round(4, 1, state="stage1")
        except LeaseLost as error:
            errors.append(error)

    with fenced(old):
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join(30)
    assert not errors


# Files


@pytest.mark.guarantee(8)
def test_the_work_of_a_stale_worker_leads_nowhere(tmp_path: Path) -> None:
    """It can neither write a checkpoint for the new owner nor keep its lock.

    Seen failing with one name of the folder for all tokens.
    """
    version = tmp_path / "versions" / "r1"
    version.parent.mkdir()
    stale = claim_work(version, 3)
    old = Checkpoints(stale / "stage1-epochs")
    (old.folder / "epoch-00001.json").write_text("{}")
    with file_lock(stale / "lock", what="the old owner"):
        mine = claim_work(version, 5)
        assert (mine / "stage1-epochs" / "epoch-00001.json").is_file()  # goes on where it stopped
        with file_lock(mine / "lock", what="the new owner", wait=False):
            assert not stale.exists()
            with pytest.raises(FileNotFoundError):
                (old.folder / "epoch-00002.json").write_text("{}")
    assert work_folders(version) == [mine]


def test_work_of_other_versions_is_left_alone(tmp_path: Path) -> None:
    for name in ("r10.partial", "r1.2.partial", "r1.partial", "r1.x.partial"):
        (tmp_path / name).mkdir()
    assert [p.name for p in work_folders(tmp_path / "r1")] == ["r1.partial", "r1.2.partial"]
    assert claim_work(tmp_path / "r1", 9).name == "r1.9.partial"
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["r1.9.partial", "r1.x.partial", "r10.partial"]


@pytest.mark.guarantee(8)
def test_the_work_of_whoever_took_the_lease_is_left_alone(tmp_path: Path) -> None:
    """A worker that lost the lease renamed the new owner's folder to its own name.

    Seen failing with every folder claimed, whatever its token.
    """
    version = tmp_path / "r1"
    theirs = claim_work(version, 7)
    theirs.mkdir()
    (theirs / "lock").touch()
    assert claim_work(version, 5).name == "r1.5.partial"
    assert (theirs / "lock").exists()
    assert work_folders(version) == [theirs]


@pytest.mark.guarantee(13)
def test_two_workers_of_one_id_are_refused_on_one_machine(tmp_path: Path) -> None:
    path = worker_lock(tmp_path, "gpu0")
    with file_lock(path, what="the worker", wait=False):
        with pytest.raises(Conflict, match="already running"):
            with file_lock(path, what="the worker", wait=False):
                raise AssertionError
        with file_lock(worker_lock(tmp_path, "gpu1"), what="the worker", wait=False):
            pass


# What people see


def test_lost_workers_are_visible(store: Store, tmp_path: Path) -> None:
    a, b = keepers(store, Clock(), "a", "b")
    a.start()
    a.take(project_lease(4))
    b.start()
    settings = make_settings(tmp_path)
    workers = watched(store, b).look()
    running, check = examine_workers(settings, workers)
    assert (running.ok, running.detail) == (True, "alive: b")
    assert check.ok is False
    assert "a@" in check.detail
    assert "project:4" in check.detail
    assert "refused" in check.advice
    store.update_round(4, 1, state="failed", error="disk full", retry_in_s=60.0,
                       note="worker a was lost; taken over by b")  # fmt: skip
    status = project_status(settings, store, 4, workers)
    assert {w["id"]: w["alive"] for w in status["workers"]} == {"a": False, "b": True}
    cells = [
        str(cell) for table in status_tables(status) for c in table.columns for cell in c.cells
    ]
    assert any("disk full Tried again after 60 s (try 1). worker a was lost" in c for c in cells)


def test_a_store_shared_without_its_workflows_is_named(store: Store, tmp_path: Path) -> None:
    apart = make_settings(tmp_path, PIXBAL_DATABASE_URL="postgresql://pixbal@localhost/pixbal")
    *_, check = examine_workers(apart, [])
    assert (check.name, check.ok) == ("workflow database", None)
