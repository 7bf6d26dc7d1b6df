"""The web application: routes, who may call them, and one shape for every error."""

from __future__ import annotations

import logging

from flask import Flask, Response, current_app, request
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from ml_backend import dashboard
from ml_backend.bodies import MAX_PREDICT_BODY
from ml_backend.errors import BackendError, Unauthorised
from ml_backend.protocol import routes
from ml_backend.replies import error_response
from ml_backend.security import check_basic, check_webhook
from ml_backend.services import Services
from training.errors import TrainingError

log = logging.getLogger(__name__)

__all__ = ["Services", "create_app"]

# The browser fetches pictures without a password; their addresses are signed.
OPEN_ENDPOINTS = frozenset({"protocol.media"})


def create_app(services: Services) -> Flask:
    """The application over its services.

    Raises:
        SettingsError: it would listen beyond this machine without secrets.
    """
    services.settings.check_serving()
    app = Flask("ml_backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_PREDICT_BODY + 1
    app.extensions["pixbal"] = services
    app.register_blueprint(routes)
    dashboard.attach(app, services)
    app.before_request(_check_caller)
    app.after_request(_set_headers)
    app.register_error_handler(BackendError, _backend_error)
    app.register_error_handler(TrainingError, _training_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(DBAPIError, _database_error)
    app.register_error_handler(Exception, _unexpected)
    return app


def _check_caller() -> None:
    """Everything needs a password unless it is named as open: a new route starts out closed."""
    endpoint = request.endpoint
    if endpoint is None or endpoint in OPEN_ENDPOINTS:
        return  # no such route: answered with 404 by the router
    if request.blueprint == "dashboard":
        return  # it has a log-in of its own, which its guard asks for
    settings = current_app.extensions["pixbal"].settings
    check = check_webhook if endpoint == "protocol.webhook" else check_basic
    check(request, settings)


def _set_headers(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    if request.endpoint in OPEN_ENDPOINTS:
        response.headers["Access-Control-Allow-Origin"] = "*"
    else:
        response.headers["Cache-Control"] = "no-store"
    return response


def _backend_error(error: BackendError) -> Response:
    if error.status >= 500:
        log.error("%s %s: %s", request.method, request.path, error)
    response = error_response(error.status, error.message, error.hint)
    if isinstance(error, Unauthorised):
        response.headers["WWW-Authenticate"] = 'Basic realm="pixbal"'
    return response


def _training_error(error: TrainingError) -> Response:
    log.error("%s %s: %s", request.method, request.path, error)
    return error_response(500, str(error), getattr(error, "hint", ""))


def _http_error(error: HTTPException) -> Response | HTTPException:
    status = error.code or 500
    if status < 400:
        return error  # a redirect is no error
    text = f"{error.name}: {request.method} {request.path[:200]}"
    if isinstance(error, RequestEntityTooLarge):
        text = "The body is too large."
    response = error_response(status, text)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _database_error(error: DBAPIError) -> Response:
    log.error("%s %s: database: %s", request.method, request.path, error.orig)
    return error_response(
        503,
        "The store does not answer.",
        "Check the disk's free space and the database server; the log has the reason.",
    )


def _unexpected(error: Exception) -> Response:
    log.exception("%s %s failed", request.method, request.path, exc_info=error)
    return error_response(500, "Unexpected error.", "The backend's log has the traceback.")
