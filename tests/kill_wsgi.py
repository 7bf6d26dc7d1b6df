"""The web process with the point "event stored"; see `kill_points`."""

from kill_points import add_to_web

add_to_web()

from ml_backend.wsgi import app  # noqa: E402

__all__ = ["app"]
