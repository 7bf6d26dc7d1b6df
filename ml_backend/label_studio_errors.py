"""Label Studio's refusals as errors with the next step."""

from __future__ import annotations

import json
from typing import Any

from ml_backend.errors import LabelStudioError
from ml_backend.proxies import proxy_hint

RESERVED_ADDRESS = "reserved network address"
RESERVED_ADDRESS_HINT = (
    "Label Studio refuses backends and webhooks on private addresses by default. Start it "
    "with USE_DEFAULT_BANNED_SUBNETS=false and USER_ADDITIONAL_BANNED_SUBNETS=169.254.0.0/16, "
    "or give the backend a public address in PIXBAL_BACKEND_URL."
)
LEGACY_TOKEN_HINT = (
    "This organisation has legacy tokens switched off. Use a personal access token (Account & "
    "Settings, Personal Access Token) as LABEL_STUDIO_API_KEY, or allow legacy tokens on "
    "Organization, Access Token Settings."
)
_HINTS = {
    401: "Check LABEL_STUDIO_API_KEY: copy a fresh token from Account & Settings in Label Studio.",
    403: "The user that LABEL_STUDIO_API_KEY belongs to may not do this; use an administrator's.",
    404: "It may have been deleted in Label Studio, or belong to another organisation.",
    413: "The body is larger than Label Studio or a proxy before it accepts.",
    429: "Label Studio asks for fewer requests; try again later.",
}


_OF_PROXIES = (403, 404, 405, 407, 502, 503, 504)


class Refused(LabelStudioError):
    """Label Studio answered with an HTTP status that is not a success; `code` is that status."""

    def __init__(self, message: str, hint: str, code: int) -> None:
        super().__init__(message, hint)
        self.code = code

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code == 429 or self.code >= 500


class Unreachable(LabelStudioError):
    """No answer: refused, reset, timed out, no such host; `sent` if the request went out."""

    transient = True

    def __init__(self, message: str, hint: str, sent: bool) -> None:
        super().__init__(message, hint)
        self.sent = sent


class ImportUncertain(LabelStudioError):
    """An import may or may not have happened; list the tasks before trying again.

    Label Studio drops no duplicates, so repeating a lost import could double its tasks.
    `made` holds the ids of the pages that were confirmed before.
    """

    def __init__(self, message: str, made: list[int]) -> None:
        super().__init__(message, "List the project's tasks and adopt those that are there.")
        self.made = made


def missing_token(public_url: str) -> Refused:
    """The error where there is no token to send; nothing was asked."""
    return Refused(
        "LABEL_STUDIO_API_KEY is not set, so Label Studio would refuse every request.",
        f"Log in at {public_url}/user/account, copy an access token from there, put it into "
        "LABEL_STUDIO_API_KEY, and start again.",
        401,
    )


def refusal(what: str, code: int, body: object, url: str = "") -> Refused:
    """The error for an HTTP status and body, with the hint that fits the known traps.

    `url`: the server, for a proxy before it may have answered in its place.
    """
    made = _refusal(what, code, body)
    # A proxy's own refusals; what Label Studio says itself is JSON with a detail.
    if code in _OF_PROXIES and not (isinstance(body, dict) and "detail" in body):
        made.hint = f"{made.hint} {proxy_hint(url)}".rstrip()
    return made


def _refusal(what: str, code: int, body: object) -> Refused:
    detail = describe(body)
    message = f"Label Studio answered {code} to {what}: {detail}"
    if RESERVED_ADDRESS in detail:
        return Refused(message, RESERVED_ADDRESS_HINT, code)
    if "legacy token authentication has been disabled" in detail:
        return Refused(message, LEGACY_TOKEN_HINT, code)
    if 300 <= code < 400:
        return Refused(message, "Put the address it points to into LABEL_STUDIO_URL.", code)
    if code >= 500:
        return Refused(message, "Look at the log of Label Studio.", code)
    return Refused(message, _HINTS.get(code, "Label Studio's answer says what it expects."), code)


def unreachable(url: str, what: str, error: Exception) -> Unreachable:
    """The error for a request that got no answer."""
    from httpx import ConnectError, ConnectTimeout, PoolTimeout

    sent = not isinstance(error, ConnectError | ConnectTimeout | PoolTimeout)
    made = Unreachable(
        f"No answer from Label Studio at {url} to {what}: {error or type(error).__name__}",
        "Check that it runs and that LABEL_STUDIO_URL is its address seen from here. "
        f"{proxy_hint(url)}".rstrip(),
        sent,
    )
    made.__cause__ = error
    return made


def nothing_done(error: LabelStudioError) -> bool:
    """Whether it is certain that the failed request changed nothing."""
    if isinstance(error, Refused):
        return 400 <= error.code < 500
    return isinstance(error, Unreachable) and not error.sent


def describe(body: object) -> str:
    """The telling part of an error body, at most 500 characters; HTML pages are not quoted."""
    if isinstance(body, dict):
        # `id`, `status_code`, `version`, `exc_info` are the same envelope every time.
        parts: dict[str, Any] = {k: body[k] for k in ("detail", "validation_errors") if body.get(k)}
        if set(parts) == {"detail"} and isinstance(parts["detail"], str):
            text = parts["detail"]
        else:
            text = json.dumps(parts or body, ensure_ascii=False, default=str)
    else:
        text = str(body or "no explanation").strip()
        if text.lower().startswith(("<!doctype", "<html")):
            text = "an HTML page, not the API; is LABEL_STUDIO_URL the address of Label Studio?"
    return text if len(text) <= 500 else text[:499] + "…"
