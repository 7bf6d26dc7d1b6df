"""The part of the OpenAPI description that a person's browser asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.ingest import MAX_ID
from ml_backend.openapi_schemas import ERROR, ref

SESSION: list[dict[str, list[str]]] = [{"session": []}]
OPEN: list[dict[str, list[str]]] = []
_PROJECT = {"type": "integer", "minimum": 1, "maximum": MAX_ID}
_TOKEN = {"csrf_token": {"type": "string"}}
_REASONS = {
    303: "To another page; to the log-in where there is no session.",
    400: "The form has no token, or an old one.",
    401: "Not logged in, or user or password is wrong.",
    403: "The page is switched off: no password is set.",
    404: "No such project, version or file is known here.",
    413: "The form is larger than 16 kB.",
    429: "Too many log-ins were tried; Retry-After says how long to wait.",
    503: "The store does not answer, or log-ins cannot be recorded.",
}


def dashboard_paths() -> dict[str, Any]:
    """Pages and their data."""
    project = "/dashboard/projects/{project_id}"
    about = [_part("project_id", _PROJECT)]
    version = [*about, _part("name", {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,200}$"})]
    file = [_part("filename", {"type": "string", "enum": ["dashboard.css", "dashboard.js"]})]
    return {
        "/dashboard/": {"get": _page("overview", "Every project in short.")},
        "/dashboard/login": {
            "get": _page("login", "The form to log in with.", security=OPEN),
            "post": _form("log_in", "Log in.", ("user", "password"), security=OPEN),
        },
        "/dashboard/logout": {"post": _form("logout", "End every session.")},
        project: {"get": _page("project", "Everything about one project.", about)},
        f"{project}/job": {
            "get": _page("job", "The running round.", about, kind="application/json")
        },
        f"{project}/train": {"post": _form("train", "Ask for a training.", parameters=about)},
        f"{project}/questions": {
            "post": _form("questions", "Ask for the next questions.", parameters=about)
        },
        "/dashboard/archived": {"get": _page("archived", "The projects in the archive.")},
        f"{project}/settings": {
            "get": _page("settings", "The settings of a project.", about),
            "post": _form("change_settings", "Change settings.", parameters=about),
        },
        f"{project}/pause": {"post": _form("pause", "Train and push nothing.", parameters=about)},
        f"{project}/resume": {"post": _form("resume", "Go on.", parameters=about)},
        f"{project}/archive": {"post": _form("archive", "Pause and hide.", parameters=about)},
        f"{project}/forget": {
            "get": _page("forgetting", "What forgetting deletes and keeps.", about),
            "post": _form("forget_project", "Forget it.", ("title",), parameters=about),
        },
        f"{project}/ask-again": {
            "post": _form("flagged_again", "Ask the flagged answers again.", parameters=about)
        },
        f"{project}/versions/{{name}}/activate": {
            "post": _form("activate", "Put a version in use.", parameters=version)
        },
        f"{project}/versions/{{name}}.zip": {
            "get": _page("download", "A version, zipped.", version, kind="application/zip")
        },
        "/dashboard/static/{filename}": {
            "get": _page("static", "Style and script of the page.", file, OPEN, kind="text/css")
        },
    }


def _part(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": dict(schema)}


def _page(
    name: str,
    summary: str,
    parameters: Sequence[Mapping[str, Any]] = (),
    security: Sequence[Mapping[str, Sequence[str]]] = SESSION,
    *,
    kind: str = "text/html",
) -> dict[str, Any]:
    """A GET: the page, or where to go instead."""
    return {
        "operationId": f"dashboard_{name}",
        "summary": summary,
        "security": list(security),
        "parameters": list(parameters),
        "responses": {
            "200": {"description": summary, "content": {kind: {}}},
            **_others(303, 401, 403, 404, 413, 503),
        },
    }


def _form(
    name: str,
    summary: str,
    fields: Sequence[str] = (),
    *,
    security: Sequence[Mapping[str, Sequence[str]]] = SESSION,
    parameters: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """A POST: the page to go to afterwards."""
    properties = {**{field: {"type": "string"} for field in fields}, **_TOKEN}
    schema = {"type": "object", "required": list(properties), "properties": properties}
    return {
        "operationId": f"dashboard_{name}",
        "summary": summary,
        "security": list(security),
        "parameters": list(parameters),
        "requestBody": {
            "required": True,
            "description": "A form of at most 16 kB with the token of its page.",
            "content": {"application/x-www-form-urlencoded": {"schema": schema}},
        },
        "responses": _others(303, 400, 401, 403, 404, 413, 429, 503),
    }


def _others(*codes: int) -> dict[str, Any]:
    failure = {"application/json": {"schema": ref(ERROR)}, "text/html": {}}
    return {
        str(code): {"description": _REASONS[code], **({"content": failure} if code > 303 else {})}
        for code in codes
    }
