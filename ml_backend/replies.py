"""The one shape of an error in JSON."""

from __future__ import annotations

from flask import Response, jsonify


def error_response(status: int, error: str, hint: str = "") -> Response:
    """What went wrong, and what to do."""
    response = jsonify(ok=False, error=error, hint=hint, status=status)
    response.status_code = status
    return response
