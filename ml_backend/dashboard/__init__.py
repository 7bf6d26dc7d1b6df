"""The admin's web page: what each project does, and the few things a person may ask for."""

from __future__ import annotations

from ml_backend.dashboard import answers as answers  # its routes
from ml_backend.dashboard import manage as manage
from ml_backend.dashboard.routes import attach as attach
