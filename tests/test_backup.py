"""Back-up and restore: the same state comes back, on either database, or nothing changes."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_helpers import (
    at,
    basic_auth,
    make_image,
    make_label,
    make_project,
    make_query,
    make_settings,
    open_queries,
)
from click.testing import CliRunner
from PIL import Image as Picture
from sqlalchemy import text

from ml_backend import backup as backup_module
from ml_backend.app import Services, create_app
from ml_backend.backup import LAST_BACKUP, make_backup
from ml_backend.backup_format import MANIFEST, BackupError, _own_hash, open_archive, read_manifest
from ml_backend.backup_restore import restore_backup
from ml_backend.backup_rows import our_tables, snapshot
from ml_backend.cli import main
from ml_backend.errors import Conflict
from ml_backend.locks import file_lock, worker_lock
from ml_backend.media import picture_urls
from ml_backend.settings import Settings
from ml_backend.store import Store, VersionRow, schema
from ml_backend.store.engine import VERSION_TABLE, make_engine
from training.files import file_sha256
from training.images import content_id
from training.regions import RegionMap
from training.snapshot import HeldoutItem, Snapshot, SnapshotItem, write_snapshot

POSTGRES = "PIXBAL_TEST_POSTGRES_URL"


def database(kind: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a database of this kind, empty."""
    if kind == "sqlite":
        return {}
    request.getfixturevalue("postgres")
    url = os.environ.get(POSTGRES)
    if not url:
        pytest.skip("PostgreSQL is not installed")
    engine = make_engine(url)
    with engine.begin() as connection:
        schema.metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
    engine.dispose()
    return {"PIXBAL_DATABASE_URL": url}


def populate(settings: Settings) -> None:
    """Projects with images, questions, labels, events, rounds, a snapshot and a version."""
    home = settings.home
    for folder in ("images/ab", "regions/ab", "versions/p4/r1", "versions/p4/r2.partial",
                   "scores/p4", "media", "features", "masks"):  # fmt: skip
        (home / folder).mkdir(parents=True)
    picture = home / "images" / "ab" / "abc.png"
    Picture.new("RGB", (64, 48), (9, 90, 200)).save(picture)
    Picture.new("L", (64, 48), 1).save(home / "masks" / "m.png")
    image_id = content_id(picture.read_bytes())
    ids = np.repeat(np.repeat(np.arange(12, dtype=np.int32).reshape(3, 4), 16, 0), 16, 1)
    regions = RegionMap(ids, 12, "grid", {})
    regions.save(home / "regions" / "ab" / "abc.npz")
    item = SnapshotItem(image_id, picture, home / "regions/ab/abc.npz", {0: [1], 3: [0, 2]})
    (home / "snapshots" / "p4").mkdir(parents=True)
    write_snapshot(
        home / "snapshots" / "p4" / "r1", classes=("Road", "Sky", "Car"), undefined=True,
        items=[item], heldout=[HeldoutItem("h", picture, home / "masks" / "m.png")],
    )  # fmt: skip
    for name in ("versions/p4/r1/model.safetensors", "versions/p4/r2.partial/x", "scores/p4/r1.npz",
                 "media/cached.jpg", "features/cached.npz", "images/.half.tmp"):  # fmt: skip
        (home / name).write_bytes(random.Random(name).randbytes(5000))
    with Store.open(settings.database_url) as store:
        store.add_project(make_project(4, title="Straße 😀 'x'"))
        store.add_project(make_project(5, template="region_dominant"))
        store.add_images([
            make_image(4, image_id, path=str(picture), regions_hash=regions.hash,
                       regions_path=str(home / "regions/ab/abc.npz")),
            make_image(4, "elsewhere", path="/mnt/photos/x.png", regions_path="",
                       status="unreadable", reason="no such file"),
        ])  # fmt: skip
        store.plan_queries([make_query(4, i, image_id=image_id, regions_hash=regions.hash)
                            for i in range(3)])  # fmt: skip
        planned = store.queries(4)
        store.set_task_ids({q.id: q.region_index + 1 for q in planned})
        store.apply_label(make_label(1, task_id=1, query_id=planned[0].id))
        store.record_event(4, "ANNOTATION_CREATED", {"action": "x", "text": "\x00é", "n": 1e300})
        store.start_round(4, 1, "labels", "p4-r1-a1")
        store.update_round(4, 1, state="done", finished_at=at(9), loss=0.25)
        store.start_round(4, 2, "labels", "p4-r2-a1")
        store.add_version(VersionRow(4, "r1", 1, str(home / "versions" / "p4" / "r1"),
                                     {"miou": 0.5}, "w", at(5)))  # fmt: skip
        store.update_project(4, model_version="r1")


@pytest.fixture
def source(tmp_path: Path) -> Settings:
    settings = make_settings(tmp_path / "source")
    populate(settings)
    return settings


@pytest.fixture
def archive(source: Settings, tmp_path: Path) -> Path:
    return make_backup(source, tmp_path / "backup.zip").path


def rows_of(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Every row, with paths below the home as "HOME", and without the names of workflows."""
    store = Store.open(settings.database_url)
    with snapshot(store._engine) as connection:
        found = {}
        for table in our_tables(connection):
            typed = schema.metadata.tables[table.name]
            rows = connection.execute(typed.select().order_by(*typed.primary_key)).mappings()
            found[table.name] = [_portable(dict(row), settings.home) for row in rows]
    store.close()
    return found


def _portable(row: dict[str, Any], home: Path) -> dict[str, Any]:
    row.pop("workflow_id", None)
    return {
        k: v.replace(str(home), "HOME") if isinstance(v, str) else v for k, v in row.items()
    }  # fmt: skip


def files_of(home: Path) -> dict[str, str]:
    """Hashes of what cannot be made again."""
    folders = ("images", "masks", "regions", "snapshots", "versions", "scores")
    return {
        path.relative_to(home).as_posix(): file_sha256(path)
        for folder in folders
        for path in (home / folder).rglob("*")
        if path.is_file() and ".partial" not in str(path) and not path.name.startswith(".")
    }


@pytest.mark.parametrize(
    ("there", "here"),
    [("sqlite", "sqlite"), ("postgresql", "postgresql"), ("sqlite", "postgresql"),
     ("postgresql", "sqlite")],
)  # fmt: skip
def test_everything_comes_back(
    there: str, here: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Rows equal, files equal by hash, the service answers, and new keys count on.

    Seen failing with `after_load` left out (PostgreSQL: a key used twice) and with paths dumped
    as they are (the picture is not found).
    """
    old = make_settings(tmp_path / "old", **database(there, request))
    populate(old)
    report = make_backup(old, tmp_path / "b.zip")
    assert report.missing == ()
    rows, files = rows_of(old), files_of(old.home)
    new = make_settings(tmp_path / "new", **database(here, request))
    shutil.rmtree(old.home)
    found = restore_backup(new, tmp_path / "b.zip")
    assert (found.rows, found.files, found.set_aside) == (report.rows, report.files, None)
    assert rows_of(new) == rows
    assert files_of(new.home) == files
    assert not (new.home / "media").exists()
    assert Snapshot.load(new.home / "snapshots" / "p4" / "r1").label_count == 2
    check_service(new)


def check_service(settings: Settings) -> None:
    """It answers with the restored version and pictures, and new rows get new keys."""
    with Store.open(settings.database_url) as store:
        client = create_app(Services(settings, store)).test_client()
        answer = client.post("/setup", json={"project": "4.1"}, headers=basic_auth())
        assert answer.get_json() == {"model_version": "r1"}
        query = store.queries(4)[0]
        path = picture_urls(settings, query)[0].removeprefix(settings.public_url)
        assert client.get(path).status_code == 200
        known = {event.id for event in store.pending_events()}
        event, new = store.record_event(4, "TASKS_DELETED", {"action": "TASKS_DELETED"})
        assert new
        assert event.id not in known
        store.plan_queries([make_query(4, 9, image_id=query.image_id)])
        unfinished, done = store.round(4, 2), store.round(4, 1)
        # The durable engine may know the old name as ended.
        assert unfinished is not None
        assert "-restored-" in unfinished.workflow_id
        assert done is not None
        assert done.workflow_id == "p4-r1-a1"


def test_what_is_not_saved(source: Settings, tmp_path: Path) -> None:
    """No secret, no cache, nothing half written; readable by its owner only."""
    (source.home / "secrets.env").write_text("PIXBAL_MEDIA_KEY=very-secret-value\n")
    found = make_backup(source, tmp_path / "b.zip")
    assert found.path.stat().st_mode & 0o077 == 0
    raw = found.path.read_bytes()
    assert b"very-secret-value" not in raw
    for secret in source.secret_values():
        assert secret.encode() not in raw
    with open_archive(found.path) as archive:
        names = set(read_manifest(archive).files)
    assert not {n for n in names if n.startswith(("media", "features")) or "partial" in n}
    assert "images/.half.tmp" not in names
    assert json.loads((source.home / LAST_BACKUP).read_text())["path"] == str(found.path)


def test_an_existing_file_is_kept_without_force(source: Settings, tmp_path: Path) -> None:
    target = tmp_path / "b.zip"
    target.write_text("precious")
    with pytest.raises(BackupError, match="exists"):
        make_backup(source, target)
    assert target.read_text() == "precious"
    make_backup(source, target, force=True)
    assert zipfile.is_zipfile(target)


def test_a_failed_backup_leaves_the_old_one(
    source: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen failing with the archive written in place instead of renamed."""
    target = make_backup(source, tmp_path / "b.zip").path
    before = target.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup_module, "copy_hashed", full)
    with pytest.raises(BackupError, match="No space left"):
        make_backup(source, target, force=True)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_files_that_are_gone_are_named(source: Settings, tmp_path: Path) -> None:
    next((source.home / "regions").rglob("*.npz")).unlink()
    assert make_backup(source, tmp_path / "b.zip").missing == ("regions/ab/abc.npz",)


def everything(settings: Settings) -> tuple[Any, Any]:
    return rows_of(settings), files_of(settings.home)


def test_a_damaged_archive_changes_nothing(source: Settings, archive: Path, tmp_path: Path) -> None:
    """Flips and cuts anywhere, with --force: refused, or restored equal (a flip in padding)."""
    rng = random.Random(3)
    data = archive.read_bytes()
    target = make_settings(tmp_path / "target")
    with Store.open(target.database_url) as store:
        store.add_project(make_project(77))
    (target.home / "images").mkdir()
    (target.home / "images" / "mine.png").write_bytes(b"mine")
    before = everything(target)
    wanted = everything(source)
    refused = 0
    damaged = tmp_path / "damaged.zip"
    for trial in range(60):
        broken = bytearray(data)
        if trial % 3:
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        else:
            del broken[rng.randrange(len(broken)) :]
        damaged.write_bytes(broken)
        try:
            restore_backup(target, damaged, force=True)
        except BackupError:
            refused += 1
            assert everything(target) == before
            assert not [p for p in target.home.iterdir() if "restore" in p.name]
        else:
            assert everything(target) == wanted
            shutil.rmtree(target.home)
            with Store.open(target.database_url) as store:
                store.add_project(make_project(77))
            (target.home / "images").mkdir()
            (target.home / "images" / "mine.png").write_bytes(b"mine")
    assert refused > 40


@pytest.mark.parametrize("kind", ["blobs/", "database/"])
def test_an_exchanged_member_is_refused(archive: Path, tmp_path: Path, kind: str) -> None:
    """A whole zip with other content. Seen failing with the hashes of `verify` not compared."""
    target = make_settings(tmp_path / "t" / "target")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(other, "w") as new:
        chosen = next(name for name in old.namelist() if name.startswith(kind))
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[::-1] if name == chosen else data)
    with pytest.raises(BackupError, match="has changed"):
        restore_backup(target, other)
    assert not target.home.exists()


def rewritten(archive: Path, target: Path, change: Any) -> Path:
    """The archive with another manifest, its own hash made right again."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name != MANIFEST:
                new.writestr(name, old.read(name))
        body = json.loads(old.read(MANIFEST))
        del body["hash"]
        change(body)
        new.writestr(MANIFEST, json.dumps({**body, "hash": _own_hash(body)}))
    return target


@pytest.mark.parametrize(
    "name",
    ["../evil", "images/../../evil", "/etc/evil", "secrets.env", "images/a\x00b",
     "images\\..\\evil", "pixbal.db", "images//evil", "./images/evil",
     "images", "locks/evil", "C:/evil", ""],
)  # fmt: skip
def test_no_member_leaves_the_home(archive: Path, tmp_path: Path, name: str) -> None:
    """Seen failing with the check of `_below_home` removed."""

    def evil(body: dict[str, Any]) -> None:
        body["files"][name] = next(iter(body["files"].values()))

    target = make_settings(tmp_path / "t" / "target")
    with pytest.raises(BackupError, match="no place of ours"):
        restore_backup(target, rewritten(archive, tmp_path / "evil.zip", evil), force=True)
    assert not target.home.exists()


def test_a_backup_of_a_newer_release_is_refused(archive: Path, tmp_path: Path) -> None:
    target = make_settings(tmp_path / "target")
    for change, says in (
        ({"revision": "9999"}, r"newer release .revision 9999; this release knows up to \d+"),
        ({"format": 2}, "has format 2, this release reads 1"),
    ):
        path = rewritten(archive, tmp_path / "n.zip", lambda body, c=change: body.update(c))
        with pytest.raises(BackupError, match=says):
            restore_backup(target, path)
        path.unlink()


def test_nothing_is_overwritten_without_force(
    source: Settings, archive: Path, tmp_path: Path
) -> None:
    """With --force the files that were there are set aside."""
    before = everything(source)
    with pytest.raises(BackupError, match="is not empty"):
        restore_backup(source, archive)
    assert everything(source) == before
    other = make_settings(tmp_path / "other")
    with Store.open(other.database_url) as store:
        store.add_project(make_project(9))
    with pytest.raises(BackupError, match="database is not empty"):
        restore_backup(other, archive)
    (source.home / "images" / "new.png").write_bytes(b"later")
    found = restore_backup(source, archive, force=True)
    assert everything(source) == before
    assert found.set_aside is not None
    assert (found.set_aside / "images" / "new.png").read_bytes() == b"later"


def test_a_running_worker_is_in_the_way(source: Settings, archive: Path) -> None:
    """Whatever its id is. Seen failing with only the own id's lock looked at."""
    with (
        file_lock(worker_lock(source.home, "other"), what="a worker", wait=False),
        pytest.raises(Conflict, match="already running"),
    ):
        restore_backup(source, archive, force=True)


@pytest.mark.parametrize("step", ["upgrade", "rename"])
def test_a_restore_cut_short_takes_everything_back(
    source: Settings, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Seen failing with `undone_on_error` doing nothing."""
    target = make_settings(tmp_path / "target")
    populate(target)
    (target.home / "images" / "mine.png").write_bytes(b"mine")
    before = everything(target)
    calls = []
    real = os.rename

    def fails(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(*arguments)

    if step == "rename":
        monkeypatch.setattr("ml_backend.backup_restore.os.rename", fails)
    else:
        monkeypatch.setattr("ml_backend.backup_restore.backup_rows.after_load", _refuse)
    with pytest.raises(BackupError):
        restore_backup(target, archive, force=True)
    monkeypatch.undo()
    assert everything(target) == before
    assert not [p for p in target.home.iterdir() if "restore" in p.name]


def _refuse(_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture(params=["sqlite", "postgresql"])
def busy(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    settings = make_settings(tmp_path / "busy", **database(request.param, request))
    populate(settings)
    return settings


@pytest.mark.parametrize("rounds", [3])
def test_a_backup_while_events_come_is_one_state(
    busy: Settings, tmp_path: Path, rounds: int
) -> None:
    """Each label is written after its event; a backup never has the label without the event.

    Seen failing on PostgreSQL with the isolation of `snapshot` left at READ COMMITTED.
    """
    stop = threading.Event()
    written = []

    def write() -> None:
        with Store.open(busy.database_url) as store:
            open_queries(store, 5, 1)
            while not stop.is_set():
                number = len(written) + 100
                store.record_event(5, "ANNOTATION_CREATED", {"action": "x", "n": number})
                store.apply_label(
                    make_label(number, project_id=5, task_id=number, query_id=None)
                )  # fmt: skip
                written.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = []
        for number in range(rounds):
            while len(written) < 30 * (number + 1):
                stop.wait(0.01)
            make_backup(busy, tmp_path / f"{number}.zip")
            target = make_settings(tmp_path / f"restored{number}")
            restore_backup(target, tmp_path / f"{number}.zip")
            with Store.open(target.database_url) as store:
                events = {e.payload["n"] for e in store.pending_events(10**6) if e.project_id == 5}
                labels = {label.annotation_id for label in store.labels(5)}
            assert labels <= events
            assert len(events - labels) <= 1
            seen.append(len(labels))
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(set(seen))
    assert seen[0] >= 30


def test_the_commands(source: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXBAL_HOME", str(source.home))
    path = str(tmp_path / "b.zip")
    made = CliRunner().invoke(main, ["backup", path])
    assert made.exit_code == 0, made.output
    assert "secrets.env" in made.output
    again = CliRunner().invoke(main, ["backup", path])
    assert again.exit_code == 1
    assert "--force" in again.output
    monkeypatch.setenv("PIXBAL_HOME", str(tmp_path / "fresh"))
    back = CliRunner().invoke(main, ["restore", path])
    assert back.exit_code == 0, back.output
    fresh = replace(source, home=tmp_path / "fresh", database_url=f"sqlite:///{tmp_path}/fresh/pixbal.db")  # fmt: skip # noqa: E501
    assert everything(fresh) == everything(source)
    none = CliRunner().invoke(main, ["restore", str(tmp_path / "none.zip")])
    assert none.exit_code == 1
    assert "There is no backup" in none.output
