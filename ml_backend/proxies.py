"""Proxies of the environment: never before this machine, and named where a request fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ml_backend.settings import is_loopback

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


def may_use_proxy(url: str) -> bool:
    """Whether a client should heed the environment's proxies: not on the way to this machine."""
    return not is_loopback(urlsplit(url).hostname or "")


def proxy_hint(url: str) -> str:
    """What to try where a request to `url` failed and a proxy was in the way; else empty."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    name = _variable(parts.scheme)
    if not name or not may_use_proxy(url) or proxy_bypass(host):
        return ""
    return (
        f"{name} is set, so the request went through that proxy: put {host} into NO_PROXY if it "
        "should not."
    )


def proxy_hint_for_label_studio(url: str) -> str:
    """What to try where Label Studio does not reach us, and it may have the same proxy as we."""
    parts = urlsplit(url)
    name = _variable(parts.scheme)
    if not name:
        return ""
    return (
        f"{name} is set here; if Label Studio has it too, start it with {parts.hostname} in its "
        "NO_PROXY."
    )


def without_proxy_to_loopback(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child that talks to servers on this machine."""
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    names += [name for name in LOOPBACK_NAMES if name not in names]
    return {**environ, "NO_PROXY": ",".join(names), "no_proxy": ",".join(names)}


def _variable(scheme: str) -> str:
    """The variable that sets the proxy of a scheme, as it is written here; never its value."""
    known = getproxies()
    for key in (scheme, "all"):
        if known.get(key):
            small = f"{key}_proxy"
            return small if os.environ.get(small) else small.upper()
    return ""
