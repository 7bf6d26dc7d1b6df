"""The application for a WSGI server: `gunicorn ml_backend.wsgi:app`."""

from __future__ import annotations

import os

from ml_backend.app import create_app
from ml_backend.logs import configure_logging
from ml_backend.services import Services
from ml_backend.settings import Settings
from ml_backend.store import Store

_settings = Settings.from_env(os.environ)
configure_logging(_settings)
_settings.check_serving()
app = create_app(Services(_settings, Store.open(_settings.database_url)))
