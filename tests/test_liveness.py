"""Who lives is asked of the leases: no clock, no file, and no worker that speaks for another."""

from __future__ import annotations

import threading
from pathlib import Path

from backend_helpers import make_project, make_settings, make_store
from click.testing import CliRunner, Result
from sqlalchemy import text

from ml_backend.cli import main
from ml_backend.dashboard.surroundings import worker_sign
from ml_backend.leases import Keeper, project_lease
from ml_backend.liveness import Watch, WorkerSign
from ml_backend.settings import Settings
from ml_backend.store import Round, Store
from ml_backend.words import waits_for


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watched(
    store: Store, *alive: Keeper, lease_s: float = 30.0, clock: Clock | None = None
) -> Watch:
    """A watch on a clock that stands but for its naps, during which these keepers beat."""
    time = clock or Clock()

    def sleep(seconds: float) -> None:
        time.now += seconds
        for keeper in alive:
            keeper.beat()

    return Watch(store, lease_s, clock=time, sleep=sleep)


def started(store: Store, *names: str) -> list[Keeper]:
    """Workers that hold their leases."""
    made = [Keeper(store, name, 30.0) for name in names]
    for keeper in made:
        keeper.start()
    return made


def signs(watch: Watch) -> dict[str, bool]:
    return {worker.id: worker.alive for worker in watch.look()}


def test_a_dead_worker_is_seen_beside_one_that_lives(tmp_path: Path) -> None:
    """Seen failing as it was: both wrote one heartbeat file, which stayed fresh."""
    with make_store(tmp_path) as store:
        alive, dead = started(store, "alive", "dead")
        dead.take(project_lease(4))
        found = watched(store, alive).look()
        assert {worker.id: worker.alive for worker in found} == {"alive": True, "dead": False}
        (lost,) = (worker for worker in found if not worker.alive)
        assert lost.held == ("project:4",)
        assert lost.silent_s >= 5
        sign = worker_sign(found)
        assert (sign.good, sign.text) == (False, "alive; no sign of dead")


def test_no_clock_decides(tmp_path: Path) -> None:
    """The holder's clock may be years off. Seen failing with the age of `renewed_at` asked."""
    with make_store(tmp_path) as store:
        behind, _ = started(store, "behind", "dead")
        for day, name in (("2001-01-01", "behind"), ("2099-01-01", "dead")):
            with store.engine.begin() as connection:
                connection.execute(
                    text("UPDATE pixbal_lease SET renewed_at = :day WHERE name = :name"),
                    {"day": f"{day} 00:00:00.000000", "name": f"worker:{name}"},
                )
        assert signs(watched(store, behind)) == {"behind": True, "dead": False}


def test_a_worker_that_stopped_in_order_is_not_missed(tmp_path: Path) -> None:
    with make_store(tmp_path) as store:
        (worker,) = started(store, "w")
        worker.stop()
        assert watched(store).look() == []


def test_later_looks_do_not_wait_and_notice_a_death(tmp_path: Path) -> None:
    with make_store(tmp_path) as store:
        (worker,), clock = started(store, "w"), Clock()
        watch = watched(store, worker, clock=clock)
        assert signs(watch) == {"w": True}
        before = clock.now
        for _ in range(9):  # a page that asks every 3 s
            clock.now += 3
            assert signs(watch) == {"w": True}
        assert clock.now == before + 27  # no look slept
        clock.now += 4  # more than PIXBAL_LEASE_S without a beat
        assert signs(watch) == {"w": False}
        worker.beat()
        assert signs(watch) == {"w": True}


def test_an_old_look_says_nothing_about_now(tmp_path: Path) -> None:
    """Alive at the first look, dead for most of the hour until the second one."""
    with make_store(tmp_path) as store:
        (worker,), clock = started(store, "w"), Clock()
        assert signs(watched(store, worker, clock=clock)) == {"w": True}
        quiet = watched(store, clock=clock)
        assert signs(quiet) == {"w": False}
        worker.beat()
        clock.now += 3600
        assert signs(quiet) == {"w": False}


# The container's check


def check_worker(settings: Settings, **more: str) -> Result:
    environment = {
        "PIXBAL_HOME": str(settings.home), "PIXBAL_LEASE_S": "1", "PIXBAL_WORKER_ID": "mine", **more
    }  # fmt: skip
    return CliRunner().invoke(main, ["healthcheck", "--worker"], env=environment)


def test_healthcheck_asks_for_the_worker_of_its_own_environment(tmp_path: Path) -> None:
    """Seen failing as it was: with one heartbeat file the other worker kept it green."""
    settings = make_settings(tmp_path)
    result = check_worker(settings)
    assert result.exit_code == 1, "a home where no worker ever ran"
    assert "does not run" in result.output
    assert "pixbal worker" in result.output
    with make_store(tmp_path) as store:
        mine, other = started(store, "mine", "another")
        stop = threading.Event()

        def beat(*keepers: Keeper) -> None:
            while not stop.wait(0.05):
                for keeper in keepers:
                    keeper.beat()

        for beating, code in ((other, 1), (mine, 0)):
            stop.clear()
            thread = threading.Thread(target=beat, args=(beating,))
            thread.start()
            try:
                result = check_worker(settings)
            finally:
                stop.set()
                thread.join()
            assert result.exit_code == code, result.output
        assert check_worker(settings, PIXBAL_WORKER_ID="third").exit_code == 1


# Behind whom a round waits


ALIVE = (WorkerSign("w", "w@here", True, 0.0),)


def test_a_queued_round_says_behind_whom_it_waits(tmp_path: Path) -> None:
    """Seen failing as it was: "waiting for the worker", also where none ran."""
    with make_store(tmp_path, make_project(4), make_project(5, title="Facades")) as store:
        store.start_round(4, 1, "labels", "w4")

        def said() -> str:
            row = store.round(4, 1)
            assert row is not None
            return waits_for(store, row, ALIVE)

        row = store.round(4, 1)
        assert row is not None
        assert "waiting, but no worker runs: start one with `pixbal worker`" in waits_for(
            store, row, ()
        )
        assert said() == "waiting for the worker, which takes it up in a moment"
        store.start_round(5, 3, "labels", "w5")
        store.update_round(5, 3, state="stage2")
        assert said() == (
            "waiting for the worker, which is at round 3 of project 5, 'Facades' "
            "(training, stage 2)"
        )
        store.update_round(5, 3, state="queued", started_at=row.started_at.replace(year=2001))
        assert said() == "waiting for the worker, behind the round of project 5, 'Facades'"
        assert waits_for(store, Round(4, 1, "labels", "w", "stage1"), ()) == ""
