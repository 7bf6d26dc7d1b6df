"""What may go wrong between a client and the fake Label Studio, by rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")


class HttpError(Exception):
    """An HTTP status that is not a success, with its body."""

    def __init__(self, code: int, body: object) -> None:
        super().__init__(f"{code}: {body}")
        self.code = code
        self.body = body


class Kind(Enum):
    """What becomes of a request."""

    STATUS = "refused with a status, nothing was done"
    AWAY = "nobody listens"
    RESET = "the request went out, nothing was done, no answer"
    LOST = "done, no answer"
    HALF = "done, and refused with a status all the same"
    TWICE = "done twice, one answer"
    SLOW = "done after some time; no answer if that is longer than the client waits"
    BEFORE = "done; somebody else is at work just before"
    AFTER = "done; somebody else is at work before the answer comes"


@dataclass
class Rule:
    """A fault of the next requests that match; `times` None is for ever.

    Attributes:
        method: which request: the name of the client's method, as in `Faults.METHODS`; "*" = all.
        project: only requests about this project; None = all.
        skip: so many matching requests pass before it begins.
    """

    kind: Kind
    method: str = "*"
    project: int | None = None
    times: int | None = 1
    skip: int = 0
    code: int = 500
    body: object = None
    seconds: float = 0.0
    call: Callable[[], object] = field(default=lambda: None)

    def hits(self, method: str, project: int | None) -> bool:
        """Whether it takes this request; counts it then."""
        if self.method not in ("*", method) or self.project not in (None, project):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


BODIES = {
    403: {"detail": "You do not have permission to perform this action."},
    404: {"detail": "Not found."},
    429: {"detail": "Request was throttled."},
}
SERVER_ERROR = {"detail": "Internal Server Error"}


@dataclass
class Faults:
    """The rules of a server; the first that hits decides.

    Args:
        sleep: how time passes in a slow request; nothing here waits by itself.
    """

    sleep: Callable[[float], None] = lambda seconds: None
    rules: list[Rule] = field(default_factory=list)

    # The names of requests: of the client's methods, or of their parts.
    METHODS = (
        "whoami", "version", "create_project", "project", "update_project", "delete_project",
        "validate_config", "model_versions", "fetch", "import_tasks", "import_predictions", "tasks",
        "tasks_with_prediction", "tasks_with_versions", "predictions", "update_prediction",
        "annotations", "delete_tasks", "next_task",
        "webhooks", "create_webhook", "update_webhook", "delete_webhook",
        "ml_backends", "create_ml_backend", "update_ml_backend", "delete_ml_backend",
        "local_storages", "create_local_storage",
    )  # fmt: skip

    def add(self, kind: Kind, method: str, **more: Any) -> Rule:
        """Add a rule; an unknown method would never be hit."""
        if method != "*" and method not in self.METHODS:
            raise ValueError(f"no request is called {method!r}; there are {self.METHODS}")
        rule = Rule(kind, method, **more)
        self.rules.append(rule)
        return rule

    def pass_through(
        self, method: str, project: int | None, timeout_s: float, do: Callable[[], T]
    ) -> T:
        """Serve a request, or fail it as a rule says: HttpError or an error of httpx."""
        import httpx

        rule = next((rule for rule in self.rules if rule.hits(method, project)), None)
        if rule is None:
            return do()
        if rule.kind in (Kind.STATUS, Kind.HALF):
            if rule.kind is Kind.HALF:
                do()
            body = rule.body if rule.body is not None else BODIES.get(rule.code, SERVER_ERROR)
            raise HttpError(rule.code, body)
        if rule.kind is Kind.AWAY:
            raise httpx.ConnectError("[Errno 111] Connection refused")
        if rule.kind is Kind.RESET:
            raise httpx.ReadError("[Errno 104] Connection reset by peer")
        if rule.kind is Kind.BEFORE:
            rule.call()
            return do()
        if rule.kind is Kind.SLOW:
            self.sleep(min(rule.seconds, timeout_s))
        answer = do()
        if rule.kind is Kind.AFTER:
            rule.call()
        if rule.kind is Kind.TWICE:
            do()
        late = rule.kind is Kind.SLOW and rule.seconds > timeout_s
        if rule.kind is Kind.LOST or late:
            raise httpx.ReadTimeout("The read operation timed out")
        return answer
