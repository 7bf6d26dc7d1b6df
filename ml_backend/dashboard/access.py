"""Who may see the page: one admin with a password, in a session that ends by itself.

The page is off until PIXBAL_ADMIN_PASSWORD is set (PixBal's own commands draw one), on loopback as
well: every user of this machine, and every page open in a browser here, can reach loopback, and
behind a tunnel or a reverse proxy everybody's request comes from there.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from datetime import timedelta
from urllib.parse import urlsplit

from flask import Flask, session

from ml_backend.dashboard.ledger import Ledger
from ml_backend.errors import BackendError, Unauthorised
from ml_backend.security import equal
from ml_backend.settings import Settings

log = logging.getLogger(__name__)

COOKIE = "pixbal_admin"
IDLE_S = 30 * 60
LONGEST_S = 12 * 3600
# Seen again within this time: the cookie is left alone.
_TOUCH_S = 60


class SwitchedOff(BackendError):
    """No password is set, so nobody can log in."""

    status = 403


def prefix(settings: Settings) -> str:
    """The path at which a proxy shows the backend; mostly empty."""
    return urlsplit(settings.public_url).path.rstrip("/")


def configure(app: Flask, settings: Settings) -> None:
    """Key and cookie of the sessions.

    SameSite knows no ports: Label Studio on the same host is the same site. What keeps its pages
    out are the cookie's path, HttpOnly and the token in every form.
    """
    if _is_on(settings):
        # Of both secrets: another password ends every session, and a cookie tells nothing about it.
        message = f"dashboard session {settings.admin_user}\0{settings.admin_password}".encode()
        app.secret_key = hmac.new(settings.media_key.encode(), message, hashlib.sha256).digest()
    app.config.update(
        SESSION_COOKIE_NAME=COOKIE,
        SESSION_COOKIE_PATH=f"{prefix(settings)}/dashboard",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=settings.public_url.startswith("https://"),
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=timedelta(seconds=LONGEST_S),
    )


def check_on(settings: Settings) -> None:
    """Raise SwitchedOff where nobody could log in."""
    if not _is_on(settings):
        raise SwitchedOff(
            "The admin's page is switched off.",
            "Set PIXBAL_ADMIN_PASSWORD (at least 12 characters) and PIXBAL_MEDIA_KEY, or start "
            "with `pixbal serve` or `pixbal up`: they draw both into PIXBAL_HOME/secrets.env.",
        )


def _is_on(settings: Settings) -> bool:
    return bool(settings.admin_password and settings.media_key)


def sign_in(
    settings: Settings, ledger: Ledger, address: str | None, user: str, password: str
) -> None:
    """Start a new session.

    Raises:
        TooManyAttempts: without a look at the password.
        Unauthorised: user or password is wrong; the answer does not say which.
    """
    ledger.attempt(address)
    # Both are compared, always, so that the time does not tell which one was wrong.
    user_right = equal(user, settings.admin_user)
    if not (equal(password, settings.admin_password) and user_right):
        log.warning("admin's page: log-in from %s refused", address)
        raise Unauthorised("User or password is wrong.")
    ledger.forgive(address)
    # Nothing of the session before: one that somebody else has planted gains nothing.
    session.clear()
    now = int(time.time())
    session.update(generation=ledger.generation(), started=now, seen=now)
    log.info("admin's page: log-in from %s", address)


def sign_out(ledger: Ledger) -> None:
    """End this session and every other one, also those of cookies that somebody copied."""
    session.clear()
    ledger.end_sessions()


def is_signed_in(ledger: Ledger, *, touch: bool = True) -> bool:
    """Whether the request has a good session; `touch` counts it as a sign of life."""
    given, started, seen = (session.get(key) for key in ("generation", "started", "seen"))
    if not (isinstance(given, str) and isinstance(started, int) and isinstance(seen, int)):
        return False
    now = int(time.time())
    if now - seen > IDLE_S or now - started > LONGEST_S or not equal(given, ledger.generation()):
        session.clear()
        return False
    if touch and now - seen >= _TOUCH_S:
        session["seen"] = now
    return True
