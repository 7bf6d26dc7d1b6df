"""Fetching the file behind an address found in task data, which anybody may have written.

Not the SDK's `get_local_path`: it loads a body of any size into memory, follows redirects without
looking where they lead, and prefers files of whatever Label Studio data folder this account has.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urljoin, urlsplit

from ml_backend.errors import BackendError
from ml_backend.proxies import may_use_proxy, proxy_hint

MAX_BYTES = 100_000_000
MAX_REDIRECTS = 5
CLOUD_SCHEMES = ("s3", "gs", "azure-blob")
_PLAIN = "%/:?#[]@!$&'()*+,;=~-._|^`{}"  # stays as it is in a path or query
_PORTS = {"http": 80, "https": 443}
# Where Label Studio keeps files. The token opens much more, such as its own API.
_OWN_FILES = re.compile(
    r"/(data|static|storage-data)/|/(tasks|projects)/\d+/(presign|resolve)/", re.ASCII
)
_LOG_IN = "/user/login"
# Older Pythons call these public: relays, and forms that wrap an IPv4 address once more.
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


class FetchError(BackendError):
    """The file cannot or must not be fetched; `code` is the HTTP status where one came.

    `transient` says that the same request may succeed later.
    """

    status = 502

    def __init__(
        self, message: str, hint: str = "", *, code: int = 0, transient: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.code = code
        self.transient = transient or code == 429 or code >= 500
        self.retry_after: str | None = None


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host name; FetchError if it has none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"The host {host!r} cannot be resolved: {error}.") from error
    return [str(entry[4][0]) for entry in found]


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, also when wrapped into IPv6."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if any(ip.version == network.version and ip in network for network in _NOT_PUBLIC):
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        # NAT64 and the mapped, 6to4 and Teredo forms all carry an IPv4 address to reach.
        nat64 = ip in ipaddress.ip_network("64:ff9b::/96")
        teredo = ip.teredo[1] if ip.teredo else None
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if nat64 else None
        inner = inner or ip.ipv4_mapped or ip.sixtofour or teredo
        if inner is not None:
            return is_public(str(inner))
        if ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address, in lower case and with the default port filled in."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise FetchError(f"{url!r} has no valid port.") from error
    return parts.scheme.lower(), (parts.hostname or "").lower(), port or _PORTS.get(parts.scheme)


@dataclass(frozen=True)
class Fetcher:
    """Gets files from Label Studio with its token, and from public http(s) addresses without.

    Attributes:
        base_url: Label Studio; the only origin that sees the token and may be private.
        headers: gives the headers with the token; called once per request to Label Studio.
        public_url: Label Studio as it calls itself in task data, if not base_url. Files there are
            asked for at base_url: nothing is ever sent to the public address.
        resolve, allowed: how names become addresses and which may be connected to.
    """

    base_url: str
    headers: Callable[[], Mapping[str, str]]
    public_url: str = ""
    max_bytes: int = MAX_BYTES
    timeout_s: float = 120.0
    resolve: Callable[[str, int], list[str]] = resolve
    allowed: Callable[[str], bool] = is_public

    def fetch(self, url: str, task_id: int | None = None) -> bytes:
        """The bytes behind `url`.

        Args:
            url: a data URI, a path of Label Studio (`/data/upload/..`, `/data/local-files/?d=..`),
                a cloud address (`s3://..`, resolved by Label Studio for the task), or http(s).

        Raises:
            FetchError: another scheme, a private address, too large, too slow, or refused.
        """
        if url.startswith("data:"):
            return self._capped(_data_uri(url))
        target = self._target(url, task_id)
        deadline = time.monotonic() + self.timeout_s
        for _ in range(MAX_REDIRECTS + 1):
            body, target = self._get(self._reachable(target), deadline)
            if body is not None:
                return body
        raise FetchError(f"{_shown(url)} redirects more than {MAX_REDIRECTS} times.")

    def _capped(self, body: bytes) -> bytes:
        if len(body) > self.max_bytes:
            raise FetchError(f"The file has {len(body)} bytes; at most {self.max_bytes} are taken.")
        return body

    def _target(self, url: str, task_id: int | None) -> str:
        scheme = urlsplit(url).scheme.lower()
        base = self.base_url.rstrip("/")
        if scheme in CLOUD_SCHEMES:
            if task_id is None:
                raise FetchError(f"{_shown(url)} needs the task it belongs to.")
            file = base64.urlsafe_b64encode(url.encode()).decode()
            return f"{base}/tasks/{task_id}/presign/?fileuri={file}"
        if scheme in _PORTS:
            return url
        if scheme or url.startswith("//"):
            raise FetchError(
                f"{_shown(url)} is not an address of an image.",
                "Use http(s), a cloud storage that Label Studio knows, or an upload.",
            )
        path = self._without_prefix(url).lstrip("/")
        path = f"data/{path}" if path.startswith("upload/") else path
        _check_steps(url)
        return f"{base}/{path}"

    def _reachable(self, url: str) -> str:
        """The address to ask for a file that is named by Label Studio's public address."""
        if not self.public_url:
            return url
        _check_plain(url)
        parts, prefix = urlsplit(url), urlsplit(self.public_url).path.rstrip("/")
        rest = parts.path.removeprefix(prefix)
        # Other sites may live at the public address, too: they stay where they are.
        if origin(url) != origin(self.public_url) or not parts.path.startswith(f"{prefix}/"):
            return url
        if not (_is_file(unquote(rest)) or rest.startswith(_LOG_IN)):
            return url
        return self.base_url.rstrip("/") + parts._replace(scheme="", netloc="", path=rest).geturl()

    def _without_prefix(self, path: str) -> str:
        """A path of Label Studio without the prefix that LABEL_STUDIO_HOST puts before it."""
        for url in (self.public_url, self.base_url):
            prefix = urlsplit(url).path.rstrip("/")
            if (
                prefix
                and path.startswith(f"{prefix}/")
                and _is_file(unquote(path.removeprefix(prefix)))
            ):
                return path.removeprefix(prefix)
        return path

    def _get(self, url: str, deadline: float) -> tuple[bytes | None, str]:
        """The body, or None and where the answer redirects to."""
        import httpx

        own = self._is_own(url)
        url = _quoted(url)
        request_url, headers, extensions = (
            (url, dict(self.headers()) if self._gets_token(url) else {}, {})
            if own
            else self._pinned(urlsplit(url))
        )
        limits = httpx.Timeout(min(30.0, self.timeout_s))
        proxied = own and may_use_proxy(url)
        try:
            with (
                # A proxy from the environment would look the name up again and undo the check.
                httpx.Client(timeout=limits, trust_env=proxied, follow_redirects=False) as client,
                client.stream(
                    "GET", request_url, headers=headers, extensions=extensions
                ) as response,
            ):
                if response.is_redirect:
                    return None, urljoin(url, response.headers["location"])
                if response.status_code != 200:
                    code = response.status_code
                    hint = proxy_hint(url) if proxied else ""
                    refused = FetchError(f"{_shown(url)} answered {code}.", hint, code=code)
                    refused.retry_after = response.headers.get("retry-after")
                    raise refused
                return self._read(response, url, deadline), url
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise FetchError(
                f"{_shown(url)} cannot be fetched: {reason}.",
                proxy_hint(url) if proxied else "",
                transient=isinstance(error, httpx.TransportError),
            ) from error

    def _is_own(self, url: str) -> bool:
        """Whether this is Label Studio's origin, which may be private.

        Raises:
            FetchError: the address can be read in two ways.
        """
        _check_plain(url)
        return origin(url) == origin(self.base_url)

    def _gets_token(self, url: str) -> bool:
        """Whether this is a file of Label Studio, not its API nor another site beside it.

        Raises:
            FetchError: it climbs out of its folder, or is Label Studio's log-in.
        """
        _check_steps(url)
        prefix = urlsplit(self.base_url).path.rstrip("/")
        path = unquote(urlsplit(url).path)
        if path.startswith(prefix + _LOG_IN):
            raise FetchError(
                "Label Studio asks for a log-in instead of giving the file.",
                "The token is not good, or its user may not see the project.",
            )
        return path.startswith(f"{prefix}/") and _is_file(path.removeprefix(prefix))

    def _pinned(self, parts: SplitResult) -> tuple[str, dict[str, str], dict[str, Any]]:
        """The request to the very address that was checked: a second lookup could differ."""
        url = parts.geturl()
        scheme, host, port = origin(url)
        if scheme not in _PORTS or not host or port is None:
            raise FetchError(f"{_shown(url)} is not an http(s) address.")
        addresses = self.resolve(host, port)
        refused = [a for a in addresses if not self.allowed(a)]
        if refused or not addresses:
            raise FetchError(
                f"{_shown(url)} leads to {', '.join(refused) or 'nowhere'}, not a public address.",
                "Images of a private network: import them, or add a storage in Label Studio. If "
                f"this is Label Studio itself, set LABEL_STUDIO_PUBLIC_URL={scheme}://{parts.netloc}"
                " (with its path prefix, if it has one).",
            )
        address = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        pinned = parts._replace(netloc=f"{address}:{port}", fragment="").geturl()
        named = f"[{host}]" if ":" in host else host
        host_header = named if port == _PORTS[scheme] else f"{named}:{port}"
        return pinned, {"Host": host_header}, {"sni_hostname": host}

    def _read(self, response: Any, url: str, deadline: float) -> bytes:
        declared = response.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self.max_bytes:
            raise FetchError(f"{_shown(url)} has {declared} bytes; at most {self.max_bytes}.")
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self.max_bytes:
                raise FetchError(f"{_shown(url)} has more than {self.max_bytes} bytes.")
            if time.monotonic() > deadline:
                raise FetchError(f"{_shown(url)} took longer than {self.timeout_s:g} s.")
        return bytes(body)


def _data_uri(url: str) -> bytes:
    head, comma, body = url.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        raw = unquote_to_bytes(body)
        return base64.b64decode(raw, validate=True) if head.endswith(";base64") else raw
    except (ValueError, binascii.Error) as error:
        raise FetchError(f"A data URI cannot be read: {error}.") from error


def _is_file(path: str) -> bool:
    """Whether a path below Label Studio's root, unquoted, is a file and not its API."""
    return bool(_OWN_FILES.match(path))


def _check_plain(url: str) -> None:
    """Raise FetchError where an address can be read in two ways."""
    head = url.split("?", 1)[0]
    netloc = urlsplit(url).netloc
    # Who reads "host\\@other" or "a:b@host" how is nobody's guess; names in a query are quoted.
    strict = not {"@", " "} & set(netloc) and netloc.isprintable()
    if not strict or "\\" in head or any(ord(char) < 32 for char in head):
        raise FetchError(f"{_shown(url)} is not a plain http(s) address.")


def _check_steps(url: str) -> None:
    """Raise FetchError where an address climbs out of a folder, however often it is quoted."""
    text, before = url, ""
    while text != before:
        text, before = unquote(text), text
    if "\0" in text or ".." in re.split(r"[/\\?=&]", text):
        raise FetchError(f"{_shown(url)} steps out of its folder.")


def _quoted(url: str) -> str:
    """An address as a browser sends it: what is no plain ASCII behind the host is quoted."""
    parts = urlsplit(url)
    path, query = quote(parts.path, safe=_PLAIN), quote(parts.query, safe=_PLAIN)
    return parts._replace(path=path, query=query).geturl()


def _shown(url: str) -> str:
    """The address without its query, which may hold a signature."""
    return url.split("?", 1)[0][:200]
