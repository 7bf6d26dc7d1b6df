"""HTML from small parts: text is escaped by construction, nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_VOID_ELEMENTS = ("img", "meta")

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1d2430; --soft: #5b6675;
  --line: #d5dae1; --panel: #f5f7f9; --bad: #a4262c;
  --s0: #0b62a8; --s1: #b84a00; --s2: #00795c; --s3: #a03a86; --s4: #7a6000; --s5: #3d6fd1;
  --s6: #b01e3c; --s7: #4d5663; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --text: #e6eaef; --soft: #a0abb8;
  --line: #38414c; --panel: #1c2229; --bad: #ff8f8f;
  --s0: #63b3f2; --s1: #ff9d57; --s2: #3fcca2; --s3: #e58fd0; --s4: #e0c04a; --s5: #9ab6ff;
  --s6: #ff8199; --s7: #b4bdc9; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  max-width: 76rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { max-width: 50rem; margin: .4rem 0; } .soft, figcaption, small { color: var(--soft); }
.bad { color: var(--bad); } code { overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr));
  gap: 1rem; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: .75rem; margin: 0; }
.wide { overflow-x: auto; } svg { display: block; width: 100%; max-width: 46rem; height: auto; }
svg text { fill: var(--soft); font: 13px system-ui, sans-serif;
  font-variant-numeric: tabular-nums; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0;
  margin: .5rem 0; } .legend svg { display: inline-block; width: 30px; vertical-align: middle;
  margin-right: .35rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; } .gallery { display: flex; flex-wrap: wrap; gap: .75rem; }
.gallery figure { margin: 0; max-width: 30rem; } .gallery img { max-width: 100%; }
summary { cursor: pointer; margin: .5rem 0; }
"""


class Html(str):
    """Text that is markup already and is not escaped again."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and the number behind it."""

    text: str
    value: float | None = None


def tag(name: str, /, *children: str | None, **attributes: object) -> Html:
    """An element; children that are no Html are escaped, attributes always.

    `_` in names of attributes stands for `-`, one at the end is dropped (`class_`); None leaves a
    child or attribute out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID_ELEMENTS:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(child for child in children if child is not None)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """Parts one after the other, each escaped unless it is Html."""
    return Html("".join(p if isinstance(p, Html) else html.escape(p) for p in parts))


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], **attributes: object) -> Html:
    """A table that scrolls sideways; cells keep their exact number in data-value."""
    head = tag("tr", *(tag("th", text, scope="col") for text in header))
    body = (
        tag("tr", *(tag("td", cell.text, data_value=cell.value) for cell in row)) for row in rows
    )
    whole = tag("table", tag("thead", head), tag("tbody", *body), **attributes)
    return tag("div", whole, class_="wide")


def data_uri(data: bytes, media_type: str) -> str:
    """The bytes as an address that needs no request."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def page(title: str, *body: str) -> bytes:
    """A whole document in UTF-8; its policy forbids scripts and every request."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    document = "<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en") + "\n"
    # Names from files may hold lone surrogates, which UTF-8 has no bytes for.
    return document.encode("utf-8", errors="replace")
