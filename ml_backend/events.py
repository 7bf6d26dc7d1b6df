"""Events as values: what may be stored of them, and when two are the same."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
# Everything secret that Label Studio 1.23 puts into bodies, and what later releases may add.
SECRET_KEYS = frozenset(
    {
        "access_token",
        "api_key",
        "auth_token",
        "authorization",
        "basic_auth_pass",
        "basic_auth_user",
        "password",
        "refresh",
        "secret",
        "task_data_login",
        "task_data_password",
        "token",
    }
)
# Asking again is a new request, even with the same words.
NEVER_EQUAL = frozenset({"START_TRAINING"})


def redact(value: Any) -> Any:
    """A copy without secrets; an annotation's `result` is kept as it came.

    Depth is the caller's to check: the JSON door refuses deep bodies.
    """
    if isinstance(value, Mapping):
        return {
            key: _redacted(item)
            if str(key).lower() in SECRET_KEYS
            else (item if key == "result" else redact(item))
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _redacted(value: Any) -> Any:
    return value if value is None or value == "" else REDACTED


def event_digest(project_id: int | None, action: str, payload: Mapping[str, Any]) -> str:
    """Equal for deliveries of one event, whatever their order of fields and the project's counts.

    An annotation is known by id, update time and content; other events by everything but the
    project's statistics, which differ between two deliveries. START_TRAINING is always new.
    """
    if action in NEVER_EQUAL:
        return secrets.token_hex(32)
    content = {key: _identity(key, value) for key, value in payload.items() if key != "project"}
    text = json.dumps([project_id, action, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


_ANNOTATION_IDENTITY = ("id", "task", "updated_at", "was_cancelled", "result")


def _identity(key: str, value: Any) -> Any:
    if key == "annotation" and isinstance(value, Mapping):
        return {name: value.get(name) for name in _ANNOTATION_IDENTITY}
    if key in ("annotations", "tasks") and isinstance(value, list):
        return [_identity("annotation", item) for item in value]
    if key == "task" and isinstance(value, Mapping):
        return value.get("id")
    return value
