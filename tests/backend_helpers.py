"""Small builders for tests of the backend; every argument has a default."""

from __future__ import annotations

from pathlib import Path

from ml_backend.settings import Settings

WEBHOOK_SECRET = "webhook-secret-of-the-tests"
BASIC_PASSWORD = "basic-password-of-the-tests"
MEDIA_KEY = "media-key-of-the-tests"


def make_settings(home: Path, **environ: str) -> Settings:
    """Settings on a temporary home, secrets set; `environ` overrides by variable name."""
    base = {
        "PIXBAL_HOME": str(home),
        "LABEL_STUDIO_API_KEY": "api-key-of-the-tests",
        "PIXBAL_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "PIXBAL_BASIC_PASSWORD": BASIC_PASSWORD,
        "PIXBAL_MEDIA_KEY": MEDIA_KEY,
    }
    return Settings.from_env({**base, **environ})
