"""The fake Label Studio below the real client; `test_fake_contract` holds it against a server."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fake_label_studio
import pytest
from backend_helpers import make_project
from fake_label_studio import URL, FakeLabelStudio, Part
from fake_label_studio_faults import Faults
from fake_label_studio_server import FakeServer

from ml_backend import label_studio_tasks
from ml_backend.fetch import FetchError
from ml_backend.label_studio import ImportUncertain, LabelStudio, Refused, Unreachable
from ml_backend.label_studio_errors import refusal

PROJECT = 4
CONFIG = make_project().label_config


def task(region: int) -> dict[str, Any]:
    data = {"crop": "c", "locator": "l", "region": f"i:{region}"}
    return {
        "data": data,
        "predictions": [{"result": [], "score": 0.5, "model_version": "r0"}],
    }


@pytest.fixture
def ls() -> FakeLabelStudio:
    made = FakeLabelStudio()
    made.server.add_project(PROJECT, CONFIG)
    return made


def regions(ls: FakeLabelStudio) -> list[str]:
    return [t["data"]["region"] for t in ls.tasks(PROJECT, with_annotations=False)]


# -- the surface ---------------------------------------------------------------------------------

# Every public method of the client, called once.
CALLS: dict[str, Callable[[FakeLabelStudio], object]] = {
    "annotations": lambda ls: ls.annotations(1),
    "call": lambda ls: ls.call("x", lambda sdk: sdk.versions.get()),
    "close": lambda ls: ls.close(),
    "create_project": lambda ls: ls.create_project("street", CONFIG),
    "delete_project": lambda ls: ls.delete_project(PROJECT),
    "delete_tasks": lambda ls: ls.delete_tasks(PROJECT, [1]),
    "ensure_local_storage": lambda ls: ls.ensure_local_storage(PROJECT, "/f", "t"),
    "ensure_ml_backend": lambda ls: ls.ensure_ml_backend(PROJECT, "http://b", "t", "u", "p"),
    "ensure_webhook": lambda ls: ls.ensure_webhook(PROJECT, "http://b/webhook", {}),
    "disconnect": lambda ls: ls.disconnect(PROJECT, "http://127.0.0.1:9"),
    "fetch": lambda ls: ls.fetch("/data/a.png"),
    "import_predictions": lambda ls: ls.import_predictions(
        PROJECT, [{"task": 1, "result": [], "score": 0.5, "model_version": "r1"}]
    ),
    "import_tasks": lambda ls: ls.import_tasks(PROJECT, [task(0)]),
    "ml_backends": lambda ls: ls.ml_backends(PROJECT),
    "model_versions": lambda ls: ls.model_versions(PROJECT),
    "next_task": lambda ls: ls.next_task(PROJECT),
    "predictions": lambda ls: ls.predictions(1),
    "project": lambda ls: ls.project(PROJECT),
    "raw": lambda ls: ls.raw("GET", f"api/projects/{PROJECT}/", "it"),
    "tasks": lambda ls: list(ls.tasks(PROJECT)),
    "tasks_with_prediction": lambda ls: ls.tasks_with_prediction(PROJECT, [1], "r0"),
    "tasks_with_versions": lambda ls: list(ls.tasks_with_versions(PROJECT)),
    "token_kind": lambda ls: ls.token_kind,
    "update_prediction": lambda ls: ls.update_prediction(
        ls.predictions(1)[0]["id"], result=[], model_version="r2", score=1.0
    ),
    "update_project": lambda ls: ls.update_project(PROJECT, sampling="Uncertainty sampling"),
    "validate_config": lambda ls: ls.validate_config(PROJECT, CONFIG),
    "version": lambda ls: ls.version(),
    "webhooks": lambda ls: ls.webhooks(PROJECT),
    "whoami": lambda ls: ls.whoami(),
}


def public(kind: type) -> set[str]:
    # `of` makes a client and asks nobody.
    return {name for name in dir(kind) if not name.startswith("_")} - {"of"}


def test_it_has_the_methods_of_the_client_and_no_others() -> None:
    """Seen failing with a method added to the client."""
    assert public(FakeLabelStudio) == public(LabelStudio) == set(CALLS)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_every_method_is_played(ls: FakeLabelStudio, name: str) -> None:
    """Seen failing with the part of one method left out of the fake SDK."""
    ls.server.add_task(PROJECT, 1, {}, task(0)["predictions"])
    ls.server.files["/data/a.png"] = b"picture"
    CALLS[name](ls)


def test_what_is_replaced_has_the_signature_of_the_client() -> None:
    """Seen failing with `task_id` left out of `fetch`."""
    own = [name for name in vars(FakeLabelStudio) if not name.startswith(("__", "_abc"))]
    assert own == ["fetch", "close", "_sdk"]
    for name in own:
        played, real = getattr(FakeLabelStudio, name), getattr(LabelStudio, name)
        assert inspect.signature(played) == inspect.signature(real)


def parts() -> Iterator[tuple[str, Any, Any]]:
    from label_studio_sdk import LabelStudio as Sdk

    real = Sdk(base_url=URL, api_key="0" * 40)
    fake = FakeLabelStudio()._sdk()
    for name in ("projects", "actions", "predictions", "webhooks", "ml", "versions"):
        yield name, getattr(fake, name), getattr(real, name)
    yield "local", fake.import_storage.local, real.import_storage.local


def test_the_sdk_has_what_is_played() -> None:
    """Seen failing with a parameter of a fake method misspelt."""
    seen = set()
    for name, played, real in parts():
        seen.add(type(played))
        for method in public(type(played)):
            wanted = inspect.signature(getattr(played, method)).parameters.values()
            names = {p.name for p in wanted if p.kind is not p.VAR_KEYWORD}
            known = inspect.signature(getattr(real, method)).parameters
            assert names <= set(known), f"{name}.{method}"
    kinds = {
        kind
        for kind in vars(fake_label_studio).values()
        if isinstance(kind, type) and issubclass(kind, Part)
    }
    assert kinds - seen == {Part, fake_label_studio.Sdk, fake_label_studio.Http}


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [403, 404, 500])
def test_a_refusal_is_the_clients_own(ls: FakeLabelStudio, code: int) -> None:
    ls.server.fail("project", code, project=PROJECT, times=2)
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            ls.project(PROJECT)
        body = {403: "You do not have permission to perform this action.", 404: "Not found.",
                500: "Internal Server Error"}[code]  # fmt: skip
        expected = refusal(f"project {PROJECT}", code, {"detail": body})
        assert (caught.value.message, caught.value.hint, caught.value.code) == (
            expected.message, expected.hint, code,
        )  # fmt: skip
    assert ls.project(PROJECT)["id"] == PROJECT


def test_a_fault_of_one_project_is_not_anothers(ls: FakeLabelStudio) -> None:
    ls.server.add_project(5, CONFIG)
    ls.server.fail("*", 404, project=PROJECT, times=None)
    for _ in range(3):
        for refused in (
            lambda: ls.project(PROJECT), lambda: list(ls.tasks(PROJECT)),
            lambda: ls.import_tasks(PROJECT, [task(0)]),
        ):  # fmt: skip
            with pytest.raises(Refused):
                refused()
        assert ls.import_tasks(5, [task(0)])
    ls.server.heal()
    assert list(ls.tasks(PROJECT)) == []


def test_what_may_be_repeated_is_and_the_pause_passes_on_the_handed_in_clock() -> None:
    naps: list[float] = []
    ls = FakeLabelStudio(FakeServer(sleep=naps.append), attempts=3)
    ls.server.add_project(PROJECT, CONFIG)
    ls.server.fail("project", 500, times=2)
    assert ls.project(PROJECT)["id"] == PROJECT
    assert len(naps) == 2
    ls.server.fail("import_tasks", 500)
    with pytest.raises(ImportUncertain):
        ls.import_tasks(PROJECT, [task(0)])
    assert ls.model_versions(PROJECT) == {}


def test_a_lost_answer_to_an_import_leaves_its_tasks(ls: FakeLabelStudio) -> None:
    ls.server.lose_answer("import_tasks")
    with pytest.raises(ImportUncertain, match="No answer from Label Studio") as caught:
        ls.import_tasks(PROJECT, [task(0), task(1)])
    assert caught.value.made == []
    assert regions(ls) == ["i:0", "i:1"]


def test_a_lost_page_names_what_was_confirmed(
    ls: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_studio_tasks, "PAGE", 2)
    ls.server.fail("import_tasks", 403, skip=1)
    with pytest.raises(ImportUncertain) as caught:
        ls.import_tasks(PROJECT, [task(k) for k in range(3)])
    assert caught.value.made == [1, 2]
    assert regions(ls) == ["i:0", "i:1"]


def test_lost_reset_and_away_differ_in_what_is_known(ls: FakeLabelStudio) -> None:
    ls.server.lose_answer("update_project")
    with pytest.raises(Unreachable) as lost:
        ls.update_project(PROJECT, title="lost")
    assert (lost.value.sent, ls.project(PROJECT)["title"]) == (True, "lost")
    ls.server.reset("update_project")
    with pytest.raises(Unreachable) as broken:
        ls.update_project(PROJECT, title="broken")
    assert (broken.value.sent, ls.project(PROJECT)["title"]) == (True, "lost")
    ls.server.go_away(times=1)
    with pytest.raises(Unreachable, match=f"No answer from Label Studio at {URL} to") as away:
        ls.update_project(PROJECT, title="away")
    assert (away.value.sent, ls.project(PROJECT)["title"]) == (False, "lost")
    ls.server.go_away("import_tasks")
    with pytest.raises(Unreachable):  # certain, so not ImportUncertain
        ls.import_tasks(PROJECT, [task(0)])


def test_a_doubled_import_answers_once(ls: FakeLabelStudio) -> None:
    ls.server.double("import_tasks")
    assert ls.import_tasks(PROJECT, [task(0), task(1)]) == [1, 2]
    assert regions(ls) == ["i:0", "i:1", "i:0", "i:1"]


def test_slow_is_time_on_the_handed_in_clock() -> None:
    start = datetime(2026, 11, 22, tzinfo=UTC)
    passed: list[float] = []
    server = FakeServer(now=lambda: start + timedelta(seconds=sum(passed)), sleep=passed.append)
    ls = FakeLabelStudio(server)
    ls.server.add_project(PROJECT, CONFIG)
    ls.server.slow("tasks", 12.0)
    assert list(ls.tasks(PROJECT)) == []
    assert passed == [12.0]
    ls.server.slow("import_tasks", 299.0)  # an import may take 300 s
    ls.import_tasks(PROJECT, [task(0)])
    assert next(ls.tasks(PROJECT))["created_at"] == "2026-11-22T00:05:11.000000Z"
    ls.server.slow("tasks", 100.0)
    with pytest.raises(Unreachable):
        list(ls.tasks(PROJECT))
    assert passed == [12.0, 299.0, 60.0]


def test_somebody_is_at_work_between_two_pages(
    ls: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_studio_tasks, "PAGE", 2)
    ids = ls.import_tasks(PROJECT, [task(k) for k in range(5)])
    ls.server.before("tasks", lambda: ls.delete_tasks(PROJECT, ids[:1]), skip=1)
    assert [t["id"] for t in ls.tasks(PROJECT)] == ids
    assert [t["id"] for t in ls.tasks(PROJECT)] == ids[1:]


def test_files_and_their_faults(ls: FakeLabelStudio) -> None:
    ls.server.files["/data/a.png"] = b"picture"
    assert ls.fetch("/data/a.png", 1) == b"picture"
    with pytest.raises(FetchError, match=r"none\.png answered 404"):
        ls.fetch("/data/none.png")
    ls.server.go_away("fetch", times=1)
    with pytest.raises(FetchError) as caught:
        ls.fetch("/data/a.png")
    assert caught.value.transient


def test_a_half_made_backend_is_cleared_away(ls: FakeLabelStudio) -> None:
    """Some settings of Label Studio answer 403 and keep the row."""
    ls.server.half_make("create_ml_backend", 403, body={"detail": "reserved network address"})
    with pytest.raises(Refused) as caught:
        ls.ensure_ml_backend(PROJECT, "http://b", "t", "u", "p")
    assert "USE_DEFAULT_BANNED_SUBNETS" in caught.value.hint
    assert ls.ml_backends(PROJECT) == []
    assert ls.server.asked("delete_ml_backend", project=PROJECT)


def test_a_rule_for_no_request_is_a_mistake(ls: FakeLabelStudio) -> None:
    with pytest.raises(ValueError, match="no request is called 'import_task'"):
        ls.server.fail("import_task", 500)


def test_every_request_that_can_be_named_is_made_by_some_call(ls: FakeLabelStudio) -> None:
    """A rule under a name that no request has would never be hit."""
    ls.server.files["/data/a.png"] = b"picture"
    ls.server.add_task(PROJECT, 1, {}, task(0)["predictions"])
    ls.ensure_webhook(PROJECT, "http://b/webhook", {"old": "header"})
    ls.ensure_ml_backend(PROJECT, "http://b", "old", "u", "p")
    last = ("delete_tasks", "delete_project")
    for name in (*sorted(CALLS.keys() - set(last)), last[0]):
        CALLS[name](ls)
    ls._delete_webhook(ls.webhooks(PROJECT)[0]["id"])
    ls._delete_ml_backend(ls.ml_backends(PROJECT)[0]["id"])
    CALLS[last[1]](ls)
    assert {method for method, _, _ in ls.server.requests} == set(Faults.METHODS)


def test_there_is_no_other_one() -> None:
    """Seen failing with the stand-ins that seven test files once had."""
    ours = {"fake_label_studio.py", "fake_label_studio_server.py"}
    # It passes everything on to a real client.
    known = {("kill_points.py", "HalfWalked")}
    # Names that only a client has; an office or a browser may well delete a project.
    telling = {
        "import_tasks", "import_predictions", "tasks", "tasks_with_prediction", "update_project",
        "model_versions", "ensure_webhook", "ensure_ml_backend",
    }  # fmt: skip
    assert telling <= public(LabelStudio)
    found = {
        (path.name, node.name)
        for path in Path(__file__).parent.glob("*.py")
        if path.name not in ours
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name in telling
        if len(part.args.args) > 1 or part.args.vararg  # of which project
    }
    assert found == known
