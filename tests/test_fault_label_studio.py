"""A real Label Studio that is away, slow, overloaded or refuses the token, behind a proxy."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from backend_helpers import make_schema
from fault_proxy import Decision, Fault, FaultProxy, random_plan
from http_stub import Reply, Request

from label_config import Answer, answer_result
from ml_backend import label_studio_tasks, push
from ml_backend.backoff import Backoff
from ml_backend.demo.servers import backend_environment
from ml_backend.doctor import examine
from ml_backend.errors import LabelStudioError
from ml_backend.fetch import FetchError
from ml_backend.init import InitRequest, initialise
from ml_backend.label_studio import LabelStudio, Refused, Unreachable
from ml_backend.label_studio_errors import LEGACY_TOKEN_HINT
from ml_backend.processes import BackendServer, LabelStudioServer, free_port
from ml_backend.push_now import push_now
from ml_backend.reconcile import reconcile
from ml_backend.round_steps import push_round, reconcile_labels, score_current
from ml_backend.runtime import Runtime
from ml_backend.settings import Settings, ensure_secrets
from ml_backend.status import project_status
from ml_backend.store import Project, Store
from training.regions import RegionId
from training.scenes import write_scene_set

# The SDK's refresh calls pydantic's old name.
OLD_NAME = "ignore:The `parse_obj` method is deprecated"
pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.filterwarnings(OLD_NAME)]

FAULTS = {
    Fault.PASS: 0.5, Fault.ERROR: 0.15, Fault.BUSY: 0.1, Fault.RESET: 0.1, Fault.LOST_ANSWER: 0.15,
}  # fmt: skip
EXPIRED = Reply(401, b'{"detail": "Given token not valid"}', {"Content-Type": "application/json"})


@dataclass
class Site:
    """A backend that reaches Label Studio through the proxy only."""

    server: LabelStudioServer
    proxy: FaultProxy
    settings: Settings
    store: Store
    images: Path
    clients: list[LabelStudio]
    numbers: Iterator[int]
    personal: str = ""

    def client(self, token: str = "", attempts: int = 3) -> LabelStudio:
        backoff = Backoff(attempts=attempts, first_s=0.02, cap_s=5.0)
        made = LabelStudio(
            self.proxy.url, token or self.server.token, backoff=backoff, timeout_s=5.0
        )
        self.clients.append(made)
        return made

    def project(self, ls: LabelStudio, pushed: bool = False) -> Project:
        """A connected project; nothing goes wrong while it is made."""
        self.proxy.plan = lambda _: Fault.PASS
        request = InitRequest(
            classes="camvid", images=(str(self.images),), budget=20, push=pushed,
            title=f"faults {next(self.numbers)}",
        )  # fmt: skip
        return initialise(self.settings, self.store, ls, request).project

    def push(self, ls: LabelStudio, project: Project) -> None:
        """What the worker does when questions are missing."""
        push_now(Runtime(self.settings, self.store, ls), project.id)

    def personal_token(self) -> str:
        """A user has one at a time, so it is made once and revoked at the end."""
        if not self.personal:
            self.personal = str(self._post("token/")["token"])
        return self.personal

    def revoke(self) -> str:
        """Really switch the personal token off; returns it."""
        token, self.personal = self.personal, ""
        if token:
            self._post("token/blacklist/", refresh=token)
        return token

    def _post(self, path: str, **body: object) -> dict[str, object]:
        headers = {"Authorization": f"Token {self.server.token}"}
        answer = requests.post(
            f"{self.server.url}/api/{path}", headers=headers, json=body, timeout=30
        )
        answer.raise_for_status()
        return dict(answer.json()) if answer.content else {}

    def assert_pushed_once(self, project: Project) -> None:
        """Every question is open, is one task in Label Studio, and nothing else is there."""
        self.proxy.plan = lambda _: Fault.PASS
        ls = self.client()
        queries = self.store.queries(project.id)
        assert {q.status for q in queries} == {"open"}
        tasks = {t["id"]: t["data"]["region"] for t in ls.tasks(project.id)}
        assert tasks == {q.task_id: str(RegionId(q.image_id, q.region_index)) for q in queries}
        assert max(Counter(tasks.values()).values()) == 1
        assert ls.project(project.id)["model_version"] == "r0"

    def annotate(self, project: Project, count: int) -> None:
        """Answer the first questions, past the proxy; no webhook arrives."""
        result = answer_result(
            Answer("classes", ("Road",)), make_schema("Sky", "Road"), "region_multiclass"
        )
        for query in self.store.queries(project.id, status="open")[:count]:
            self._post(f"tasks/{query.task_id}/annotations/", result=result)


@pytest.fixture(scope="module")
def site(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("behind")
    write_scene_set(folder / "scenes", train=2, heldout=0, seed=0)
    port = free_port()
    with FaultProxy(label_studio.url) as proxy:
        environ = {
            **backend_environment(folder, label_studio, port),
            "LABEL_STUDIO_URL": proxy.url,
        }
        ensure_secrets(folder / "pixbal")
        settings = Settings.from_env(environ)
        store = Store.open(settings.database_url)
        images = folder / "scenes" / "train" / "images"
        made = Site(label_studio, proxy, settings, store, images, [], itertools.count())
        with BackendServer(env=environ, log=folder / "backend.log", port=port):
            yield made
        made.revoke()
        for client in made.clients:
            client.close()
        store.close()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pages in a push of a few questions."""
    monkeypatch.setattr(push, "PAGE", 3)
    monkeypatch.setattr(label_studio_tasks, "PAGE", 3)


def until_done(what: Callable[[], object], tries: int = 60) -> int:
    """Repeat as the worker does; every failure must say what to do. Returns the failures."""
    for failures in range(tries):
        try:
            what()
            return failures
        except LabelStudioError as error:
            if not error.hint:
                raise
    raise AssertionError(f"not done after {tries} tries")


@pytest.mark.guarantee(12)
@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("seed", range(3))
def test_a_push_through_faults_goes_on_and_doubles_nothing(site: Site, seed: int) -> None:
    """Answers lost after the import was made are the hard case.

    Seen failing (tasks pushed twice) with `adopt_uncertain` setting all rows back to "planned".
    """
    ls = site.client(attempts=2)
    project = site.project(ls)
    site.proxy.plan = random_plan(seed, FAULTS)
    assert until_done(lambda: site.push(ls, project)) > 0
    assert site.proxy.count(Fault.LOST_ANSWER, Fault.ERROR, Fault.RESET, Fault.BUSY) > 3
    site.assert_pushed_once(project)


@pytest.mark.guarantee(12)
def test_a_lost_answer_to_the_import_is_adopted(site: Site) -> None:
    """Seen failing as the test above, and with `repeat=False` left out of `_import_page`."""
    ls = site.client()
    project = site.project(ls)
    hits = iter([Fault.LOST_ANSWER])

    def plan(request: Request) -> Decision:
        return next(hits, Fault.PASS) if "/import" in request.path else Fault.PASS

    site.proxy.plan = plan
    with pytest.raises(LabelStudioError):
        site.push(ls, project)
    assert site.store.queries(project.id, status="pushing")
    site.push(ls, project)
    site.assert_pushed_once(project)


@pytest.mark.guarantee(5)
@pytest.mark.guarantee(12)
@pytest.mark.usefixtures("small_pages")
def test_a_walk_through_faults_deletes_nothing_and_ends_right(site: Site) -> None:
    """Seen failing with the listing ending quietly where a page of it fails."""
    ls = site.client(attempts=2)
    project = site.project(ls, pushed=True)
    count = len(site.store.queries(project.id)) // 2
    site.annotate(project, count)
    reconcile(site.store, ls, project.id, datetime.now(UTC))
    before = site.store.labels(project.id)
    assert len(before) == count

    def walk() -> None:
        try:
            reconcile(site.store, ls, project.id, datetime.now(UTC))
        finally:
            assert site.store.labels(project.id)[:count] == before

    site.proxy.plan = lambda _: Fault.RESET
    with pytest.raises(Unreachable):
        walk()
    site.annotate(project, 2)
    site.proxy.plan = random_plan(5, {**FAULTS, Fault.PASS: 0.3})
    until_done(walk)
    assert len(site.store.labels(project.id)) == count + 2


@pytest.mark.guarantee(12)
def test_retry_after_is_waited_for(site: Site) -> None:
    """Seen failing with `wait_s` left out of `LabelStudio.call`."""
    ls = site.client()
    project = site.project(ls, pushed=True)
    script = iter([Fault.BUSY, Fault.BUSY])
    site.proxy.retry_after_s = 1
    site.proxy.plan = lambda _: next(script, Fault.PASS)
    start = len(site.proxy.seen)
    try:
        reconcile(site.store, ls, project.id, datetime.now(UTC))
    finally:
        site.proxy.retry_after_s = 0
    times = [when for when, _, _ in site.proxy.seen[start:]]
    assert times[1] - times[0] >= 1.0
    assert times[2] - times[1] >= 1.0


@pytest.mark.guarantee(12)
def test_a_server_that_is_away_or_slow_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctor and error say it; afterwards work goes on. Seen failing with `timeout_s` ignored."""
    ls = site.client()
    project = site.project(ls, pushed=True)
    site.proxy.plan = lambda _: Fault.RESET
    with pytest.raises(Unreachable, match="No answer") as caught:
        reconcile(site.store, ls, project.id, datetime.now(UTC))
    assert "LABEL_STUDIO_URL" in caught.value.hint
    (check,) = [c for c in examine(site.settings, site.store, ls) if c.name == "Label Studio"]
    assert check.ok is False
    hurried = LabelStudio(
        site.proxy.url, site.server.token, backoff=Backoff(attempts=2, first_s=0.01), timeout_s=0.3
    )
    site.clients.append(hurried)
    monkeypatch.setattr("fault_proxy.SLOW_S", 1.0)
    site.proxy.plan = lambda _: Fault.SLOW
    with pytest.raises(Unreachable, match="timed out"):
        reconcile(site.store, hurried, project.id, datetime.now(UTC))
    site.proxy.plan = lambda _: Fault.PASS
    assert reconcile(site.store, ls, project.id, datetime.now(UTC)).withdrawn == 0
    site.assert_pushed_once(project)


@pytest.mark.guarantee(12)
def test_a_round_that_waits_says_what_for(site: Site) -> None:
    """In the round's record and in `pixbal status`, until it goes on."""
    ls = site.client(attempts=1)
    project = site.project(ls)
    site.store.update_project(project.id, push_held=False)  # as after a first push
    runtime = Runtime(site.settings, site.store, ls)
    score_current(runtime, project)
    site.store.start_round(project.id, 1, "labels", f"waiting {project.id}")
    for step, state in ((reconcile_labels, "reconciling"), (push_round, "pushing")):
        site.proxy.plan = lambda _: Fault.ERROR
        with pytest.raises(LabelStudioError):
            step(runtime, project.id, 1)
        (shown,) = project_status(site.settings, site.store, project.id)["rounds"]
        assert shown["state"] == state
        assert "answered 500" in shown["error"]
        site.proxy.plan = lambda _: Fault.PASS
        step(runtime, project.id, 1)
        row = site.store.round(project.id, 1)
        assert row is not None
        assert row.error is None


@pytest.mark.guarantee(12)
@pytest.mark.usefixtures("small_pages")
def test_an_access_token_that_expires_midway_is_renewed(site: Site) -> None:
    """A personal token lives on; its access tokens are refused at every second request.

    Seen failing with `_forget_access_token` doing nothing.
    """
    ls = site.client(site.personal_token())
    assert ls.token_kind == "personal"
    project = site.project(ls)
    calls = itertools.count(1)

    def plan(request: Request) -> Decision:
        refresh = "/token/refresh" in request.path
        return EXPIRED if not refresh and next(calls) % 2 == 0 else Fault.PASS

    start = len(site.proxy.seen)
    site.proxy.plan = plan
    site.push(ls, project)
    refreshed = [r for _, r, _ in site.proxy.seen[start:] if "/token/refresh" in r.path]
    assert len(refreshed) >= 2
    site.assert_pushed_once(project)


@pytest.mark.guarantee(12)
def test_a_token_that_was_switched_off_is_named_and_a_new_one_goes_on(site: Site) -> None:
    """Really switched off in Label Studio: first the legacy kind, then the personal token itself.

    Seen failing with LEGACY_TOKEN_HINT left out of `refusal`.
    """
    legacy, personal = site.client(), site.client(site.personal_token())
    project = site.project(legacy)
    switch = {"legacy_api_tokens_enabled": False, "api_tokens_enabled": True}
    _jwt_settings(site, personal, switch)
    try:
        with pytest.raises(Refused) as caught:
            site.push(legacy, project)
        assert caught.value.hint == LEGACY_TOKEN_HINT
        assert not caught.value.transient
        checks = {c.name: c for c in examine(site.settings, site.store, legacy)}
        assert "legacy token" in checks["token"].detail
        assert checks["token"].ok is False
        site.push(personal, project)
    finally:
        _jwt_settings(site, personal, {**switch, "legacy_api_tokens_enabled": True})
    site.assert_pushed_once(project)
    token = site.revoke()
    with pytest.raises(Refused) as caught:
        site.client(token).whoami()
    assert caught.value.code == 401
    assert "LABEL_STUDIO_API_KEY" in caught.value.hint


def _jwt_settings(site: Site, ls: LabelStudio, values: dict[str, bool]) -> None:
    answer = requests.post(
        f"{site.server.url}/api/jwt/settings", headers=ls._authorization(), json=values, timeout=30
    )
    assert answer.status_code in (200, 201), answer.text


@pytest.mark.guarantee(12)
def test_images_are_fetched_through_faults(site: Site) -> None:
    """Seen failing with the loop left out of `LabelStudio.fetch`."""
    body = b"\x89PNG\r\n\x1a\n picture"
    folder = site.server.files_root / "faults"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(body)
    ls = site.client(site.personal_token(), attempts=5)
    project = site.project(ls)
    ls.ensure_local_storage(project.id, str(folder), "faults")
    for script in (
        [Fault.ERROR, Fault.RESET, Fault.BUSY],
        [EXPIRED],
        [Fault.LOST_ANSWER, replace(EXPIRED), Fault.ERROR],
    ):
        left: Iterator[Decision] = iter(script)
        site.proxy.plan = lambda r, left=left: (  # type: ignore[misc]
            Fault.PASS if "/token" in r.path else next(left, Fault.PASS)
        )
        assert ls.fetch("/data/local-files/?d=faults/a.png") == body
        assert next(left, None) is None
    site.proxy.plan = lambda r: Fault.PASS if "/token" in r.path else Fault.ERROR
    start = len(site.proxy.seen)
    with pytest.raises(FetchError, match="answered 500"):
        ls.fetch("/data/local-files/?d=faults/a.png")
    assert len(site.proxy.seen) - start == 5
