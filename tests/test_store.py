"""ml_backend.store: the same laws on SQLite and PostgreSQL; nothing lost, nothing twice."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from backend_helpers import (
    IMAGE_ID,
    at,
    make_image,
    make_label,
    make_project,
    make_query,
    make_store,
    open_queries,
)
from sqlalchemy import inspect, text
from sqlalchemy.event import listen

from ml_backend.errors import Conflict, NotFound, StoreError
from ml_backend.store import (
    Event,
    Image,
    Label,
    Lease,
    Project,
    Query,
    Round,
    Store,
    VersionRow,
    schema,
)
from ml_backend.store.engine import VERSION_TABLE, make_engine

POSTGRES = "PIXBAL_TEST_POSTGRES_URL"


def _postgres_url() -> str:
    url = os.environ.get(POSTGRES)
    if not url:
        pytest.skip(f"set {POSTGRES} to an empty PostgreSQL database to run this")
    engine = make_engine(url)
    with engine.begin() as connection:
        schema.metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
    engine.dispose()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/pixbal.db"
    request.getfixturevalue("postgres")
    return _postgres_url()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        opened.add_project(make_project())
        yield opened


@pytest.fixture
def asked(store: Store) -> Store:
    """Three open questions: task 1 asks region 0 as query 1, and so on."""
    open_queries(store, 4, 3)
    return store


def statuses(store: Store) -> list[str]:
    return [query.status for query in store.queries(4)]


# Opening


def test_migrations_make_the_tables_of_the_schema(url: str) -> None:
    Store.open(url).close()
    engine = make_engine(url)
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
        heads = context.get_current_heads()
    engine.dispose()
    assert heads == ("0003",)


@pytest.mark.parametrize(
    ("row", "table"),
    [
        (Project, schema.project),
        (Image, schema.image),
        (Query, schema.query),
        (Event, schema.event),
        (Label, schema.label),
        (Round, schema.round_),
        (VersionRow, schema.version),
        (Lease, schema.lease),
    ],
)
def test_rows_and_tables_have_the_same_order(row: type, table: object) -> None:
    assert [f.name for f in fields(row)] == [c.name for c in table.columns]  # type: ignore[attr-defined]


def test_opening_again_keeps_what_is_there(url: str) -> None:
    with Store.open(url) as first:
        first.add_project(make_project())
    with Store.open(url) as second:
        assert [p.id for p in second.projects()] == [4]


def test_newer_database_is_refused(url: str) -> None:
    Store.open(url).close()
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match=r"written by a newer release .revision 9999") as caught:
        Store.open(url)
    assert "restore the backup" in caught.value.hint


def test_migration_that_fails_leaves_nothing_behind(url: str) -> None:
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE pixbal_version (x INTEGER)"))  # the last one made
    with pytest.raises(StoreError, match="pixbal_version"):
        Store.open(url)
    with engine.begin() as connection:
        left = {name for name in inspect(connection).get_table_names() if "pixbal" in name}
        connection.execute(text("DROP TABLE pixbal_version"))
    engine.dispose()
    assert left == {"pixbal_version"}
    Store.open(url).close()


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is not a database, it is a letter" * 50)
    with pytest.raises(StoreError, match="cannot be opened: DatabaseError"):
        Store.open(f"sqlite:///{tmp_path}/x.db")


@pytest.mark.parametrize("url", ["sqlite://", "mysql://host/db", "nonsense"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        Store.open(url)
    assert "PIXBAL_DATABASE_URL" in caught.value.hint


def test_sqlite_is_set_up_to_survive_a_power_cut(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/x.db")
    with engine.connect() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    engine.dispose()
    assert pragma == {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 30000,
        "foreign_keys": 1,
    }


def test_two_processes_may_open_a_fresh_database_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/pixbal.db"
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: Store.open(url), range(8)))
    for store in stores:
        assert store.projects() == []
        store.close()


# Projects, images, versions


def test_project_round_trip_and_changes(store: Store) -> None:
    project = make_project(9, title="náme \x01 <b>", train_config={"a": [1, None]})
    store.add_project(project)
    assert store.project(9) == project
    store.update_project(9, model_version="r3", budget_clicks=7.5)
    assert store.project(9) == replace(project, model_version="r3", budget_clicks=7.5)
    assert [p.id for p in store.projects()] == [4, 9]
    assert store.project(5) is None


def test_project_errors_are_named(store: Store) -> None:
    with pytest.raises(Conflict, match="recorded already"):
        store.add_project(make_project())
    with pytest.raises(NotFound, match="Project 77"):
        store.update_project(77, title="x")
    with pytest.raises(StoreError, match="no changeable field id, titel"):
        store.update_project(4, titel="x", id=3)


def test_images_are_kept_once_and_unreadable_ones_are_replaced(store: Store) -> None:
    ready, bad = make_image(), make_image(image_id="b" * 24, status="unreadable", reason="torn")
    assert store.add_images([ready, bad]) == 2
    assert store.add_images([replace(ready, source="other.png")]) == 0
    mended = replace(bad, status="ready", reason=None)
    assert store.add_images([mended]) == 1
    assert store.images(4) == [ready, mended]
    assert store.images(4, status="unreadable") == []
    assert store.image(4, IMAGE_ID) == ready
    assert store.image(4, "c" * 24) is None


def test_image_may_be_in_the_pool_and_held_out(store: Store) -> None:
    pool, heldout = make_image(), make_image(split="heldout", mask_path="m.png")
    assert store.add_images([pool, heldout]) == 2
    assert store.images(4, split="heldout") == [heldout]
    assert store.image(4, IMAGE_ID) == pool


def test_image_is_found_by_task_and_by_source(store: Store) -> None:
    image = make_image(ls_task_id=17)
    store.add_images([image])
    assert store.image_by_task(4, 17) == image
    assert store.image_by_source(4, image.source) == image
    assert store.image_by_task(4, 18) is None
    store.update_image(4, IMAGE_ID, ls_task_id=18)
    assert store.image_by_task(4, 18) == replace(image, ls_task_id=18)
    with pytest.raises(NotFound):
        store.update_image(4, "f" * 24, ls_task_id=1)


def test_versions_are_recorded_once(store: Store) -> None:
    first = VersionRow(4, "r1", 1, "versions/r1", {"miou": 0.5, "iou": [0.5, None]}, "h", at(0))
    assert store.add_version(first) is True
    assert store.add_version(replace(first, path="elsewhere")) is False
    second = replace(first, name="r2", round=2, metrics={"miou": float("nan")})
    store.add_version(second)
    assert store.version(4, "r1") == first
    assert [v.name for v in store.versions(4)] == ["r1", "r2"]
    assert store.version(4, "r3") is None


# Queries


def test_a_region_is_planned_once(store: Store) -> None:
    rows = [make_query(region_index=i, preticks=("Sky",)) for i in range(3)]
    assert store.plan_queries(rows) == 3
    again = [replace(rows[0], score=9.0), make_query(region_index=7)]
    assert store.plan_queries(again) == 1
    stored = store.queries(4)
    assert [q.region_index for q in stored] == [0, 1, 2, 7]
    assert stored[0] == replace(rows[0], id=stored[0].id)
    assert store.plan_queries([]) == 0


def test_queries_are_filtered_and_counted(asked: Store) -> None:
    asked.plan_queries([make_query(region_index=8, round=2)])
    assert [q.region_index for q in asked.queries(4, status="open")] == [0, 1, 2]
    assert [q.region_index for q in asked.queries(4, round=2)] == [8]
    assert asked.queries(4, status="open", round=2) == []
    assert asked.count_queries(4) == {"open": 3, "planned": 1}
    assert asked.queries(5) == []


def test_query_is_found_by_its_task_and_region(asked: Store) -> None:
    query = asked.query_by_task(4, 2)
    assert query is not None
    assert (query.region_index, query.status, query.task_id) == (1, "open", 2)
    assert asked.query_by_task(5, 2) is None
    assert set(asked.queries_by_task(4, range(5000))) == {1, 2, 3}
    assert asked.query_by_region(4, IMAGE_ID, 1) == query
    assert asked.query_by_region(4, IMAGE_ID, 11) is None


def test_scores_are_renewed(asked: Store) -> None:
    query = asked.queries(4)[0]
    renewed = replace(
        query, score=-2.5, expected_clicks=3.0, preticks=("Car",), model_version="r1", round=9
    )
    asked.update_query_scores([renewed])
    assert asked.queries(4)[0] == replace(renewed, round=1)  # the round is history, not a score


def test_status_can_be_set_for_many(asked: Store) -> None:
    ids = [q.id for q in asked.queries(4)]
    asked.set_query_status(ids[:2], "pushing")
    asked.set_query_status([], "withdrawn")
    assert statuses(asked) == ["pushing", "pushing", "open"]


# Labels


def test_label_round_trip_and_status(asked: Store) -> None:
    label = make_label(classes=("Sky", "Röad \x07"), clicks=2)
    assert asked.apply_label(label) is True
    assert asked.labels(4) == [label]
    assert asked.effective_labels(4) == {1: label}
    assert statuses(asked) == ["answered", "open", "open"]
    assert asked.clicks(4) == 2


CREATED = make_label(updated_at=at(1), seen_at=at(10))
UPDATED = make_label(updated_at=at(2), seen_at=at(11), classes=("Sky",))


@pytest.mark.parametrize("order", list(itertools.permutations(["create", "update", "delete"])))
@pytest.mark.parametrize("times", [1, 100])
def test_every_order_of_messages_ends_as_deleted(
    asked: Store, order: tuple[str, ...], times: int
) -> None:
    if times > 1 and "postgresql" in str(asked._engine.url) and order[0] != "delete":
        pytest.skip("one order is enough for the slower database")
    for what in order:
        for _ in range(times):
            if what == "delete":
                asked.delete_labels(4, [1], at(12))
            else:
                asked.apply_label(CREATED if what == "create" else UPDATED)
    assert asked.labels(4) == []
    assert statuses(asked) == ["open", "open", "open"]
    assert asked.clicks(4) == 0
    assert len(asked.labels(4, deleted=True)) == 1


@pytest.mark.parametrize("order", [(CREATED, UPDATED), (UPDATED, CREATED), (UPDATED, UPDATED)])
def test_newest_word_wins(asked: Store, order: tuple[Label, Label]) -> None:
    first, second = order
    assert asked.apply_label(first) is True
    assert asked.apply_label(second) is (second.updated_at > first.updated_at)
    assert asked.labels(4) == [UPDATED]


def test_times_compare_as_times_not_as_text(asked: Store) -> None:
    from datetime import timedelta, timezone

    east = timezone(timedelta(hours=5))
    # One second later, though its local clock shows another hour.
    later = replace(UPDATED, updated_at=(at(1) + timedelta(seconds=1)).astimezone(east))
    asked.apply_label(CREATED)
    assert asked.apply_label(later) is True
    assert asked.labels(4)[0].updated_at == at(2)


def test_time_without_zone_is_refused(asked: Store) -> None:
    with pytest.raises(Exception, match="needs a time zone"):
        asked.apply_label(make_label(updated_at=at(0).replace(tzinfo=None)))
    assert asked.labels(4) == []


def test_duplicates_change_nothing(asked: Store) -> None:
    assert [asked.apply_label(CREATED) for _ in range(100)] == [True] + [False] * 99


def test_tombstone_is_final_for_messages_even_newer_ones(asked: Store) -> None:
    asked.delete_labels(4, [1], at(5))
    assert asked.apply_label(replace(UPDATED, updated_at=at(99), seen_at=at(99))) is False
    assert asked.labels(4) == []


def test_a_look_at_the_server_revives_only_after_the_deletion_was_noted(asked: Store) -> None:
    asked.apply_label(CREATED)
    assert asked.delete_labels(4, [1], at(20)) == 1
    assert asked.apply_label(replace(CREATED, seen_at=at(19)), on_server=True) is False
    assert asked.apply_label(replace(CREATED, seen_at=at(21)), on_server=True) is True
    assert statuses(asked)[0] == "answered"


def test_deleting_counts_live_labels_once(asked: Store) -> None:
    asked.apply_label(CREATED)
    assert asked.delete_labels(4, [1, 1, 2], at(20)) == 1
    assert asked.delete_labels(4, [1, 2], at(21)) == 0
    assert asked.delete_labels(4, [], at(21)) == 0


def test_skip_then_answer_then_its_deletion(asked: Store) -> None:
    asked.apply_label(make_label(1, kind="skipped", classes=(), clicks=0))
    assert statuses(asked)[0] == "skipped"
    asked.apply_label(make_label(2, updated_at=at(5)))
    assert statuses(asked)[0] == "answered"
    asked.delete_labels(4, [2], at(6))
    assert statuses(asked)[0] == "skipped"
    asked.delete_labels(4, [1], at(7))
    assert statuses(asked)[0] == "open"


def test_same_annotation_skipped_then_answered(asked: Store) -> None:
    asked.apply_label(make_label(kind="skipped", classes=(), clicks=0))
    asked.apply_label(make_label(updated_at=at(1)))
    assert statuses(asked)[0] == "answered"
    asked.apply_label(make_label(kind="skipped", classes=(), clicks=0, updated_at=at(2)))
    assert statuses(asked)[0] == "skipped"


def test_of_two_annotators_the_newest_answer_counts(asked: Store) -> None:
    old = make_label(1, annotator="1", updated_at=at(1))
    new = make_label(2, annotator="2", updated_at=at(2), kind="unsure", classes=())
    skip = make_label(3, annotator="3", updated_at=at(3), kind="skipped", classes=(), clicks=0)
    for label in (skip, new, old):
        asked.apply_label(label)
    assert asked.effective_labels(4) == {1: new}
    asked.delete_labels(4, [2], at(9))
    assert asked.effective_labels(4) == {1: old}
    asked.delete_labels(4, [1], at(9))
    assert asked.effective_labels(4) == {1: skip}
    assert statuses(asked)[0] == "skipped"


def test_label_of_a_task_that_is_not_known_yet_is_joined_later(store: Store) -> None:
    store.plan_queries([make_query()])
    early = make_label(query_id=None, task_id=50)
    assert store.apply_label(early) is True
    assert store.effective_labels(4) == {}
    query_id = store.queries(4)[0].id
    store.set_task_ids({query_id: 50})
    assert store.effective_labels(4) == {query_id: replace(early, query_id=query_id)}
    assert statuses(store) == ["answered"]


def test_same_words_join_a_label_to_its_query(asked: Store) -> None:
    early = make_label(query_id=None)
    asked.apply_label(early)
    assert asked.apply_label(early) is False
    assert asked.apply_label(replace(early, query_id=1, updated_at=at(-1))) is False
    assert asked.apply_label(replace(early, query_id=1)) is True
    assert asked.apply_label(replace(early, query_id=1)) is False
    assert statuses(asked)[0] == "answered"


def test_label_is_not_joined_across_projects(store: Store) -> None:
    store.add_project(make_project(5))
    store.apply_label(make_label(project_id=5, query_id=None, task_id=50))
    store.plan_queries([make_query()])
    store.set_task_ids({store.queries(4)[0].id: 50})
    assert statuses(store) == ["open"]


def test_noting_a_task_again_does_not_reopen_an_answered_query(asked: Store) -> None:
    asked.apply_label(CREATED)
    asked.set_task_ids({1: 1, 2: 2})
    assert statuses(asked) == ["answered", "open", "open"]


def test_task_id_that_comes_again_is_taken_from_the_question_of_a_task_that_is_gone(
    asked: Store,
) -> None:
    """SQLite gave it to the next task before any walk or message. Seen failing: UNIQUE violated."""
    early = make_label(task_id=2, query_id=2)  # came with the old question's id under that task
    asked.apply_label(early)
    asked.plan_queries([make_query(region_index=7)])
    asked.set_task_ids({4: 2})
    assert [q.task_id for q in asked.queries(4)] == [1, None, 3, 2]
    assert statuses(asked) == ["open", "withdrawn", "open", "answered"]
    assert asked.effective_labels(4) == {4: replace(early, query_id=4)}


def test_task_ids_may_change_places(asked: Store) -> None:
    """Seen failing: UNIQUE violated by the first of them."""
    label = make_label(task_id=1, query_id=1)
    asked.apply_label(label)
    asked.set_task_ids({1: 2, 2: 3, 3: 1})
    assert [q.task_id for q in asked.queries(4)] == [2, 3, 1]
    assert statuses(asked) == ["open", "open", "answered"]
    assert asked.effective_labels(4) == {3: replace(label, query_id=3)}


def test_task_ids_are_those_of_one_project(asked: Store) -> None:
    asked.add_project(make_project(5))
    asked.plan_queries([make_query(5)])
    asked.set_task_ids({asked.queries(5)[0].id: 1})
    assert [q.task_id for q in asked.queries(4)] == [1, 2, 3]


def test_withdrawn_query_has_no_task(asked: Store) -> None:
    """Seen failing: withdrawn with an image, a question kept the id that a later task got."""
    asked.set_query_status([2], "withdrawn")
    assert [q.task_id for q in asked.queries(4)] == [1, None, 3]


def test_task_that_is_gone_takes_its_labels_and_withdraws_its_query(asked: Store) -> None:
    asked.apply_label(CREATED)
    assert asked.delete_task_labels(4, [1, 77], at(20)) == 1
    assert statuses(asked) == ["withdrawn", "open", "open"]
    assert asked.labels(4) == []
    late = make_label(2, updated_at=at(30))
    asked.apply_label(late)
    assert statuses(asked)[0] == "withdrawn"
    assert asked.effective_labels(4) == {}


def test_label_needs_a_query_that_exists(asked: Store) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        asked.apply_label(make_label(query_id=999))
    assert asked.labels(4) == []


# Events


def test_event_is_stored_once_without_secrets(store: Store) -> None:
    payload = {"action": "X", "annotation": {"id": 1}, "project": {"id": 4, "token": "hunter2"}}
    event, new = store.record_event(4, "X", payload)
    assert new is True
    again, repeated = store.record_event(4, "X", {**payload, "project": {"id": 4, "n": 1}})
    assert (again, repeated) == (event, False)
    assert "hunter2" not in str(store.pending_events())
    assert store.count_events() == 1


def test_events_wait_in_order_until_finished(store: Store) -> None:
    ids = [store.record_event(4, "A" if i % 2 else "B", {"n": i})[0].id for i in range(5)]
    assert [e.id for e in store.pending_events(limit=3)] == ids[:3]
    assert [e.payload["n"] for e in store.pending_events(actions=["A"])] == [1, 3]
    assert [e.payload["n"] for e in store.pending_events(without=["A"])] == [0, 2, 4]
    store.finish_event(ids[0])
    store.finish_event(ids[1], error="why")
    assert [e.id for e in store.pending_events()] == ids[2:]
    assert [(e.id, e.error) for e in store.failed_events()] == [(ids[1], "why")]
    assert store.failed_events(5) == []
    with pytest.raises(NotFound):
        store.finish_event(12345)


def test_start_training_is_never_a_duplicate(store: Store) -> None:
    payload = {"action": "START_TRAINING", "project": {"id": 4}}
    assert [store.record_event(4, "START_TRAINING", payload)[1] for _ in range(3)] == [True] * 3


def test_event_survives_without_closing(tmp_path: Path) -> None:
    """A process that dies right after recording leaves the event behind."""
    context = multiprocessing.get_context("spawn")
    url = f"sqlite:///{tmp_path}/pixbal.db"
    process = context.Process(target=_record_and_die, args=(url,))
    process.start()
    process.join(30)
    assert process.exitcode == 9
    with Store.open(url) as store:
        assert [e.action for e in store.pending_events()] == ["X"]


def _record_and_die(url: str) -> None:
    Store.open(url).record_event(None, "X", {})
    os._exit(9)


def _record_many(url: str, worker: int, count: int) -> None:
    store = Store.open(url)

    def record(thread: int) -> None:
        for i in range(count):
            store.record_event(4, "X", {"worker": worker, "thread": thread, "i": i})

    threads = [threading.Thread(target=record, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()


def test_events_of_threads_and_processes_are_all_kept(url: str) -> None:
    with Store.open(url) as store:
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_record_many, args=(url, n, 20)) for n in range(2)]
        for process in processes:
            process.start()
        _record_many(url, 2, 20)
        for process in processes:
            process.join(60)
        assert [p.exitcode for p in processes] == [0, 0]
        found = {(e.payload["worker"], e.payload["thread"], e.payload["i"])
                 for e in store.pending_events(limit=1000)}  # fmt: skip
    assert found == set(itertools.product(range(3), range(4), range(20)))


def test_labels_and_deletions_at_once_end_in_a_state_that_fits(url: str) -> None:
    with Store.open(url) as store:
        store.add_project(make_project())
        open_queries(store, 4, 5)
        queries = store.queries(4)

        def act(n: int) -> None:
            query = queries[n % 5]
            label = make_label(n, query_id=query.id, task_id=query.task_id, updated_at=at(n))
            store.apply_label(label)
            if n % 2:
                store.delete_labels(4, [n], at(n + 1))

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(act, range(1, 61)))
        live = {label.query_id for label in store.labels(4)}
        assert len(store.labels(4)) == 30
        assert {q.id for q in store.queries(4, status="answered")} == live
        assert {q.id for q in store.queries(4, status="open")} == {q.id for q in queries} - live


def test_a_writer_waits_for_another_one(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    other = sqlite3.connect(tmp_path / "pixbal.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, other.execute, ["COMMIT"])
    timer.start()
    assert store.record_event(4, "X", {})[1] is True
    timer.join()
    other.close()
    store.close()


# Rounds


def test_round_is_recorded_once_and_changes(store: Store) -> None:
    assert store.start_round(4, 1, "labels", "w1") is True
    assert store.start_round(4, 1, "request", "w2") is False
    store.update_round(4, 1, state="stage1", stage="stage1", epoch=2, loss=0.5, finished_at=at(3))
    found = store.round(4, 1)
    assert found is not None
    assert (found.trigger, found.workflow_id, found.state) == ("labels", "w1", "stage1")
    assert (found.epoch, found.loss, found.finished_at, found.attempts) == (2, 0.5, at(3), 1)
    assert store.rounds(4) == [found]
    assert store.round(4, 2) is None
    with pytest.raises(NotFound, match="no round 2"):
        store.update_round(4, 2, state="done")
    with pytest.raises(StoreError, match="no changeable field epochs"):
        store.update_round(4, 1, epochs=3)


def test_rounds_race_has_one_winner(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(lambda n: store.start_round(4, 1, "x", f"w{n}"), range(8)))
    assert sum(wins) == 1


# Size


def test_reads_and_writes_find_their_rows_by_indices(tmp_path: Path) -> None:
    """SQLite's own plans: no statement walks all labels or questions of every project."""
    with make_store(tmp_path, open_tasks=3) as store:
        label, statements = make_label(), []

        def note(connection, cursor, statement, parameters, context, executemany):  # type: ignore[no-untyped-def]
            one = parameters[0] if executemany and parameters else parameters
            if statement.split()[0] in ("SELECT", "INSERT", "UPDATE"):
                statements.append((statement, one))

        listen(store._engine, "before_cursor_execute", note)
        assert store.apply_label(label) is True
        assert store.apply_label(replace(label, updated_at=at(9))) is True
        assert store.delete_labels(4, [2], at(9)) == 0
        assert list(store.effective_labels(4)) == [1]
        assert [q.id for q in store.queries(4, status="answered")] == [1]
        assert store.clicks(4) == 1
        assert store.count_queries(4) == {"answered": 1, "open": 2}
        assert store.query_by_task(4, 3) is not None
        assert store.query_by_region(4, IMAGE_ID, 1) is not None
        assert len(store.labels(4)) == 1
    assert len(statements) > 10
    used = ""
    with sqlite3.connect(tmp_path / "pixbal.db") as connection:
        for statement, values in statements:
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
            walks = [row[3] for row in plan if row[3].startswith("SCAN pixbal_")]
            assert not walks, (statement, walks)
            used += str(plan)
    connection.close()
    for index in schema.label.indexes | schema.query.indexes:
        assert str(index.name) in used
