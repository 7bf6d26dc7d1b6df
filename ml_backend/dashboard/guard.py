"""What stands before and after every route of the page: log-in, form token, headers, errors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from flask import Response, current_app, redirect, render_template, request, url_for
from flask_wtf.csrf import CSRFProtect
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from ml_backend.dashboard import access
from ml_backend.dashboard.ledger import Ledger, TooManyAttempts
from ml_backend.dashboard.surroundings import LabelStudioSign
from ml_backend.errors import BackendError, Unauthorised
from ml_backend.liveness import Watch
from ml_backend.replies import error_response
from ml_backend.services import Services

log = logging.getLogger(__name__)

MAX_FORM = 16 * 1024
LOGIN, STATIC, JOB = "dashboard.login", "dashboard.static", "dashboard.job"
WITHOUT_SESSION = (LOGIN, "dashboard.log_in")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Frame-Options": "DENY",
    # Not no-referrer: over https the form tokens are checked together with the referrer.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
csrf = CSRFProtect()


@dataclass(frozen=True)
class Dashboard:
    """What the routes work with."""

    services: Services
    ledger: Ledger
    label_studio: LabelStudioSign
    workers: Watch


def dashboard() -> Dashboard:
    """The dashboard of this app."""
    found: Dashboard = current_app.extensions["pixbal_dashboard"]
    return found


def link(endpoint: str, **values: Any) -> str:
    """The path of a route as the browser sees it."""
    return access.prefix(dashboard().services.settings) + url_for(endpoint, **values)


def guard() -> AnyResponse | None:
    """Let a request pass that is allowed: a new route is closed, and its forms need a token."""
    if request.endpoint == STATIC:
        return None
    request.max_content_length = MAX_FORM
    access.check_on(dashboard().services.settings)
    # The page asks for the job by itself: that keeps nobody logged in.
    touch = request.endpoint != JOB
    open_to_all = request.endpoint in WITHOUT_SESSION
    if not open_to_all and not access.is_signed_in(dashboard().ledger, touch=touch):
        if request.method in ("GET", "HEAD") and touch:
            return redirect(link(LOGIN), 303)
        raise Unauthorised("You are not logged in any more.", "Log in again.")
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        csrf.protect()
    return None


def add_headers(response: Response) -> Response:
    """Nothing from elsewhere is loaded, nothing is framed, nothing is told to other sites."""
    response.headers.update(HEADERS)
    return response


def failed(error: Exception) -> Response:
    """An error as a page for a browser, as JSON for a program."""
    status, text, hint = _explained(error)
    if wants_page():
        page = render_template("message.html", title=f"Error {status}", text=text, hint=hint)
        response = Response(page, status, mimetype="text/html")
    else:
        response = error_response(status, text, hint)
    if isinstance(error, TooManyAttempts):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, HTTPException):
        allowed = dict(error.get_headers()).get("Allow")
        if allowed:
            response.headers["Allow"] = allowed
    return response


def wants_page() -> bool:
    """Whether the request names HTML as an answer it takes, as browsers do."""
    return "text/html" in request.headers.get("Accept", "")


def _explained(error: Exception) -> tuple[int, str, str]:
    """Status, what went wrong, what to do."""
    if isinstance(error, BackendError):
        return error.status, error.message, error.hint
    if isinstance(error, HTTPException):
        return error.code or 500, error.name, error.description or ""
    if isinstance(error, DBAPIError):
        log.error("%s %s: database: %s", request.method, request.path, error.orig)
        hint = "Check the disk's free space and the database server; the log has the reason."
        return 503, "The store does not answer.", hint
    log.exception("%s %s failed", request.method, request.path, exc_info=error)
    return 500, "Unexpected error.", "The backend's log has the traceback."
