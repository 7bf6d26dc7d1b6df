"""Requests nobody should send, made out of requests that Label Studio sent. Seeded."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

RECORDED = Path(__file__).parent / "recorded" / "label_studio_1.23.2"
JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Wire:
    """A request as it comes over the wire. `length` None: declared in chunks."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | str | None = -1  # -1: that of the body

    def environ(self) -> dict[str, Any]:
        """As a WSGI server hands it over."""
        path, _, query = self.path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query.encode("utf-8", "replace").decode("latin-1"),
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "9090",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(self.body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        for name, value in self.headers.items():
            key = name.upper().replace("-", "_")
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
        if self.length is None:
            environ |= {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
        else:
            environ["CONTENT_LENGTH"] = str(len(self.body) if self.length == -1 else self.length)
        return environ


def recorded() -> list[Wire]:
    """Every captured request; the caller adds its own secrets."""
    found = []
    for path in sorted(RECORDED.glob("*.json")):
        raw = json.loads(path.read_text(encoding="utf-8"))
        body = b"" if raw["body"] is None else json.dumps(raw["body"]).encode()
        kind = raw["headers"].get("Content-Type")
        found.append(Wire(raw["method"], raw["path"], body, {"Content-Type": kind} if kind else {}))
    return found


# Texts that stand where a JSON value is expected; not all of them are JSON.
_RAW: tuple[Callable[[random.Random], str], ...] = (
    lambda r: str(r.choice([0, -1, 1, 2, 3, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64])),
    lambda r: "1" + "0" * r.choice([20, 400, 4299, 5000]),
    lambda r: r.choice(["1e308", "1e309", "-1e999", "1e-400", "-0.0", "0.1", "NaN", "-Infinity"]),
    lambda r: r.choice(["null", "true", "false", '""', "[]", "{}", "[null]", '{"": {}}']),
    lambda r: json.dumps(_odd_text(r)),
    lambda r: r.choice(['"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\ud83d\\ude00"']),
    lambda r: _nested(r, r.choice([3, 62, 63, 64, 65, 900, 1100, 20_000])),
    lambda r: "[" + ",".join(["{}"] * r.choice([2, 300, 5000])) + "]",
    lambda r: json.dumps([_odd_text(r), {"id": r.choice([1, "1", None, 1.5])}]),
    lambda r: r.choice(["nul", "'a'", "[1,]", '{"a" 1}', '"', "\\", "", "0x10", "01", "1_000"]),
)  # fmt: skip
_TEXTS = (
    "ANNOTATION_CREATED", "ANNOTATIONS_DELETED", "TASKS_DELETED", "START_TRAINING", "A" * 65,
    "4", "4.1", "5.1795362344", "٤", "4\n", "-4", "0", "9" * 19, "../../etc/passwd", "%00", "\x00",
    "2026-11-22T15:45:50Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "20261122",
    "2026-02-30T00:00:00Z", "2026-11-22T15:45:50+99:99", "choices", "cls", "<View/>",
    "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "<View>" * 2000, "<a b='&#0;'/>", "<a>&#xD800;</a>",
    "<script>alert(1)</script>", "' OR 1=1 --", "\u202e\ufeff\uffff", "e\u0301" * 50, "😀",
)  # fmt: skip


def _odd_text(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(_TEXTS)
    alphabet = [chr(rng.choice([0x41, 0x7F, 0x80, 0xFF, 0x2028, 0xFFFD, 0x1F600])) for _ in "abcd"]
    return "".join(rng.choices(alphabet, k=rng.choice([1, 10, 300, 40_000])))


def _nested(rng: random.Random, depth: int) -> str:
    left, right = rng.choice([("[", "]"), ('{"a":', "}"), ('[{"result":', "}]")])
    return left * depth + "1" + right * (depth if rng.random() < 0.9 else depth - 1)


def _places(value: Any) -> Iterable[tuple[Any, Any]]:
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = [(value, key) for key in value]
    elif isinstance(value, list):
        pairs = [(value, index) for index in range(len(value))]
    for container, key in pairs:
        yield container, key
        yield from _places(container[key])


def mutate_json(body: bytes, rng: random.Random) -> bytes:
    """Another value, a lost member, a swap or a doubled key, at one to four places."""
    try:
        value = json.loads(body)
    except ValueError:
        return body
    raws: list[str] = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places = list(_places(value))
        if not places:
            break
        # Half of the changes near the root: that is what the code looks at.
        container, key = rng.choice(places if rng.random() < 0.5 else places[:12])
        _change(container, key, rng, raws)
    text = json.dumps(value)
    for number, raw in enumerate(raws):
        text = text.replace(f'"@raw{number}@"', raw)
    if rng.random() < 0.1:
        keys = list(re.finditer(r'"(\w+)": ', text))
        if keys:
            match = rng.choice(keys)
            again = f'"{match[1]}": {rng.choice(_RAW)(rng)}, '
            text = text[: match.start()] + again + text[match.start() :]
    return text.encode("utf-8", "surrogatepass")


def _change(container: Any, key: Any, rng: random.Random, raws: list[str]) -> None:
    dice = rng.random()
    if dice < 0.2:
        del container[key]
    elif dice < 0.3 and isinstance(container, dict):
        container[rng.choice([*container, "id", "result", "__proto__"])] = container.pop(key)
    elif dice < 0.35:
        container[key] = [container[key]] * rng.choice([2, 50])
    else:
        container[key] = f"@raw{len(raws)}@"
        raws.append(rng.choice(_RAW)(rng))


def _damage(body: bytes, rng: random.Random) -> bytes:
    data = bytearray(body or b"{}")
    place = rng.randrange(len(data))
    dice = rng.randrange(7)
    if dice == 0:
        return bytes(data[:place])
    if dice == 1:
        data[place] ^= 1 << rng.randrange(8)
    elif dice == 2:
        data[place:place] = rng.randbytes(rng.choice([1, 4, 200]))
    elif dice == 3:
        return body.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))
    elif dice == 4:
        return bytes(data) * 2
    elif dice == 5:
        return rng.randbytes(rng.choice([0, 1, 30, 5000]))
    else:
        return b" " * rng.choice([1, 100_000]) + bytes(data)
    return bytes(data)


_TYPES = (
    "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "multipart/form-data", "application/json; charset=utf-16", "application/json;charset=nope",
    "APPLICATION/JSON", "application/vnd.api+json", "application/json, text/plain", "json", "*/*",
    "application/xml", "a" * 5000, "application/json; q=\xff",
)  # fmt: skip
_AUTHS = (
    "", "Basic", "Basic ", "Basic !!!!", "Basic cGl4YmFs", "Basic Og==", "Basic /w==", "Bearer x",
    "basic cGl4YmFsOndyb25n", "Digest username=pixbal", "Token 123", "Basic " + "QUFB" * 5000,
    "Basic cGl4YmFsOgA=", "\xff\xfe",
)  # fmt: skip
_NAMES = (
    "Content-Encoding", "Accept", "Range", "If-None-Match", "Cookie", "Host", "X-Forwarded-For",
    "Expect", "If-Modified-Since", "X-HTTP-Method-Override", "Referer", "Origin",
)  # fmt: skip
_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "get", "PIXBAL")
_PATHS = (
    "/", "//", "/health/", "/predict/", "/webhook/../health", "/%2e%2e/%2e%2e/etc/passwd", "/%00",
    "/versions?project=%00", "/versions?project=4", "/versions?project=" + "9" * 400, "/static/x",
    "/versions?project=%FF%FE", "/versions?project=%F0%9F%98%80", "/versions?%00=%00&&&=;",
    "/health?" + "a=b&" * 3000, "/" + "a/" * 2000, "/%ED%A0%80", "/\xff", "/webhook%0d%0aX: y",
    "/media/0/4/x/0/crop.jpg", "/openapi.json", "/../../", "/setup;a=b",
)  # fmt: skip


def _change_headers(wire: Wire, rng: random.Random) -> Wire:
    headers = dict(wire.headers)
    dice = rng.randrange(6)
    length: int | str | None = wire.length
    if dice == 0:
        headers["Content-Type"] = rng.choice(_TYPES)
    elif dice == 1:
        headers.pop("X-Pixbal-Secret", None)
        headers["Authorization"] = rng.choice(_AUTHS)
    elif dice == 2:
        headers.pop("Authorization", None)
        headers["X-Pixbal-Secret"] = rng.choice(["", "wrong", "\xff", "a" * 9000, "None"])
    elif dice == 3:
        length = rng.choice([None, 0, 1, 10**9, 10**18, "", "x", "-5", "1e3", "9" * 400])
    elif dice == 4:
        headers[rng.choice(_NAMES)] = rng.choice(
            ["gzip", "bytes=0-", "\xff", "a=b; c", "*", "x" * 8000, ""]
        )
    else:
        headers = {}
    return replace(wire, headers=headers, length=length)


def _change_path(wire: Wire, rng: random.Random) -> Wire:
    if rng.random() < 0.5:
        return replace(wire, path=rng.choice(_PATHS))
    parts = wire.path.split("/")
    odd = ["", "..", "%2e%2e", "%00", "0", "-1", "9" * 30, "%F0%9F%98%80", "%FF", "a" * 3000, "٣"]
    parts[rng.randrange(len(parts))] = rng.choice(odd)
    return replace(wire, path="/" + "/".join(parts).lstrip("/"))


def mutations(bases: list[Wire], count: int, seed: int) -> Iterable[Wire]:
    """`count` requests; most keep their secret, so that they come past the door."""
    rng = random.Random(seed)
    for _ in range(count):
        wire = rng.choice(bases)
        dice = rng.random()
        if dice < 0.62:
            wire = replace(wire, body=mutate_json(wire.body, rng))
        elif dice < 0.74:
            wire = replace(wire, body=_damage(wire.body, rng))
        elif dice < 0.84:
            wire = _change_headers(wire, rng)
        elif dice < 0.92:
            wire = _change_path(wire, rng)
        elif dice < 0.96:
            wire = replace(wire, method=rng.choice(_METHODS))
        else:
            wire = _change_headers(replace(wire, body=mutate_json(wire.body, rng)), rng)
        yield wire
