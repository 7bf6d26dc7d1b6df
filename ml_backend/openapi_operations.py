"""Parts of the OpenAPI description: one operation, and what it may answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_backend.bodies import MAX_BODY, MEGABYTE
from ml_backend.openapi_schemas import ERROR, ref

BASIC: list[dict[str, list[str]]] = [{"basic": []}]
SECRET_OR_BASIC: list[dict[str, list[str]]] = [{"secret": []}, {"basic": []}]
OPEN: list[dict[str, list[str]]] = []
_REASONS = {
    400: "The body or a parameter is not as described; the error says what came.",
    401: "No secret, or a wrong one.",
    404: "No such project or picture is known here.",
    409: "The request contradicts what is stored, such as another label config.",
    413: "The body is larger than the cap.",
    415: "The body is not declared as JSON.",
    500: "A stored file is gone or damaged.",
    503: "The store does not answer.",
}


def operation(
    name: str,
    summary: str,
    answers: Mapping[int, Mapping[str, Any]],
    *,
    errors: Sequence[int] = (),
    security: Sequence[Mapping[str, Sequence[str]]] = BASIC,
    body: str = "",
    body_bytes: int = MAX_BODY,
    needs_body: bool = True,
    parameters: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """One operation: what it takes, and every status it may answer with."""
    secured = (401,) if security else ()
    about_body = (400, 413, 415) if body else ()
    codes = sorted({*errors, *secured, *about_body, 503})
    found: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "security": list(security),
        "responses": {
            **{str(code): answer for code, answer in answers.items()},
            **{str(code): _failure(code) for code in codes},
        },
    }
    if body:
        found["requestBody"] = {
            "required": needs_body,
            "description": f"At most {body_bytes // MEGABYTE} MB, nested at most 64 levels deep.",
            "content": {"application/json": {"schema": ref(body)}},
        }
    if parameters:
        found["parameters"] = list(parameters)
    return found


def answer(text: str, schema: str) -> dict[str, Any]:
    """A successful answer in JSON."""
    return {"description": text, "content": {"application/json": {"schema": ref(schema)}}}


def _failure(code: int) -> dict[str, Any]:
    return {
        "description": _REASONS[code],
        "content": {"application/json": {"schema": ref(ERROR)}},
    }
