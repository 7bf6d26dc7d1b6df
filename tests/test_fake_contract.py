"""The fake Label Studio does what the real one does: one scenario, the same assertions on both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
import requests
from backend_helpers import make_schema
from fake_label_studio import FakeLabelStudio
from http_stub import Reply, Stub

from label_config import Answer, answer_result, build
from ml_backend.errors import LabelStudioError
from ml_backend.label_studio import WEBHOOK_ACTIONS, LabelStudio, Refused
from ml_backend.processes import LabelStudioServer

SCHEMA = make_schema()
CONFIG = build(SCHEMA, "region_multiclass")
Row = dict[str, Any]


class Browser(Protocol):
    """What an annotator does."""

    def annotate(self, task_id: int, result: Sequence[Row], *, skip: bool = False) -> Row: ...
    def change(self, annotation_id: int, **fields: Any) -> Row: ...
    def delete_annotation(self, annotation_id: int) -> None: ...


@dataclass
class RealBrowser:
    """The requests that the annotator's page makes."""

    server: LabelStudioServer

    def _ask(self, method: str, path: str, body: Row | None = None) -> Any:
        headers = {"Authorization": f"Token {self.server.token}"}
        url = f"{self.server.url}/api/{path}"
        answer = requests.request(method, url, headers=headers, json=body, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def annotate(self, task_id: int, result: Sequence[Row], *, skip: bool = False) -> Row:
        body = {"result": list(result), "was_cancelled": skip, "lead_time": 1.0}
        return dict(self._ask("POST", f"tasks/{task_id}/annotations/", body))

    def change(self, annotation_id: int, **fields: Any) -> Row:
        return dict(self._ask("PATCH", f"annotations/{annotation_id}/", fields))

    def delete_annotation(self, annotation_id: int) -> None:
        self._ask("DELETE", f"annotations/{annotation_id}/")


@dataclass
class Office:
    """A Label Studio, its client, its annotator, and the projects that were made."""

    ls: LabelStudio
    browser: Browser
    made: list[int] = field(default_factory=list)

    def project(self, **fields: Any) -> int:
        fields = {"sampling": "Uncertainty sampling", **fields}
        self.made.append(self.ls.create_project("the same on both", CONFIG, **fields))
        return self.made[-1]

    def heard(self, received: list[Row]) -> list[Row]:
        """What the webhooks of our actions said; the fake sends nothing, it keeps a list."""
        if isinstance(self.ls, FakeLabelStudio):
            return [said for action, said in self.ls.server.said if action in WEBHOOK_ACTIONS]
        return received

    def version(self, project_id: int) -> str:
        return str(self.ls.project(project_id)["model_version"] or "")

    def refusal(self, what: str, *args: Any, **fields: Any) -> int:
        """The status with which a call is refused."""

        def ask() -> None:
            found = getattr(self.ls, what)(*args, **fields)
            if isinstance(found, Iterator):
                next(found)  # a walk asks when it is begun

        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.hint
        return caught.value.code


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.server, pytest.mark.slow])])
def office(request: pytest.FixtureRequest) -> Iterator[Office]:
    if request.param == "fake":
        fake = FakeLabelStudio()
        yield Office(fake, fake.server)
        return
    server = request.getfixturevalue("label_studio")
    ls = LabelStudio(server.url, server.token)
    made = Office(ls, RealBrowser(server))
    yield made
    for project_id in made.made:
        ls.delete_project(project_id)
    ls.close()


def ticks(*names: str) -> list[Row]:
    found: list[Row] = answer_result(Answer("classes", names), SCHEMA, "region_multiclass")
    return found


def task(region: int, score: float | None = 0.5, version: str = "r0") -> Row:
    data = {"crop": "http://x/c.jpg", "locator": "http://x/l.jpg", "region": f"i:{region}"}
    prediction = {"result": ticks("Road"), "score": score, "model_version": version}
    return {"data": data, "predictions": [prediction]}


def predict(task_id: int, score: float | None, version: str) -> Row:
    return {"task": task_id, **task(0, score, version)["predictions"][0]}


def test_tasks_come_in_are_walked_and_answered(office: Office) -> None:
    ls, browser, project = office.ls, office.browser, office.project()
    ids = ls.import_tasks(project, [task(k) for k in range(4)])
    assert ids == list(range(ids[0], ids[0] + 4))
    walked = list(ls.tasks(project))
    assert [t["id"] for t in walked] == ids
    assert [t["data"]["region"] for t in walked] == ["i:0", "i:1", "i:2", "i:3"]
    assert {tuple(sorted(t)) for t in walked} == {
        ("annotations", "created_at", "data", "id", "project", "updated_at")
    }
    assert [t["annotations"] for t in walked] == [[]] * 4
    bare = list(ls.tasks(project, with_annotations=False))
    assert {tuple(sorted(t)) for t in bare} == {("data", "id")}

    made = browser.annotate(ids[0], ticks("Road", "Sky"))
    skipped = browser.annotate(ids[1], ticks("Car"), skip=True)
    first, second, *_ = ls.tasks(project)
    [annotation] = first["annotations"]
    assert sorted(annotation) == [
        "completed_by", "created_at", "ground_truth", "id", "lead_time", "parent_prediction",
        "project", "result", "updated_at", "was_cancelled",
    ]  # fmt: skip
    assert annotation["id"] == made["id"]
    assert annotation["result"] == made["result"]
    assert annotation["completed_by"] == ls.whoami()["id"]
    assert (annotation["was_cancelled"], annotation["lead_time"]) == (False, 1.0)
    assert annotation["updated_at"] == made["updated_at"]
    assert second["annotations"][0]["was_cancelled"] is True
    assert second["annotations"][0]["id"] == skipped["id"]
    assert [a["id"] for a in ls.annotations(ids[0])] == [made["id"]]
    assert ls.annotations(ids[2]) == []

    time.sleep(0.01)  # the server writes times to the microsecond; ours is not behind it
    changed = browser.change(made["id"], result=ticks("Car"))
    assert changed["updated_at"] > made["updated_at"]
    [annotation] = ls.annotations(ids[0])
    assert annotation["result"] == ticks("Car")
    browser.delete_annotation(made["id"])
    assert next(ls.tasks(project))["annotations"] == []
    assert next(ls.tasks(project))["updated_at"] > changed["updated_at"]
    again = browser.annotate(ids[0], ticks("Sky"))
    assert again["id"] > skipped["id"], "ids of annotations are never used again"


def test_ids_of_tasks_are_used_again_after_the_newest_were_deleted(office: Office) -> None:
    ls, browser = office.ls, office.browser
    project, other = office.project(), office.project()
    ids = ls.import_tasks(project, [task(k) for k in range(3)])
    browser.annotate(ids[2], ticks("Road"))
    ls.delete_tasks(project, [ids[1]])
    assert ls.import_tasks(project, [task(3)]) == [ids[2] + 1], "a gap is not filled"
    ls.delete_tasks(project, [ids[2], ids[2] + 1])
    ls.delete_tasks(project, [ids[2]])
    assert [t["id"] for t in ls.tasks(project)] == [ids[0]]
    # Ids are the server's, not the project's.
    assert ls.import_tasks(other, [task(9)]) == [ids[0] + 1]
    assert [t["annotations"] for t in ls.tasks(other)] == [[]]
    ls.delete_tasks(project, [ids[0] + 1])
    assert [t["id"] for t in ls.tasks(other)] == [ids[0] + 1], "the task of another project stays"


def test_versions_are_those_of_predictions(office: Office) -> None:
    ls, project = office.ls, office.project()
    assert office.version(project) == ""
    assert office.refusal("update_project", project, model_version="r0") == 400
    ids = ls.import_tasks(project, [task(0), task(1)])
    assert office.version(project) == "r0", "set by the first questions"
    assert ls.import_tasks(project, [task(2, version="r1")])
    assert office.version(project) == "r0", "and not moved by the next"
    assert office.refusal("update_project", project, model_version="r2") == 400
    assert ls.import_predictions(project, [predict(ids[0], 0.25, "r2")]) == 1
    assert office.version(project) == "r0"
    ls.update_project(project, model_version="r2")
    assert office.version(project) == "r2"
    assert ls.model_versions(project) == {"r0": 2, "r1": 1, "r2": 1}
    assert ls.tasks_with_prediction(project, ids, "r2") == {ids[0]}
    assert ls.tasks_with_prediction(project, ids, "r0") == set(ids)
    ls.update_project(project, model_version="")
    assert office.version(project) == ""
    ls.import_predictions(project, [predict(ids[0], 0.25, "r3")])
    assert office.version(project) == "", "predictions of known tasks do not set it"
    ls.update_project(project, model_version="r1")
    ls.update_project(project, show_collab_predictions=False)
    assert office.version(project) == ""
    ls.delete_tasks(project, [t["id"] for t in ls.tasks(project)])
    assert ls.model_versions(project) == {}


def test_the_version_in_use_outlives_its_predictions(office: Office) -> None:
    ls, project = office.ls, office.project()
    ids = ls.import_tasks(project, [task(0)])
    ls.delete_tasks(project, ids)
    assert office.version(project) == "r0"
    ls.update_project(project, model_version="r0")
    ls.import_tasks(project, [task(1, version="r1")])
    assert office.version(project) == "r0"


def test_predictions_are_changed_where_they_are(office: Office) -> None:
    ls, project = office.ls, office.project()
    first, second = ls.import_tasks(project, [task(0), task(1)])
    ls.import_predictions(project, [predict(first, 0.25, "p4-r2")])
    old, new = ls.predictions(first)
    assert [row["model_version"] for row in (old, new)] == ["r0", "p4-r2"]
    assert [row["task"] for row in (old, new)] == [first, first]
    found = list(ls.tasks_with_versions(project))
    assert [(row["id"], versions) for row, versions in found] == [
        (first, {"r0", "p4-r2"}), (second, {"r0"}),
    ]  # fmt: skip
    assert found[0][0]["data"] == task(0)["data"]
    ls.update_prediction(old["id"], result=ticks("Sky"), model_version="p4-r3", score=1.0)
    now, other = ls.predictions(first)
    assert other["result"] == new["result"]
    assert [now[key] for key in ("id", "model_version", "score")] == [old["id"], "p4-r3", 1.0]
    assert now["result"] == ticks("Sky")
    assert ls.model_versions(project) == {"r0": 1, "p4-r2": 1, "p4-r3": 1}
    assert office.refusal("update_prediction", old["id"] + 7777, model_version="x") == 404
    assert ls.predictions(second + 7777) == []


def test_scores_outside_of_0_and_1_are_dropped(office: Office) -> None:
    ls, project = office.ls, office.project()
    ids = ls.import_tasks(project, [task(0), task(1)])
    for score in (-0.5, 1.5):
        with pytest.raises(LabelStudioError, match="stored 1 of 2"):
            ls.import_predictions(
                project, [predict(ids[0], score, "r1"), predict(ids[1], 0.5, "r1")]
            )
    assert ls.model_versions(project) == {"r0": 2, "r1": 2}
    assert ls.import_predictions(project, [predict(ids[0], 1, "r2"), predict(ids[1], 0, "r2")]) == 2
    assert ls.import_predictions(project, [predict(ids[0], None, "r4")]) == 1
    assert ls.import_tasks(project, [task(2, score=1.5, version="r3")])
    assert "r3" in ls.model_versions(project), "with a task they are taken"
    assert office.refusal("import_predictions", project, [predict(ids[1] + 77, 0.5, "r1")]) == 400


def test_the_lowest_score_of_the_version_comes_next(office: Office) -> None:
    ls, browser, project = office.ls, office.browser, office.project()
    ids = ls.import_tasks(project, [task(k, score) for k, score in enumerate((0.9, 0.1, 0.5))])

    def following() -> int | None:
        found = ls.next_task(project)
        return None if found is None else ids.index(found["id"])

    assert [following(), following()] == [1, 1], "a task handed out stays the user's"
    ids += ls.import_tasks(project, [task(3, 0.01)])
    assert following() == 1
    first = browser.annotate(ids[1], ticks("Road"))
    assert following() == 3
    browser.annotate(ids[3], ticks("Road"), skip=True)
    assert following() == 2, "a skipped task does not come back"
    browser.annotate(ids[2], ticks("Road"))
    ls.import_predictions(project, [predict(ids[0], 0.9, "r1")])
    browser.delete_annotation(first["id"])
    ls.update_project(project, model_version="r1")
    assert following() == 0, "what has a prediction of the version comes first"
    browser.annotate(ids[0], ticks("Road"))
    assert following() == 1, "then the others"
    browser.annotate(ids[1], ticks("Road"))
    assert following() is None
    ls.delete_tasks(project, ids)
    assert following() is None


def test_without_a_score_comes_before_all(office: Office) -> None:
    ls, project = office.ls, office.project()
    ids = ls.import_tasks(project, [task(0, 0.0), task(1, None)])
    found = ls.next_task(project)
    assert found is not None
    assert found["id"] == ids[1]


def test_tasks_in_sequence(office: Office) -> None:
    ls, browser, project = office.ls, office.browser, office.project(sampling="Sequential sampling")
    ids = ls.import_tasks(project, [task(0, 0.9), task(1, 0.1)])
    for expected in ids:
        found = ls.next_task(project)
        assert found is not None
        assert found["id"] == expected
        browser.annotate(expected, ticks("Road"))


def test_what_is_refused(office: Office) -> None:
    ls, browser, project = office.ls, office.browser, office.project()
    [first] = ls.import_tasks(project, [task(0)])
    assert office.refusal("create_project", "ab", CONFIG) == 400
    assert office.refusal("update_project", project, sampling="by mood") == 400
    assert office.refusal("validate_config", project, "<View") == 400
    assert office.refusal("import_tasks", project, [{"data": {"region": "i:1"}}]) == 400
    browser.annotate(first, ticks("Road"))
    other = CONFIG.replace('name="classes"', 'name="others"')
    assert other != CONFIG
    assert office.refusal("validate_config", project, other) == 400
    assert office.refusal("update_project", project, label_config=other) == 400
    ls.validate_config(project, CONFIG)
    assert office.refusal("annotations", first + 1000) == 404
    assert len(list(ls.tasks(project))) == 1


def test_a_deleted_project_is_not_there(office: Office) -> None:
    ls, project = office.ls, office.project()
    [first] = ls.import_tasks(project, [task(0)])
    office.made.remove(project)
    ls.delete_project(project)
    assert office.refusal("project", project) == 404
    assert office.refusal("delete_project", project) == 404
    assert office.refusal("update_project", project, sampling="Sequential sampling") == 404
    assert office.refusal("tasks", project) == 404
    assert office.refusal("tasks_with_prediction", project, [first], "r0") == 404
    assert office.refusal("annotations", first) == 404
    assert office.refusal("import_tasks", project, [task(0)]) == 404
    assert office.refusal("import_predictions", project, [predict(first, 0.5, "r0")]) == 404
    assert office.refusal("delete_tasks", project, [first]) == 404
    assert office.refusal("next_task", project) == 404
    assert office.refusal("model_versions", project) == 404
    assert office.project() > project, "its id is not used again"


def test_a_webhook_and_a_backend(office: Office) -> None:
    ls, project = office.ls, office.project()
    with Stub(lambda request: Reply(200, {"status": "UP", "model_version": "m"})) as backend:
        url = f"{backend.url}/webhook"
        assert ls.webhooks(project) == []
        assert ls.ensure_webhook(project, url, {"X-Secret": "a"}) == "created"
        assert ls.ensure_webhook(project, url, {"X-Secret": "a"}) == "unchanged"
        assert ls.ensure_webhook(project, url, {"X-Secret": "b"}) == "updated"
        assert ls.ml_backends(project) == []
        backends = [("Regions", "created"), ("Regions", "unchanged"), ("Other", "updated")]
        for title, change in backends:
            assert ls.ensure_ml_backend(project, backend.url, title, "u", "p") == change
        [hook] = ls.webhooks(project)
        assert (hook["url"], hook["headers"], hook["is_active"]) == (url, {"X-Secret": "b"}, True)
        assert sorted(hook["actions"]) == sorted(WEBHOOK_ACTIONS)
        assert (hook["send_payload"], hook["send_for_all_actions"]) == (True, False)
        assert office.version(project) == "Other", "the version follows the title"
        assert office.refusal("update_project", project, model_version="Regions") == 400
        assert ls.import_tasks(project, [task(0)])
        assert office.version(project) == "Other", "not moved by the first questions"
        ls.update_project(project, model_version="r0")
        ls._delete_ml_backend(ls.ml_backends(project)[0]["id"])
        assert ls.ml_backends(project) == []
        assert len(ls.webhooks(project)) == 1, "the webhook stays"
        assert office.version(project) == "r0"
        bare = office.project()
        ls.ensure_ml_backend(bare, backend.url, "Regions", "u", "p")
        [hook] = ls.webhooks(bare)
        assert (hook["url"], hook["send_for_all_actions"]) == (url, True)
        assert not hook["headers"]


def test_what_webhooks_say(office: Office) -> None:
    ls, browser, project = office.ls, office.browser, office.project()
    with Stub(lambda request: Reply(200, {})) as backend:
        ls.ensure_webhook(project, f"{backend.url}/webhook", {})
        ids = ls.import_tasks(project, [task(0), task(1)])
        first = browser.annotate(ids[0], ticks("Road"))
        second = browser.annotate(ids[1], ticks("Road"), skip=True)
        browser.change(first["id"], result=ticks("Sky"))
        browser.delete_annotation(first["id"])
        ls.delete_tasks(project, [ids[1]])
        heard = office.heard([request.json() for request in backend.requests])
    assert [message["action"] for message in heard] == [
        "ANNOTATION_CREATED", "ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED",
        "TASKS_DELETED",
    ]  # fmt: skip
    created, skipped, updated, deleted, gone = heard
    assert all(message["project"]["id"] == project for message in heard)
    for message in (created, skipped, updated):
        assert sorted(message) == ["action", "annotation", "project", "task"]
        assert message["task"]["id"] == message["annotation"]["task"]
    assert created["annotation"]["id"] == updated["annotation"]["id"] == first["id"]
    assert created["annotation"]["result"] == ticks("Road")
    assert updated["annotation"]["result"] == ticks("Sky")
    assert (skipped["annotation"]["id"], skipped["annotation"]["was_cancelled"]) == (
        second["id"], True,
    )  # fmt: skip
    assert deleted["annotations"] == [{"id": first["id"]}]
    assert gone["tasks"] == [{"id": ids[1]}], "and nothing of the annotation that went with it"


def test_the_server_says_who_it_is(office: Office) -> None:
    assert office.ls.version().startswith("1.23.")
    assert {"id", "email", "active_organization"} <= set(office.ls.whoami())
    assert office.ls.token_kind == "legacy"
