"""Who may ask what: shared secrets compared in constant time; no secret set, no entry."""

from __future__ import annotations

import hashlib
import hmac

from flask import Request

from ml_backend.errors import Unauthorised
from ml_backend.settings import Settings

SECRET_HEADER = "X-Pixbal-Secret"
SIGNATURE_CHARS = 32  # 128 bits


def equal(given: str | None, expected: str) -> bool:
    """Whether a secret was given; the time taken does not tell how much of it was right.

    An unset expectation equals nothing, not even an empty secret.
    """
    if not expected or given is None:
        return False
    one, other = (text.encode("utf-8", "surrogatepass") for text in (given, expected))
    return hmac.compare_digest(one, other)


def has_basic_auth(request: Request, settings: Settings) -> bool:
    """Whether the request carries the user and password of the settings."""
    given = request.authorization
    if given is None or given.type != "basic":
        return False
    # Both are compared, always, so that the time does not tell which one was wrong.
    user = equal(given.username, settings.basic_user)
    return equal(given.password, settings.basic_password) and user


def check_basic(request: Request, settings: Settings) -> None:
    """Raise Unauthorised without the right user and password."""
    if not has_basic_auth(request, settings):
        raise Unauthorised(
            "User and password are missing or wrong.",
            "Give the ML backend basic authentication with PIXBAL_BASIC_USER and "
            "PIXBAL_BASIC_PASSWORD; `pixbal init` does it.",
        )


def check_webhook(request: Request, settings: Settings) -> None:
    """Raise Unauthorised without the webhook's secret header or basic authentication.

    Label Studio sends START_TRAINING with the ML backend's password, other events with the
    webhook's own headers.
    """
    if equal(request.headers.get(SECRET_HEADER), settings.webhook_secret):
        return
    if not has_basic_auth(request, settings):
        raise Unauthorised(
            "The webhook's secret is missing or wrong.",
            f"Give the webhook the header {SECRET_HEADER} with PIXBAL_WEBHOOK_SECRET; "
            "`pixbal init` does it.",
        )


def sign(key: str, *parts: str | int) -> str:
    """Signature of a media address: HMAC-SHA256 over the parts, 32 hex digits.

    Raises:
        Unauthorised: no key is set, so that nothing can be signed.
    """
    if not key:
        raise Unauthorised("PIXBAL_MEDIA_KEY is unset.", "Set it, or let `pixbal init` draw it.")
    # Lengths keep ("a", "bc") and ("ab", "c") apart.
    message = "".join(f"{len(str(part))}:{part}" for part in parts)
    return hmac.new(key.encode(), message.encode(), hashlib.sha256).hexdigest()[:SIGNATURE_CHARS]
