from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import BASIC_PASSWORD, WEBHOOK_SECRET, make_project, make_settings
from fake_label_studio import FakeLabelStudio

from ml_backend.connect import TITLE, UNCERTAINTY_SAMPLING, connect
from ml_backend.errors import BackendError
from ml_backend.label_studio import WEBHOOK_ACTIONS, Change, LabelStudio, Refused
from ml_backend.processes import BackendServer, LabelStudioServer, free_port
from ml_backend.security import SECRET_HEADER
from ml_backend.settings import Settings
from ml_backend.store import Project, Store

CONFIG = make_project().label_config


def office(versions: tuple[str, ...] = (), **fields: Any) -> FakeLabelStudio:
    """Label Studio with project 4 and a prediction of each version."""
    ls = FakeLabelStudio()
    known = {"sampling": UNCERTAINTY_SAMPLING, **fields}
    ls.server.add_project(4, known.pop("label_config", CONFIG), **known)
    predictions = [{"result": [], "score": 0.5, "model_version": name} for name in versions]
    ls.server.add_task(4, 1, {}, predictions)
    return ls


def changes(ls: FakeLabelStudio) -> list[tuple[str, Any]]:
    """What was changed there, in order."""
    return ls.server.asked("update_project", "create_webhook", "create_ml_backend")


def version(ls: FakeLabelStudio) -> Any:
    return ls.project(4)["model_version"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, PIXBAL_BACKEND_URL="http://backend:9090")


def run(ls: FakeLabelStudio, settings: Settings, version: str = "r1") -> list[tuple[str, Change]]:
    return connect(ls, settings, 4, CONFIG, version)


def test_the_order_is_webhook_backend_sampling_version(settings: Settings) -> None:
    ls = office(("r1",), sampling="Sequential sampling", label_config="<View/>")
    assert run(ls, settings) == [
        ("label config", "updated"),
        ("webhook", "created"),
        ("ML backend", "created"),
        ("order of the queue", "updated"),
        ("model version r1", "updated"),
    ]
    first, (hooked, hook), (connected, backend), *rest = changes(ls)
    assert first == ("update_project", {"label_config": CONFIG})
    assert (hooked, hook["url"], hook["headers"]) == (
        "create_webhook", "http://backend:9090/webhook", {SECRET_HEADER: WEBHOOK_SECRET},
    )  # fmt: skip
    assert (connected, backend["url"], backend["title"]) == (
        "create_ml_backend", "http://backend:9090", TITLE,
    )  # fmt: skip
    assert (backend["basic_auth_user"], backend["basic_auth_pass"]) == ("pixbal", BASIC_PASSWORD)
    assert rest == [
        ("update_project", {"sampling": UNCERTAINTY_SAMPLING}),
        ("update_project", {"model_version": "r1"}),
    ]
    assert len(ls.webhooks(4)) == 1


def test_an_empty_project_does_not_keep_the_title_as_version(settings: Settings) -> None:
    """Label Studio sets an empty version when the first questions come, and keeps the title."""
    ls = office()
    assert run(ls, settings)[-1] == ("model version r1 (set by its first questions)", "updated")
    assert version(ls) == ""


def test_a_version_without_predictions_leaves_the_one_in_use(settings: Settings) -> None:
    ls = office(("r0",), model_version="r0")
    assert run(ls, settings)[-1][1] == "unchanged"
    assert version(ls) == "r0"


def test_a_project_may_ask_for_every_prediction_live(settings: Settings) -> None:
    ls = office(("r0",), model_version="r0")
    assert run(ls, settings, TITLE)[-1] == (f"model version {TITLE}", "updated")
    assert version(ls) == TITLE


@pytest.mark.parametrize("field", ["webhook_secret", "basic_password"])
def test_a_missing_secret_is_named_before_anything_is_changed(
    settings: Settings, field: str
) -> None:
    ls = office()
    with pytest.raises(BackendError, match=f"PIXBAL_{field.upper()}"):
        run(ls, replace(settings, **{field: ""}))
    assert changes(ls) == []


@pytest.mark.parametrize("broken", ["no folder", "a file in the way", "not writable"])
def test_pictures_that_cannot_be_written_are_named_before_anything_is_changed(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, who may write everywhere: access() is told to say no instead.

    Seen failing as it was (an OSError without a hint, after webhook and ML backend were made), and
    the last with the look at access() left out.
    """
    root = tmp_path / "files"
    if broken == "no folder":
        root.write_text("")
    else:
        root.mkdir()
    if broken == "a file in the way":
        (root / "pixbal").write_text("")
    if broken == "not writable":
        monkeypatch.setattr("ml_backend.connect.os.access", lambda path, mode: False)
    settings = make_settings(
        tmp_path / "home", PIXBAL_MEDIA="local-files", PIXBAL_LOCAL_FILES_ROOT=str(root)
    )
    ls = office()
    with pytest.raises(BackendError, match=f"cannot be written to {root}/pixbal: ") as caught:
        run(ls, settings)
    assert f"Make {root} a folder that user {os.getuid()}" in caught.value.hint
    assert changes(ls) == []


# -- with real servers -------------------------------------------------------------------------


@pytest.fixture
def ls(label_studio: LabelStudioServer) -> Iterator[LabelStudio]:
    found = LabelStudio(label_studio.url, label_studio.token)
    yield found
    found.close()


@pytest.fixture
def project(ls: LabelStudio) -> Iterator[Project]:
    row = make_project(ls.create_project("connect", "<View></View>"))
    yield row
    ls.delete_project(row.id)


@pytest.fixture
def backend(tmp_path: Path, project: Project) -> Iterator[tuple[BackendServer, Settings]]:
    """The web backend, knowing the project."""
    port = free_port()
    own = {
        "PIXBAL_HOME": str(tmp_path),
        "PIXBAL_PORT": str(port),
        "PIXBAL_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "PIXBAL_BASIC_PASSWORD": BASIC_PASSWORD,
        "PIXBAL_MEDIA_KEY": "k",
    }
    root = Path(__file__).resolve().parents[1]
    server = BackendServer(
        env={"PATH": os.defpath, "OMP_NUM_THREADS": "1", **own},
        log=tmp_path / "backend.log",
        port=port,
        cwd=root,
    )
    settings = Settings.from_env(own)
    with Store.open(settings.database_url) as store:
        store.add_project(project)
    with server:
        yield server, settings


def question(version: str = "r0") -> dict[str, Any]:
    data = {"crop": "http://x/c.jpg", "locator": "http://x/l.jpg", "region": "i:0"}
    return {"data": data, "predictions": [{"result": [], "score": 0.5, "model_version": version}]}


@pytest.mark.server
@pytest.mark.slow
def test_live_twice_and_the_second_time_nothing_changes(
    ls: LabelStudio, project: Project, backend: tuple[BackendServer, Settings]
) -> None:
    server, settings = backend
    first = connect(ls, settings, project.id, project.label_config, "r0")
    assert [change for _, change in first] == [
        "updated", "created", "created", "updated", "updated",
    ]  # fmt: skip
    assert ls.project(project.id)["model_version"] == ""
    assert {c for _, c in connect(ls, settings, project.id, project.label_config, "r0")} == {
        "unchanged"
    }
    [hook] = ls.webhooks(project.id)
    assert hook["headers"] == {SECRET_HEADER: WEBHOOK_SECRET}
    assert sorted(hook["actions"]) == sorted(WEBHOOK_ACTIONS)
    [row] = ls.ml_backends(project.id)
    assert (row["state"], row["auth_method"], row["title"]) == ("CO", "BASIC_AUTH", TITLE)

    ls.import_tasks(project.id, [question()])
    assert ls.project(project.id)["model_version"] == "r0"
    again = connect(ls, settings, project.id, project.label_config, "r0")
    assert {c for _, c in again} == {"unchanged"}
    assert WEBHOOK_SECRET not in server.log.read_text()


@pytest.mark.server
@pytest.mark.slow
def test_live_an_event_arrives_with_the_secret(
    ls: LabelStudio,
    project: Project,
    backend: tuple[BackendServer, Settings],
    label_studio: LabelStudioServer,
) -> None:
    import httpx

    _, settings = backend
    connect(ls, settings, project.id, project.label_config, "r0")
    [task_id] = ls.import_tasks(project.id, [question()])
    made = httpx.post(
        f"{label_studio.url}/api/tasks/{task_id}/annotations/",
        headers={"Authorization": f"Token {label_studio.token}"},
        json={"result": [], "lead_time": 1.0},
    )
    assert made.status_code == 201
    ls.delete_tasks(project.id, [task_id])
    with Store.open(settings.database_url) as store:
        actions = [event.action for event in store.pending_events(10)]
    assert actions == ["ANNOTATION_CREATED", "TASKS_DELETED"]


@pytest.mark.server
@pytest.mark.slow
def test_live_what_was_there_is_repaired_not_doubled(
    ls: LabelStudio,
    project: Project,
    backend: tuple[BackendServer, Settings],
    label_studio: LabelStudioServer,
) -> None:
    import httpx

    server, settings = backend
    api = httpx.Client(
        base_url=label_studio.url, headers={"Authorization": f"Token {label_studio.token}"}
    )
    with api:
        # The orphan of a removed connection (without header), and one like it.
        orphan = {"url": f"{server.url}/webhook", "project": project.id}
        for _ in range(2):
            assert api.post("/api/webhooks/", json=orphan).status_code == 201
        done = connect(ls, settings, project.id, project.label_config, "r0")
        assert ("webhook", "updated") in done
        [hook] = ls.webhooks(project.id)
        assert hook["headers"] == {SECRET_HEADER: WEBHOOK_SECRET}

        [row] = ls.ml_backends(project.id)
        secrets = {"basic_auth_user": "pixbal", "basic_auth_pass": BASIC_PASSWORD}
        double = {"url": server.url, "project": project.id, "title": "old", **secrets}
        assert api.post("/api/ml/", json={**double, "auth_method": "BASIC_AUTH"}).is_success
        done = connect(ls, settings, project.id, project.label_config, "r0")
        assert ("ML backend", "updated") in done
        assert [r["id"] for r in ls.ml_backends(project.id)] == [row["id"]]


@pytest.mark.server
@pytest.mark.slow
def test_live_a_new_password_reaches_label_studio(
    ls: LabelStudio, project: Project, backend: tuple[BackendServer, Settings]
) -> None:
    server, settings = backend
    connect(ls, settings, project.id, project.label_config, "r0")
    server.stop()
    server.env["PIXBAL_BASIC_PASSWORD"] = "another"
    with server:
        changed = replace(settings, basic_password="another")
        done = connect(ls, changed, project.id, project.label_config, "r0")
        assert ("ML backend", "updated") in done
        [row] = ls.ml_backends(project.id)
        assert row["state"] == "CO"
        assert {c for _, c in connect(ls, changed, project.id, project.label_config, "r0")} == {
            "unchanged"
        }


@pytest.mark.server
@pytest.mark.slow
def test_live_a_backend_that_does_not_answer_leaves_no_row(
    ls: LabelStudio, project: Project, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path, PIXBAL_PORT=str(free_port()))
    for _ in range(2):
        with pytest.raises(Refused, match="Can't connect to ML backend"):
            connect(ls, settings, project.id, project.label_config, "r0")
        assert ls.ml_backends(project.id) == []
    assert len(ls.webhooks(project.id)) == 1


@pytest.mark.server
@pytest.mark.slow
def test_live_a_refused_address_names_the_variables(
    ls: LabelStudio, project: Project, tmp_path: Path
) -> None:
    """The metadata range stays refused on the test server, as we advise."""
    settings = make_settings(tmp_path, PIXBAL_BACKEND_URL="http://169.254.10.1:9090")
    with pytest.raises(Refused, match="reserved network address") as caught:
        connect(ls, settings, project.id, project.label_config, "r0")
    assert "USE_DEFAULT_BANNED_SUBNETS=false" in caught.value.hint
    assert ls.webhooks(project.id) == []
    assert ls.ml_backends(project.id) == []


@pytest.mark.server
@pytest.mark.slow
def test_live_disconnected_leaves_nothing_of_ours_and_all_of_theirs(
    ls: LabelStudio, project: Project, backend: tuple[BackendServer, Settings]
) -> None:
    """What forgetting does; Label Studio's own limits of a title, too."""
    server, settings = backend
    connect(ls, settings, project.id, project.label_config, "r0")
    ls.import_tasks(project.id, [question()])
    assert ls.disconnect(project.id, server.url) == ["ML backend", "webhook"]
    assert (ls.webhooks(project.id), ls.ml_backends(project.id)) == ([], [])
    assert len(list(ls.tasks(project.id, with_annotations=True))) == 1
    assert ls.disconnect(project.id, server.url) == []
    for title in ("abc", "x" * 50):
        ls.update_project(project.id, title=title)
    for title in ("ab", "x" * 51):
        with pytest.raises(Refused, match="400"):
            ls.update_project(project.id, title=title)
