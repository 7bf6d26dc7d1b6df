"""JSON bodies from outside: bounded in size and depth before anything looks at them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from flask import Request

from ml_backend.errors import BackendError, BadRequest, TooLarge

MAX_DEPTH = 64
MEGABYTE = 1024 * 1024
MAX_BODY = 10 * MEGABYTE
# "Retrieve predictions" sends all selected tasks, with their annotations, in one request.
MAX_PREDICT_BODY = 64 * MEGABYTE


def read_json(request: Request, max_bytes: int = MAX_BODY) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        TooLarge: more than `max_bytes`.
        BackendError: status 415 where the body is not declared as JSON.
        BadRequest: not UTF-8, not JSON, not an object, nested deeper than 64, or with a number
            that is not finite.
    """
    if not request.is_json:
        raise BackendError(
            f"Expected Content-Type application/json, got {request.mimetype or 'none'!r:.80}.",
            status=415,
        )
    too_large = TooLarge(f"The body is larger than {max_bytes // MEGABYTE} MB.")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    data = request.stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large
    return parse_object(data)


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object out of bytes; errors as `read_json`."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise _too_deep() from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from error
    except ValueError as error:  # no JSON, or an integer of more than 4300 digits
        raise BadRequest(f"The body is not JSON: {str(error)[:200]}") from error
    if b"\\ud" in data.lower():
        _refuse_halves(value)
    if not isinstance(value, dict):
        raise BadRequest(f"Expected a JSON object, got {_kind(value)}.")
    _check_depth(value)
    return value


def member(body: Mapping[str, Any], key: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """A member of an object, of the kind asked for.

    Raises:
        BadRequest: it is missing or of another kind.
    """
    if key not in body:
        raise BadRequest(f"The body has no {key!r}.")
    value = body[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(_NAMES.get(k, k.__name__) for k in kinds)
        raise BadRequest(f"Expected {key!r} to be {wanted}, got {_kind(value)}.")
    return value


_NAMES: Mapping[type[Any], str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _refuse_halves(value: Any) -> None:
    """An escape may name half of a character, which no database and no file can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequest("The body holds half of a surrogate pair.") from error
    except RecursionError as error:
        raise _too_deep() from error


def _too_deep() -> BadRequest:
    return BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()
