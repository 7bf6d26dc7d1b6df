from __future__ import annotations

import json
import os
import re
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import (
    BASIC_PASSWORD,
    WEBHOOK_SECRET,
    make_image,
    make_project,
    make_query,
    make_schema,
    make_settings,
    make_store,
)
from fake_label_studio import FakeLabelStudio
from http_stub import Reply, Stub, replies

from label_config import build
from ml_backend import doctor_project
from ml_backend.connect import TITLE, connect
from ml_backend.doctor import Check, examine
from ml_backend.init import InitRequest, method_warning
from ml_backend.label_studio import WEBHOOK_ACTIONS, LabelStudio
from ml_backend.label_studio_errors import LEGACY_TOKEN_HINT
from ml_backend.liveness import WorkerSign
from ml_backend.processes import BackendServer, LabelStudioServer, free_port
from ml_backend.security import SECRET_HEADER
from ml_backend.settings import Settings
from ml_backend.store import Store
from ml_backend.store.engine import VERSION_TABLE, known_revisions

NOW = 1_000_000.0
HOOK: dict[str, Any] = {
    "url": "http://127.0.0.1:9090/webhook",
    "headers": {SECRET_HEADER: WEBHOOK_SECRET},
    "actions": list(WEBHOOK_ACTIONS),
    "is_active": True,
    "send_payload": True,
    "send_for_all_actions": False,
}
ROW: dict[str, Any] = {
    "url": "http://127.0.0.1:9090",
    "auth_method": "BASIC_AUTH",
    "basic_auth_user": "pixbal",
    "state": "CO",
    "readable_state": "Connected",
    "error_message": None,
    "title": TITLE,
}


def healthy(
    webhooks: Sequence[Any] = (HOOK,),
    ml_backends: Sequence[Any] = (ROW,),
    release: str = "1.23.2",
    **project: Any,
) -> FakeLabelStudio:
    """A Label Studio in which everything is right, but for what is given."""
    ls = FakeLabelStudio()
    ls.server.release = release
    fields = {
        "title": "street",
        "label_config": make_project().label_config,
        "sampling": "Uncertainty sampling",
        "model_version": "r1",
        **project,
    }
    ls.server.add_project(4, fields.pop("label_config"), **fields)
    for table, rows in (("webhooks", webhooks), ("ml_backends", ml_backends)):
        getattr(ls.server.projects[4], table).update(enumerate(rows, 1))
    return ls


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path, make_project(method="slic", model_version="r1")) as found:
        yield found


ALIVE = (WorkerSign("w1", "w1@here", True, 0.5),)


def look(
    settings: Settings, store: Store, ls: FakeLabelStudio, workers: Sequence[WorkerSign] = ALIVE
) -> dict[str, Check]:
    checks = examine(settings, store, ls, now=lambda: NOW, workers=workers)
    names = [re.sub(r"^project \d+: ", "", check.name) for check in checks]
    assert len(set(names)) == len(names)
    return dict(zip(names, checks, strict=True))


def test_everything_right(settings: Settings, store: Store) -> None:
    with Stub(replies(Reply(200, {"status": "UP"}))) as backend:
        settings = replace(settings, backend_url=backend.url)
        ls = healthy(
            webhooks=[{**HOOK, "url": f"{backend.url}/webhook"}],
            ml_backends=[{**ROW, "url": backend.url}],
        )
        checks = look(settings, store, ls)
        assert backend.requests[0].headers["Authorization"].startswith("Basic ")
    assert [c for c in checks.values() if c.ok is not True] == []
    assert set(checks) == {
        *("secrets", "disk space", "worker", "Label Studio", "token", "backend", "superpixels"),
        *("listening", "database"),
        *("project 4", "label config", "webhook", "ML backend", "order of the queue"),
    }


def fault(settings: Settings, store: Store, name: str, **answers: Any) -> Check:
    """The check that these answers of Label Studio should fail; the advice is never empty."""
    check = look(settings, store, healthy(**answers))[name]
    assert check.ok is False
    assert check.advice
    return check


@pytest.mark.parametrize(
    ("hooks", "says"),
    [
        ([], "none to http://127.0.0.1:9090/webhook"),
        ([{**HOOK, "url": "http://other/webhook"}], "none to"),
        ([HOOK, HOOK], "2 to the same address"),
        ([{**HOOK, "headers": {}}], "no header X-Pixbal-Secret"),
        ([{**HOOK, "headers": {SECRET_HEADER: "stolen"}}], "is not PIXBAL_WEBHOOK_SECRET"),
        ([{**HOOK, "actions": ["ANNOTATION_CREATED"]}], "does not send ANNOTATIONS_CREATED"),
        ([{**HOOK, "is_active": False}], "switched off"),
        ([{**HOOK, "send_payload": False}], "no payload"),
    ],
)
def test_webhook(settings: Settings, store: Store, hooks: list[Any], says: str) -> None:
    check = fault(settings, store, "webhook", webhooks=hooks)
    assert says in check.detail
    assert WEBHOOK_SECRET not in repr(check)
    assert "stolen" not in repr(check)


def test_a_webhook_for_all_actions_is_enough(settings: Settings, store: Store) -> None:
    hook = {**HOOK, "actions": [], "send_for_all_actions": True}
    assert look(settings, store, healthy(webhooks=[hook]))["webhook"].ok is True


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "none at http://127.0.0.1:9090"),
        ([{**ROW, "auth_method": "NONE"}], "does not sign in"),
        ([{**ROW, "basic_auth_user": "root"}], "does not sign in"),
        ([ROW, {**ROW, "url": "http://sam:9091"}], "2 backends"),
        ([{**ROW, "state": "DI", "readable_state": "Disconnected"}], "Disconnected"),
    ],
)
def test_ml_backend(settings: Settings, store: Store, rows: list[Any], says: str) -> None:
    assert says in fault(settings, store, "ML backend", ml_backends=rows).detail


def test_the_private_address_trap_is_explained_where_label_studio_fell_into_it(
    settings: Settings, store: Store
) -> None:
    """Only there. Seen failing as it was: every missing webhook was blamed on private addresses."""
    refused = {**ROW, "state": "ER", "error_message": "a reserved network address"}
    advice = fault(settings, store, "ML backend", ml_backends=[refused]).advice
    assert "USE_DEFAULT_BANNED_SUBNETS=false" in advice
    down = {**ROW, "state": "ER", "error_message": "Connection refused"}
    for answers in ({"webhooks": []}, {"ml_backends": []}, {"ml_backends": [down]}):
        name = "webhook" if "webhooks" in answers else "ML backend"
        advice = fault(settings, store, name, **answers).advice
        assert "SUBNETS" not in advice
        assert "pixbal init" in advice


def test_a_backend_that_a_proxy_may_hide_from_label_studio(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = {**ROW, "state": "ER", "error_message": "502 Bad Gateway"}
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.com:3128")
    monkeypatch.delenv("http_proxy", raising=False)
    advice = fault(settings, store, "ML backend", ml_backends=[down]).advice
    assert "HTTP_PROXY is set here" in advice
    assert "start it with 127.0.0.1 in its NO_PROXY" in advice


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"sampling": "Sequential sampling"}, "scores are ignored"),
        ({"model_version": TITLE}, "at random"),
        ({"model_version": "r0"}, "the newest are r1"),
        ({"model_version": None}, "by the scores of nothing"),
    ],
)
def test_order(settings: Settings, store: Store, fields: dict[str, Any], says: str) -> None:
    check = fault(settings, store, "order of the queue", **fields)
    assert says in check.detail


def test_a_project_before_its_first_questions_is_in_order(tmp_path: Path) -> None:
    with make_store(tmp_path, make_project(method="slic")) as store:
        fresh = healthy(model_version="")
        assert look(make_settings(tmp_path), store, fresh)["order of the queue"].ok is True
        pushed = healthy(model_version="r0")
        assert look(make_settings(tmp_path), store, pushed)["order of the queue"].ok is None


def test_label_config(settings: Settings, store: Store) -> None:
    other = build(make_schema("Cat", "Dog"))
    for changed, says in ((other, "classes differ"), ("<View/>", "no longer ours")):
        check = fault(settings, store, "label config", label_config=changed)
        assert says in check.detail
    same = make_project().label_config + "\n"
    edited = look(settings, store, healthy(label_config=same))["label config"]
    assert edited.ok is None


def test_no_server_means_no_look_at_projects(settings: Settings, store: Store) -> None:
    ls = healthy()
    ls.server.go_away()
    checks = look(settings, store, ls)
    advice = "Check that it runs and that LABEL_STUDIO_URL is its address seen from here."
    assert (checks["Label Studio"].ok, checks["Label Studio"].advice) == (False, advice)
    assert "token" not in checks
    assert checks["project 4"].ok is None
    assert "webhook" not in checks


def test_a_bad_token_says_of_which_kind(settings: Settings, store: Store) -> None:
    ls = healthy()
    off = "legacy token authentication has been disabled for this organization"
    ls.server.fail("whoami", 401, body={"detail": off})
    check = look(settings, store, ls)["token"]
    assert check.ok is False
    assert check.detail.startswith("legacy token:")
    assert check.advice == LEGACY_TOKEN_HINT


def test_another_release_is_a_warning(settings: Settings, store: Store) -> None:
    assert look(settings, store, healthy(release="1.24.0"))["Label Studio"].ok is None


def test_a_deleted_project(settings: Settings, store: Store) -> None:
    ls = healthy()
    ls.delete_project(4)
    checks = look(settings, store, ls)
    assert checks["project 4"].ok is False
    assert "webhook" not in checks


def test_no_project_at_all(settings: Settings, tmp_path: Path) -> None:
    empty = Store.open(f"sqlite:///{tmp_path}/empty.db")
    with empty:
        assert look(settings, empty, healthy())["project"].ok is None


LOST = WorkerSign("w2", "w2@there", False, 5.0, ("project:4",))


@pytest.mark.parametrize(
    ("workers", "ok", "says"),
    [
        ((), False, "none runs"),
        ((LOST,), False, "none gives a sign"),
        ((*ALIVE, LOST), True, "alive: w1"),
    ],
)
def test_worker(
    settings: Settings, store: Store, workers: Sequence[WorkerSign], ok: bool, says: str
) -> None:
    checks = look(settings, store, healthy(), workers)
    assert checks["worker"].ok is ok
    assert says in checks["worker"].detail
    if LOST in workers:  # one that lives hides none that is lost
        assert checks["worker:w2"].ok is False
        assert "w2@there was silent for 5 s" in checks["worker:w2"].detail


def test_secrets(settings: Settings, store: Store) -> None:
    bare = replace(settings, webhook_secret="", label_studio_api_key="")
    check = look(bare, store, healthy(webhooks=[]))["secrets"]
    assert check.ok is False
    assert check.detail == "unset: LABEL_STUDIO_API_KEY, PIXBAL_WEBHOOK_SECRET"
    (settings.home / "secrets.env").write_text("")
    (settings.home / "secrets.env").chmod(0o644)
    assert look(settings, store, healthy())["secrets"].advice.startswith("chmod 600")
    (settings.home / "secrets.env").chmod(0o600)
    assert look(settings, store, healthy())["secrets"].ok is True


def test_listening_beyond_this_machine(settings: Settings, store: Store) -> None:
    """Seen failing with the check of the serving settings left out."""
    assert look(settings, store, healthy())["listening"].ok is True
    bare = replace(settings, host="0.0.0.0", webhook_secret="", media_key="")
    check = look(bare, store, healthy(webhooks=[]))["listening"]
    assert check.ok is False
    assert "PIXBAL_WEBHOOK_SECRET is unset and PIXBAL_HOST is 0.0.0.0" in check.detail
    assert look(replace(settings, host="0.0.0.0"), store, healthy())["listening"].ok is True


def test_a_database_that_another_release_took_over(settings: Settings, store: Store) -> None:
    """Seen failing with the revision compared to itself."""
    newest = known_revisions()[-1]
    check = look(settings, store, healthy())["database"]
    assert check.ok is True
    assert f"revision {newest}" in check.detail
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    check = look(settings, store, healthy())["database"]
    assert check.ok is False
    assert f"revision 9999, this release knows up to {newest}" in check.detail


@pytest.mark.parametrize(
    ("days", "ok", "says"),
    [(0.5, True, "0.5 days old"), (8, None, "8.0 days old"), (None, None, "damaged")],
)
def test_age_of_the_backup(
    settings: Settings, store: Store, days: float | None, ok: bool | None, says: str
) -> None:
    """Seen failing with the largest age doubled. Without any backup there is no such check."""
    assert "backup" not in look(settings, store, healthy())
    made = datetime.fromtimestamp(NOW - (days or 0) * 86400, UTC).isoformat()
    record = {"made_at": made, "path": "/b.zip"} if days is not None else ["no record"]
    (settings.home / "last_backup.json").write_text(json.dumps(record))
    check = look(settings, store, healthy())["backup"]
    assert (check.ok, says in check.detail) == (ok, True)


def test_disk_of_a_home_that_is_not_made_yet(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 0, 10**9))
    later = replace(settings, home=settings.home / "not" / "yet")
    check = look(later, store, healthy())["disk space"]
    assert check.ok is False
    assert "1.0 GB free" in check.detail


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(401), "refuses our password"),
        (Reply(200, b"<html>"), "answered 200"),
        (Reply(500, {}), "answered 500"),
        (Reply(hang_up=True), "no answer"),
    ],
)
def test_backend(settings: Settings, store: Store, reply: Reply, says: str) -> None:
    with Stub(replies(reply)) as backend:
        check = look(replace(settings, backend_url=backend.url), store, healthy())["backend"]
    assert check.ok is False
    assert says in check.detail


def test_an_unknown_superpixel_method(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with make_store(folder, make_project(method="voronoi")) as store:
        check = look(settings, store, healthy())["superpixels"]
    assert check.ok is False
    assert "slic" in check.advice


def test_a_lost_seeds_is_said_with_the_command_that_mends_it(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install .` may put opencv-python-headless over the contrib build.

    Seen failing as it was: "ok superpixels: method slic of project 4".
    """
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
    command = "pip install --force-reinstall --no-deps opencv-contrib-python-headless=="
    check = look(settings, store, healthy())["SEEDS"]
    assert check.ok is False
    assert command in check.advice
    (tmp_path / "seeds").mkdir()
    with make_store(tmp_path / "seeds", make_project(method="seeds")) as other:
        check = look(settings, other, healthy())["superpixels"]
    assert check.ok is False
    assert command in check.advice
    before, after = method_warning(InitRequest(classes="camvid"))
    assert "cut by SLIC instead" in before
    assert command in after
    assert method_warning(InitRequest(classes="camvid", method="slic")) == ()
    monkeypatch.undo()
    assert method_warning(InitRequest(classes="camvid")) == ()
    assert "SEEDS" not in look(settings, store, healthy())


JPEG = {"Content-Type": "image/jpeg"}


@pytest.mark.parametrize(
    ("reply", "ok", "says"),
    [
        (Reply(200, b"j", {**JPEG, "Access-Control-Allow-Origin": "*"}), True, "1 bytes"),
        (Reply(200, b"j", JPEG), False, "no Access-Control-Allow-Origin"),
        (Reply(404, {"ok": False}), False, "answered 404"),
        (Reply(200, {}, {"Content-Type": "application/json"}), False, "application/json"),
        (Reply(hang_up=True), None, "does not answer from here"),
    ],
)
def test_pictures(settings: Settings, reply: Reply, ok: bool | None, says: str) -> None:
    with Stub(replies(reply)) as backend:
        found, detail, _ = doctor_project.picture(
            settings,
            healthy(),
            f"{backend.url}/media/x.jpg",
        )
    assert found is ok
    assert says in detail


@pytest.mark.server
@pytest.mark.slow
def test_live_a_connected_project_is_healthy(
    label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image as Picture

    from training.images import content_id
    from training.regions import RegionMap

    port = free_port()
    own = {
        "PIXBAL_HOME": str(tmp_path),
        "PIXBAL_PORT": str(port),
        "PIXBAL_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "PIXBAL_BASIC_PASSWORD": BASIC_PASSWORD,
        "PIXBAL_MEDIA_KEY": "k",
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
    }
    settings = Settings.from_env(own)
    ls = LabelStudio(label_studio.url, label_studio.token)
    row = make_project(ls.create_project("doctor", make_project().label_config), method="slic")
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    Picture.new("RGB", (64, 48)).save(path)
    ids = (np.arange(64, dtype=np.int32) // 32)[None].repeat(48, axis=0)
    regions = RegionMap(ids, 2, "grid", {})
    regions.save(tmp_path / "a.npz")
    image = make_image(
        row.id, content_id(path.read_bytes()), path=str(path),
        regions_path=str(tmp_path / "a.npz"), regions_hash=regions.hash, region_count=2,
    )  # fmt: skip
    query = make_query(row.id, 0, image_id=image.image_id, regions_hash=regions.hash)
    data = {"crop": "http://x/c.jpg", "locator": "http://x/l.jpg", "region": "i:0"}
    prediction = {"result": [], "score": 0.5, "model_version": "r0"}
    root = Path(__file__).resolve().parents[1]
    env = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", **own}
    log = tmp_path / "backend.log"
    with (
        Store.open(settings.database_url) as store,
        BackendServer(env=env, log=log, port=port, cwd=root),
    ):
        store.add_project(row)
        store.add_images([image])
        store.plan_queries([query])
        connect(ls, settings, row.id, row.label_config, "r0")
        [task] = ls.import_tasks(row.id, [{"data": data, "predictions": [prediction]}])
        store.set_task_ids({store.queries(row.id)[0].id: task})
        store.update_project(row.id, model_version="r0")
        checks = {c.name: c for c in examine(settings, store, ls, row.id)}
        assert [c for c in checks.values() if c.ok is not True] == [checks["worker"]]
        assert f"project {row.id}: pictures" in checks

        ls.update_project(row.id, sampling="Sequential sampling")
        for hook in ls.webhooks(row.id):
            ls._delete_webhook(hook["id"])
        failed = {c.name for c in examine(settings, store, ls, row.id) if c.ok is False}
        places = {f"project {row.id}: webhook", f"project {row.id}: order of the queue"}
        assert failed == {"worker", *places}
    ls.delete_project(row.id)
    ls.close()
