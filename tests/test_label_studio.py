from __future__ import annotations

import ast
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from http_stub import Reply, Request, Stub, replies

from label_config import ClassSchema, build
from ml_backend.backoff import Backoff
from ml_backend.errors import LabelStudioError
from ml_backend.fetch import FetchError
from ml_backend.label_studio import ImportUncertain, LabelStudio, Refused, Unreachable
from ml_backend.processes import LabelStudioServer, free_port

TOKEN = "0123456789abcdef0123456789abcdef01234567"
CONFIG = build(ClassSchema.preset("camvid"))


class Naps(list[float]):
    """Stands for time.sleep; keeps what it was asked for."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def client(url: str, naps: Naps | None = None, attempts: int = 4) -> LabelStudio:
    return LabelStudio(
        url,
        TOKEN,
        backoff=Backoff(
            attempts=attempts, jitter=random.Random(0), sleep=Naps() if naps is None else naps
        ),
        timeout_s=5.0,
    )


def task(index: int, version: str = "r0", score: float = 0.5) -> dict[str, Any]:
    result = {
        "from_name": "classes",
        "to_name": "region",
        "type": "choices",
        "value": {"choices": ["0"]},
    }
    return {
        "data": {"crop": "http://x/c.jpg", "locator": "http://x/l.jpg", "region": f"img:{index}"},
        "predictions": [{"model_version": version, "score": score, "result": [result]}],
    }


def imported(*ids: int) -> Reply:
    return Reply(201, {"task_count": len(ids), "task_ids": list(ids)})


# -- without a server: what is repeated, what is not ------------------------------------------


def test_only_the_client_imports_the_sdk() -> None:
    package = Path(__file__).resolve().parents[1] / "ml_backend"
    importers = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "label_studio_sdk" for name in names):
                importers.add(path.name)
    assert importers == {"label_studio.py"}


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_reading_call_is_repeated(status: int) -> None:
    naps = Naps()
    script = replies(Reply(status), Reply(status), Reply(200, {"id": 3}))
    with Stub(script) as server:
        assert client(server.url, naps).project(3) == {"id": 3}
        assert len(server.requests) == 3
    assert len(naps) == 2
    assert 0.25 <= naps[0] < 0.5 <= naps[1] < 1.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
def test_a_refusal_is_not_repeated(status: int) -> None:
    with Stub(replies(Reply(status, {"detail": "because"}))) as server:
        with pytest.raises(Refused, match=f"answered {status} to project 3: because") as caught:
            client(server.url).project(3)
        assert len(server.requests) == 1
    assert caught.value.code == status
    assert caught.value.hint


def test_retry_after_is_obeyed() -> None:
    naps = Naps()
    script = replies(Reply(429, headers={"Retry-After": "9"}), Reply(200, {"id": 3}))
    with Stub(script) as server:
        client(server.url, naps).project(3)
    assert naps == [9.0]


def test_tries_end() -> None:
    with Stub(replies(Reply(503))) as server:
        with pytest.raises(Refused, match="answered 503"):
            client(server.url, attempts=3).project(3)
        assert len(server.requests) == 3


def test_a_hung_up_connection_is_tried_again() -> None:
    with Stub(replies(Reply(hang_up=True), Reply(200, {"id": 3}))) as server:
        assert client(server.url).project(3) == {"id": 3}


def test_no_server_at_all_says_where_it_looked() -> None:
    naps, port = Naps(), free_port()
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}") as caught:
        client(f"http://127.0.0.1:{port}", naps).project(3)
    assert "LABEL_STUDIO_URL" in caught.value.hint
    assert len(naps) == 3


@pytest.mark.parametrize("reply", [Reply(500), Reply(503), Reply(hang_up=True)])
def test_an_import_whose_answer_is_lost_is_never_repeated(reply: Reply) -> None:
    with Stub(replies(reply)) as server:
        with pytest.raises(ImportUncertain) as caught:
            client(server.url).import_tasks(3, [task(0)])
        assert len(server.requests) == 1
    assert caught.value.made == []


def test_an_import_that_was_put_off_is_repeated() -> None:
    with Stub(replies(Reply(429), imported(7))) as server:
        assert client(server.url).import_tasks(3, [task(0)]) == [7]
        assert len(server.requests) == 2


def test_an_import_that_was_refused_is_certain() -> None:
    with Stub(replies(Reply(400, {"detail": "crop key is expected"}))) as server:
        with pytest.raises(Refused, match="crop key is expected"):
            client(server.url).import_tasks(3, [task(0)])


def test_an_import_that_never_left_is_certain() -> None:
    with pytest.raises(Unreachable):
        client(f"http://127.0.0.1:{free_port()}").import_tasks(3, [task(0)])


def test_a_page_refused_after_another_was_taken_is_uncertain() -> None:
    script = replies(imported(*range(1, 501)), Reply(400, {"detail": "no"}))
    with Stub(script) as server, pytest.raises(ImportUncertain) as caught:
        client(server.url).import_tasks(3, [task(k) for k in range(501)])
    assert caught.value.made == list(range(1, 501))


def test_an_import_that_confirms_fewer_ids_is_uncertain() -> None:
    with Stub(replies(imported(1))) as server, pytest.raises(ImportUncertain, match="1 of 2"):
        client(server.url).import_tasks(3, [task(0), task(1)])


def test_dropped_predictions_are_an_error() -> None:
    with Stub(replies(Reply(201, {"created": 0}))) as server:
        with pytest.raises(LabelStudioError, match="stored 0 of 1") as caught:
            client(server.url).import_predictions(3, [{"task": 1, "result": [], "score": -2.0}])
    assert "[0, 1]" in caught.value.hint


def test_nothing_to_import_asks_nothing() -> None:
    with Stub(replies(Reply(500))) as server:
        assert client(server.url).import_tasks(3, []) == []
        assert client(server.url).import_predictions(3, []) == 0
        assert client(server.url).tasks_with_prediction(3, [], "r0") == set()
        client(server.url).delete_tasks(3, [])
        assert server.requests == []


def test_the_private_address_trap_names_both_variables() -> None:
    detail = {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}

    def answer(request: Request) -> Reply:
        return Reply(200, []) if request.method == "GET" else Reply(403, detail)

    with Stub(answer) as server, pytest.raises(LabelStudioError) as caught:
        client(server.url).ensure_webhook(3, "http://10.0.0.2/webhook", {})
    assert "USE_DEFAULT_BANNED_SUBNETS=false" in caught.value.hint
    assert "USER_ADDITIONAL_BANNED_SUBNETS=169.254.0.0/16" in caught.value.hint


def test_a_refused_connection_leaves_no_half_made_backend() -> None:
    """With ML_BLOCK_LOCAL_IP=false alone Label Studio answers 403 and keeps the row."""
    rows: list[dict[str, Any]] = []
    half = {"id": 4, "url": "http://10.0.0.2", "state": "CO", "title": "PixBal", "project": 3}

    def answer(request: Request) -> Reply:
        if request.method == "POST":
            rows.append(half)
            return Reply(403, {"detail": "URL resolves to a reserved network address"})
        if request.method == "DELETE":
            assert request.path == "/api/ml/4"
            rows.clear()
            return Reply(204)
        return Reply(200, list(rows))

    with Stub(answer) as server, pytest.raises(Refused, match="reserved"):
        client(server.url).ensure_ml_backend(3, "http://10.0.0.2", "PixBal", "u", "p")
    assert rows == []


def test_a_disabled_legacy_token_is_explained() -> None:
    detail = (
        "Authentication token no longer valid: legacy token authentication has been disabled "
        "for this organization"
    )
    with Stub(replies(Reply(401, {"detail": detail}))) as server, pytest.raises(Refused) as caught:
        client(server.url).whoami()
    assert "personal access token" in caught.value.hint


def test_a_page_of_html_is_not_quoted() -> None:
    page = Reply(404, b"\n<!doctype html><html>lots</html>", {"Content-Type": "text/html"})
    with Stub(replies(page)) as server, pytest.raises(Refused) as caught:
        client(server.url).whoami()
    assert "lots" not in str(caught.value)
    assert "is LABEL_STUDIO_URL the address" in str(caught.value)


def test_a_login_page_with_status_200_is_an_error() -> None:
    page = Reply(200, b"<html>log in</html>", {"Content-Type": "text/html"})
    with Stub(replies(page)) as server, pytest.raises(Refused, match="an HTML page"):
        client(server.url).whoami()


def test_a_redirect_is_told_not_followed() -> None:
    there = Reply(301, headers={"Location": "https://ls.example/api"})
    with Stub(replies(there)) as server, pytest.raises(Refused, match="answered 301") as caught:
        client(server.url).whoami()
    assert "LABEL_STUDIO_URL" in caught.value.hint


def test_the_token_is_in_no_error_and_no_repr() -> None:
    with Stub(replies(Reply(401, {"detail": "Invalid token."}))) as server:
        ls = client(server.url)
        with pytest.raises(Refused) as caught:
            ls.whoami()
        assert server.requests[0].headers["Authorization"] == f"Token {TOKEN}"
    assert TOKEN not in str(caught.value) + repr(caught.value) + repr(ls)


def test_no_cookie_is_sent_back() -> None:
    cookie = Reply(200, {"id": 3}, {"Set-Cookie": "sessionid=abc; Path=/"})
    with Stub(replies(cookie)) as server:
        ls = client(server.url)
        ls.project(3)
        ls.project(3)
        assert "Cookie" not in server.requests[1].headers


# -- with a real server ------------------------------------------------------------------------


@pytest.fixture
def ls(label_studio: LabelStudioServer) -> Iterator[LabelStudio]:
    found = LabelStudio(label_studio.url, label_studio.token)
    yield found
    found.close()


@pytest.fixture
def project(ls: LabelStudio) -> Iterator[int]:
    project_id = ls.create_project("client tests", CONFIG, sampling="Uncertainty sampling")
    yield project_id
    ls.delete_project(project_id)


@pytest.fixture
def annotate(label_studio: LabelStudioServer) -> Callable[..., dict[str, Any]]:
    """Annotate a task as an annotator's browser does; returns the annotation."""
    import httpx

    headers = {"Authorization": f"Token {label_studio.token}"}

    def submit(task_id: int, *choices: str, skip: bool = False) -> dict[str, Any]:
        value = {"choices": list(choices)}
        item = {"from_name": "classes", "to_name": "region", "type": "choices", "value": value}
        answer = httpx.post(
            f"{label_studio.url}/api/tasks/{task_id}/annotations/",
            headers=headers,
            json={"result": [item], "lead_time": 2.5, "was_cancelled": skip},
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    return submit


@pytest.mark.server
@pytest.mark.slow
def test_live_server_and_project(ls: LabelStudio, project: int, label_studio: Any) -> None:
    assert ls.whoami()["email"] == label_studio.user
    assert ls.version().startswith("1.23.")
    assert ls.token_kind == "legacy"
    found = ls.project(project)
    assert found["label_config"] == CONFIG
    assert found["sampling"] == "Uncertainty sampling"
    ls.validate_config(project, CONFIG)
    with pytest.raises(Refused):
        ls.validate_config(project, "<View")
    with pytest.raises(Refused, match="model_version"):
        ls.update_project(project, model_version="r7")
    with pytest.raises(Refused) as caught:
        ls.project(999_999)
    assert caught.value.code == 404


@pytest.mark.server
@pytest.mark.slow
def test_live_tasks_are_imported_in_order_and_listed_whole(ls: LabelStudio, project: int) -> None:
    ids = ls.import_tasks(project, [task(k) for k in range(1203)])
    assert len(set(ids)) == 1203
    listed = list(ls.tasks(project, with_annotations=False))
    assert [t["id"] for t in listed] == sorted(ids)
    regions = {t["id"]: t["data"]["region"] for t in listed}
    assert [regions[i] for i in ids] == [f"img:{k}" for k in range(1203)]
    assert set(listed[0]) == {"id", "data"}
    assert ls.model_versions(project) == {"r0": 1203}

    ls.delete_tasks(project, ids[:2])
    ls.delete_tasks(project, ids[:2])
    listing = ls.tasks(project, with_annotations=False)
    first = next(listing)["id"]
    # Deleted while somebody walks: offsets would shift one task out of sight, ids do not.
    ls.delete_tasks(project, [first])
    assert [first, *(t["id"] for t in listing)] == ids[2:]


@pytest.mark.server
@pytest.mark.slow
def test_live_annotations_come_with_skips_and_times(
    ls: LabelStudio, project: int, annotate: Callable[..., dict[str, Any]]
) -> None:
    ids = ls.import_tasks(project, [task(k) for k in range(3)])
    before = datetime.now(UTC)
    made = annotate(ids[0], "1", "2")
    skipped = annotate(ids[1], "0", skip=True)
    first, second, third = ls.tasks(project)
    assert third["annotations"] == []
    assert second["annotations"][0]["was_cancelled"] is True
    assert second["annotations"][0]["id"] == skipped["id"]
    [annotation] = first["annotations"]
    assert annotation["id"] == made["id"]
    assert annotation["result"] == made["result"]
    assert annotation["lead_time"] == 2.5
    assert annotation["completed_by"] == ls.whoami()["id"]
    assert datetime.fromisoformat(annotation["updated_at"]) >= before
    assert annotation["updated_at"] == made["updated_at"]
    assert [a["id"] for a in ls.annotations(ids[0])] == [made["id"]]

    since = datetime.fromisoformat(max(t["updated_at"] for t in (first, second, third)))
    assert list(ls.tasks(project, updated_after=since)) == []
    time.sleep(0.01)
    annotate(ids[2], "3")
    assert [t["id"] for t in ls.tasks(project, updated_after=since)] == [ids[2]]
    assert len(list(ls.tasks(project, updated_after=before - timedelta(minutes=5)))) == 3


@pytest.mark.server
@pytest.mark.slow
def test_live_predictions_by_version(ls: LabelStudio, project: int) -> None:
    ids = ls.import_tasks(project, [task(k) for k in range(3)])
    renewed = [{"task": i, **task(0, version="r10", score=0.25)["predictions"][0]} for i in ids[:2]]
    assert ls.import_predictions(project, renewed) == 2
    assert ls.tasks_with_prediction(project, ids, "r10") == set(ids[:2])
    assert ls.tasks_with_prediction(project, ids, "r0") == set(ids)
    assert ls.tasks_with_prediction(project, ids, "r1") == set()
    below = [{"task": ids[2], "result": [], "score": -0.5, "model_version": "r10"}]
    with pytest.raises(LabelStudioError, match="stored 0 of 1"):
        ls.import_predictions(project, below)


@pytest.mark.server
@pytest.mark.slow
def test_live_the_lowest_score_comes_next(
    ls: LabelStudio, project: int, annotate: Callable[..., dict[str, Any]]
) -> None:
    scores = [0.9, 0.1, 0.5]
    ids = ls.import_tasks(project, [task(k, score=s) for k, s in enumerate(scores)])
    order = []
    while (found := ls.next_task(project)) is not None:
        order.append(ids.index(found["id"]))
        annotate(found["id"], "0")
    assert order == [1, 2, 0]


@pytest.mark.server
@pytest.mark.slow
def test_live_uploads_are_fetched(
    ls: LabelStudio, project: int, label_studio: LabelStudioServer
) -> None:
    import httpx

    files = {"file": ("a.png", b"\x89PNG\r\n\x1a\n picture", "image/png")}
    one_key = '<View><Image name="i" value="$image"/></View>'
    home = ls.create_project("uploads", one_key)
    headers = {"Authorization": f"Token {label_studio.token}"}
    made = httpx.post(
        f"{label_studio.url}/api/projects/{home}/import?commit_to_project=false",
        headers=headers,
        files=files,
    )
    file_id = made.json()["file_upload_ids"][0]
    path = httpx.get(f"{label_studio.url}/api/import/file-upload/{file_id}", headers=headers)
    name = path.json()["file"]
    assert ls.fetch(f"/data/{name}") == files["file"][1]
    assert ls.fetch(name) == files["file"][1]
    with pytest.raises(FetchError, match=r"none\.png answered"):
        ls.fetch("/data/upload/1/none.png")

    folder = label_studio.files_root / "set"
    folder.mkdir()
    (folder / "b.png").write_bytes(b"local")
    storage = httpx.post(
        f"{label_studio.url}/api/storages/localfiles/",
        headers=headers,
        json={"project": home, "path": str(folder), "use_blob_urls": True},
    )
    assert storage.status_code == 201
    assert ls.fetch("/data/local-files/?d=set/b.png") == b"local"
    ls.delete_project(home)


# The SDK's refresh calls pydantic's old name.
@pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated")
@pytest.mark.server
@pytest.mark.slow
def test_live_a_personal_token_is_refreshed(
    ls: LabelStudio, project: int, label_studio: LabelStudioServer
) -> None:
    import httpx
    import jwt

    headers = {"Authorization": f"Token {label_studio.token}"}
    made = httpx.post(f"{label_studio.url}/api/token/", headers=headers)
    assert made.status_code == 201
    personal = LabelStudio(label_studio.url, made.json()["token"])
    assert personal.token_kind == "personal"
    assert personal.whoami() == ls.whoami()
    assert len(personal.import_tasks(project, [task(0)])) == 1

    tokens = personal._sdk()._client_wrapper._tokens_client
    good = tokens._access_token
    # Expired by our clock: the SDK asks for another. Refused by the server's: we do.
    for exp in (time.time() - 1, time.time() + 999):
        stale = jwt.encode({"exp": int(exp), "token_type": "access"}, "k" * 32, algorithm="HS256")
        tokens._access_token = stale
        assert personal.whoami() == ls.whoami()
        assert tokens._access_token not in (stale, None)
    assert good.count(".") == 2

    false = LabelStudio(
        label_studio.url,
        jwt.encode({"exp": int(time.time()) + 99, "token_type": "refresh"}, "k" * 32),
    )
    with pytest.raises(Refused) as caught:
        false.whoami()
    assert caught.value.code == 401
    late = LabelStudio(label_studio.url, jwt.encode({"exp": 1, "token_type": "refresh"}, "k" * 32))
    with pytest.raises(Refused, match="expired"):
        late.whoami()
    personal.close()
    false.close()
