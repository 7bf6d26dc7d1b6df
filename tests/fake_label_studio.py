"""Label Studio for tests without a server: the client as it is, over a server that is a few lists.

Only what lies below the client is played: the calls of the SDK and the requests by path. Pages,
repeats, hints and the errors (Refused, Unreachable, ImportUncertain) are the client's own.

    ls = FakeLabelStudio()
    ls.server.add_project(4, CONFIG)
    ls.server.fail("update_project", 403, project=4, times=2)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, TypeVar

from fake_label_studio_faults import HttpError
from fake_label_studio_server import OWNER, FakeProject, FakeServer, FakeTask, Row, text_of

from ml_backend.backoff import Backoff
from ml_backend.fetch import FetchError
from ml_backend.label_studio import LabelStudio

T = TypeVar("T")
URL = "http://127.0.0.1:8080"
TOKEN = "0123456789abcdef0123456789abcdef01234567"


class FakeLabelStudio(LabelStudio):
    """A client of a `FakeServer`; several may share one.

    Args:
        attempts: how often a call that may be repeated is tried; pauses pass on the server's clock.
    """

    def __init__(
        self,
        server: FakeServer | None = None,
        *,
        attempts: int = 1,
        url: str = URL,
        api_key: str = TOKEN,
    ) -> None:
        self.server = server or FakeServer()
        backoff = Backoff(attempts=attempts, sleep=self.server.sleep)
        super().__init__(url, api_key, backoff=backoff)

    def fetch(self, url: str, task_id: int | None = None) -> bytes:
        """A file of `server.files`; once, without repeats."""
        import httpx

        def serve() -> bytes:
            if url not in self.server.files:
                raise HttpError(404, "Not found.")
            return self.server.files[url]

        try:
            return self.server.serve("fetch", None, url, self._timeout_s, serve)
        except HttpError as error:
            raise FetchError(f"{url} answered {error.code}.", code=error.code) from error
        except httpx.HTTPError as error:
            raise FetchError(f"{url}: {error}", transient=True) from error

    def close(self) -> None:
        """There are no connections."""

    def _sdk(self) -> Any:
        return Sdk(self.server, self._timeout_s)


class Found(dict[str, Any]):
    """A row as the SDK gives it: a model with attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def model_dump(self, mode: str = "python") -> Row:
        """A dictionary."""
        return deepcopy(dict(self))


class Part:
    """A part of the SDK, such as `sdk.projects`."""

    def __init__(self, server: FakeServer, timeout_s: float) -> None:
        self._server = server
        self._timeout_s = timeout_s

    def _ask(
        self,
        method: str,
        project: int | None,
        sent: Any,
        do: Callable[[], T],
        options: Mapping[str, Any] | None = None,
    ) -> T:
        from label_studio_sdk.core.api_error import ApiError

        timeout_s = float((options or {}).get("timeout", self._timeout_s))
        try:
            return self._server.serve(method, project, sent, timeout_s, do)
        except HttpError as error:
            raise ApiError(status_code=error.code, headers={}, body=error.body) from error


class Sdk(Part):
    """What the client uses of the SDK."""

    def __init__(self, server: FakeServer, timeout_s: float) -> None:
        super().__init__(server, timeout_s)
        self.projects = Projects(server, timeout_s)
        self.actions = Actions(server, timeout_s)
        self.predictions = Predictions(server, timeout_s)
        self.webhooks = Webhooks(server, timeout_s)
        self.ml = MlBackends(server, timeout_s)
        self.versions = Versions(server, timeout_s)
        self.import_storage = Found(local=LocalStorages(server, timeout_s))
        self._client_wrapper = Found(
            httpx_client=Http(server, timeout_s), get_headers=lambda: {"Authorization": "Token t"}
        )


class Versions(Part):
    """sdk.versions"""

    def get(self) -> Found:
        """The release."""
        return self._ask("version", None, None, lambda: Found(release=self._server.release))


class Projects(Part):
    """sdk.projects"""

    def create(self, *, title: str, label_config: str, **fields: Any) -> Found:
        """Make one."""
        sent = {"title": title, "label_config": label_config, **fields}
        return self._ask(
            "create_project", None, sent, lambda: Found(id=self._server.create_project(sent))
        )

    def update(self, *, id: int, **fields: Any) -> Found:
        """Change fields."""

        def do() -> Found:
            self._server.update_project(id, fields)
            return Found(id=id)

        return self._ask("update_project", id, fields, do)

    def delete(self, *, id: int) -> None:
        """Delete it."""
        self._ask("delete_project", id, None, lambda: self._server.delete_project(id))

    def validate_label_config(self, *, id: int, label_config: str) -> None:
        """Check a setup."""
        self._ask(
            "validate_config", id, label_config,
            lambda: self._server.validate_config(id, label_config),
        )  # fmt: skip

    def import_tasks(
        self,
        *,
        id: int,
        request: list[Row],
        return_task_ids: bool,
        request_options: Mapping[str, Any],
    ) -> Found:
        """Add a page of tasks."""

        def do() -> Found:
            ids = self._server.import_tasks(id, request)
            return Found(task_ids=ids if return_task_ids else None)

        return self._ask("import_tasks", id, request, do, request_options)

    def import_predictions(
        self, *, id: int, request: list[Row], request_options: Mapping[str, Any]
    ) -> Found:
        """Add a page of predictions."""
        return self._ask(
            "import_predictions", id, request,
            lambda: Found(created=self._server.import_predictions(id, request)),
            request_options,
        )  # fmt: skip


class Actions(Part):
    """sdk.actions"""

    def create(
        self,
        *,
        id: str,
        project: int,
        selected_items: Mapping[str, Any],
        request_options: Mapping[str, Any],
    ) -> None:
        """Delete tasks: the action that we use."""
        if id != "delete_tasks" or selected_items["all"]:
            raise NotImplementedError(f"{id} of {selected_items}")
        ids = list(selected_items["included"])
        self._ask(
            "delete_tasks", project, ids,
            lambda: self._server.delete_tasks(project, ids), request_options,
        )  # fmt: skip


class Predictions(Part):
    """sdk.predictions"""

    def update(self, *, id: int, **fields: Any) -> Found:
        """Change one."""
        return self._ask(
            "update_prediction", None, {"id": id, **fields},
            lambda: Found(self._server.update_prediction(id, fields)),
        )  # fmt: skip


class Webhooks(Part):
    """sdk.webhooks"""

    def list(self, *, project: int) -> list[Found]:
        """Those of a project."""
        rows = self._server.rows("webhooks", project)
        return self._ask("webhooks", project, None, lambda: [Found(row) for row in rows()])

    def create(self, *, url: str, project: int, **fields: Any) -> Found:
        """Make one."""
        sent = {"url": url, **fields}
        return self._ask(
            "create_webhook", project, sent, lambda: Found(self._server.add_webhook(project, sent))
        )

    def update(self, *, id: int, **fields: Any) -> Found:
        """Change one; without `actions` it has none afterwards."""

        def do() -> Found:
            self._server.row("webhooks", id).update({"actions": [], **deepcopy(fields)})
            return Found(id=id)

        return self._ask("update_webhook", self._server.owner("webhooks", id), fields, do)

    def delete(self, *, id: int) -> None:
        """Delete one."""
        about = self._server.owner("webhooks", id)
        self._ask("delete_webhook", about, id, lambda: self._server.delete_row("webhooks", id))


class MlBackends(Part):
    """sdk.ml"""

    def list(self, *, project: int) -> list[Found]:
        """Those of a project."""
        rows = self._server.rows("ml_backends", project)
        return self._ask("ml_backends", project, None, lambda: [Found(row) for row in rows()])

    def create(self, *, project: int, **fields: Any) -> Found:
        """Connect one."""
        return self._ask(
            "create_ml_backend", project, fields,
            lambda: Found(self._server.add_ml_backend(project, fields)),
        )  # fmt: skip

    def update(self, *, id: int, **fields: Any) -> None:
        """Change one."""
        about = self._server.owner("ml_backends", id)
        self._ask(
            "update_ml_backend", about, fields,
            lambda: self._server.update_ml_backend(id, fields),
        )  # fmt: skip

    def delete(self, *, id: int) -> None:
        """Delete one; its webhook stays."""
        about = self._server.owner("ml_backends", id)
        self._ask(
            "delete_ml_backend", about, id, lambda: self._server.delete_row("ml_backends", id)
        )


class LocalStorages(Part):
    """sdk.import_storage.local"""

    def list(self, *, project: int) -> list[Found]:
        """Those of a project."""
        rows = self._server.rows("storages", project)
        return self._ask("local_storages", project, None, lambda: [Found(row) for row in rows()])

    def create(
        self, *, project: int, path: str, title: str, use_blob_urls: bool, synchronizable: bool
    ) -> Found:
        """Make one."""
        sent = {"path": path, "title": title, "use_blob_urls": use_blob_urls,
                "synchronizable": synchronizable}  # fmt: skip
        return self._ask(
            "create_local_storage", project, sent,
            lambda: Found(self._server.add_storage(project, sent)),
        )  # fmt: skip


class Response:
    """An answer with a JSON body."""

    def __init__(self, code: int, body: Any) -> None:
        self.status_code = code
        self.headers: dict[str, str] = {}
        self._body = body
        self.text = body if isinstance(body, str) else json.dumps(body)

    def json(self) -> Any:
        """The body; ValueError where it is no JSON."""
        if isinstance(self._body, str):
            raise ValueError("not JSON")
        return deepcopy(self._body)


class Http(Part):
    """The requests by path."""

    def request(
        self, path: str, *, method: str, params: Mapping[str, Any] | None = None
    ) -> Response:
        """Serve GET requests that the client makes."""
        name, project, do = self._route(method, path.strip("/").split("/")[1:], params or {})
        sent = None if params is None else dict(params)
        try:
            return Response(200, self._server.serve(name, project, sent, self._timeout_s, do))
        except HttpError as error:
            return Response(error.code, error.body)

    def _route(
        self, method: str, parts: list[str], params: Mapping[str, Any]
    ) -> tuple[str, int | None, Callable[[], Any]]:
        server = self._server
        match [method, *parts]:
            case ["GET", "current-user", "whoami"]:
                user = {"id": OWNER, "email": "owner@example.com", "active_organization": 1}
                return "whoami", None, lambda: user
            case ["GET", "projects", number]:
                return "project", int(number), lambda: server.describe_project(int(number))
            case ["GET", "projects", number, "model-versions"]:
                found = server.project
                return "model_versions", int(number), lambda: found(int(number)).versions()
            case ["GET", "projects", number, "next"]:
                return "next_task", int(number), lambda: server.next_task(int(number))
            case ["GET", "tasks", number, "annotations"]:
                task = int(number)
                return (
                    "annotations",
                    server.owner("tasks", task),
                    (lambda: server.annotations_of(task)),
                )
            case ["GET", "predictions"]:
                task = int(params["task"])
                return (
                    "predictions",
                    server.owner("tasks", task),
                    (lambda: server.predictions_of(task)),
                )
            case ["GET", "tasks"]:
                name = "tasks"
                if "predictions_model_versions" in params["include"]:
                    chosen = "in_list" in params["query"]
                    name = "tasks_with_prediction" if chosen else "tasks_with_versions"
                number = int(params["project"])
                return name, number, lambda: page_of(server.project(number), params)
        raise NotImplementedError(f"{method} {'/'.join(parts)}")


def page_of(project: FakeProject, params: Mapping[str, Any]) -> Row:
    """A page of the Data Manager: filters on id and updated_at, named fields only."""
    tasks = [task for _, task in sorted(project.tasks.items())]
    for item in json.loads(params["query"])["filters"]["items"]:
        tasks = [task for task in tasks if _fits(task, item)]
    fields = str(params["include"]).split(",")
    start = (int(params["page"]) - 1) * int(params["page_size"])
    page = tasks[start : start + int(params["page_size"])]
    return {"tasks": [_shown(project, task, fields) for task in page], "total": len(tasks)}


def _fits(task: FakeTask, item: Mapping[str, Any]) -> bool:
    value = item["value"]
    match item["filter"], item["operator"]:
        case "filter:tasks:id", "greater":
            return task.id > int(value)
        case "filter:tasks:id", "in_list":
            return task.id in value
        case "filter:tasks:updated_at", "greater":
            return text_of(task.updated_at) > str(value)
    raise NotImplementedError(str(item))


def _shown(project: FakeProject, task: FakeTask, fields: list[str]) -> Row:
    versions = dict.fromkeys(str(p["model_version"]) for p in task.predictions)
    annotations = [
        {key: value for key, value in annotation.items() if key in fields}
        for annotation in project.of_task(task.id)
    ]
    whole = {
        "id": task.id,
        "data": task.data,
        "project": project.id,
        "created_at": text_of(task.created_at),
        "updated_at": text_of(task.updated_at),
        "annotations": annotations,
        "predictions_model_versions": ",".join(versions),
    }
    return deepcopy({key: value for key, value in whole.items() if key in fields})
