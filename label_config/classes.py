"""The classes of a project: names, colours and hotkeys, from a preset or a JSON file."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from label_config.colors import difference
from label_config.errors import LabelConfigError
from label_config.hotkeys import check_key, default_keys
from label_config.palette import PALETTE

MAX_CLASSES = 200
MAX_NAME_LENGTH = 100
MAX_FILE_BYTES = 1_000_000
OTHER_TEXT = "Something else"
NOTHING_TEXT = "Nothing listed"  # in setups made by 0.1
UNSURE_TEXT = "Can't tell"

# CIEDE2000 that a filled-in colour keeps from every given one, while there are enough.
LIKE = 10.0

_COLOR = re.compile(r"#[0-9a-f]{6}")
_COLOR_HINT = "Write it like #804080, or leave it out: a distinct one is chosen then."
_FORMS = (
    'Expected {"classes": [{"name": ..., "color": "#rrggbb"}, ...], "undefined": true}, '
    'or {"names": [...], "palette": [[r, g, b], ...]}, or a plain list of names.'
)


@dataclass(frozen=True)
class ClassInfo:
    """One class: its name, colour "#rrggbb" (lower case) and key, if one was free."""

    name: str
    color: str
    hotkey: str | None = None


@dataclass(frozen=True)
class ClassSchema:
    """The classes of a project in index order; `undefined` adds the answer "Something else".

    Raises: LabelConfigError unless there are 1..200 classes with distinct, printable names of at
    most 100 characters, colours "#rrggbb" and distinct free hotkeys.
    """

    classes: tuple[ClassInfo, ...]
    undefined: bool = True

    def __post_init__(self) -> None:
        _check_count(len(self.classes))
        for info in self.classes:
            _check_name(info.name)
            _check_color(info)
            check_key(info.hotkey, info.name)
        _check_distinct("class name", [info.name for info in self.classes])
        _check_distinct("hotkey", [info.hotkey for info in self.classes if info.hotkey])
        if not isinstance(self.undefined, bool):
            raise LabelConfigError(
                f"'undefined' must be true or false, got {self.undefined!r}.",
                hint="Write it without quotes, or leave it out: it is true then.",
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(info.name for info in self.classes)

    @property
    def num_outputs(self) -> int:
        """Columns of a network for these classes; the last one is "Something else" if defined."""
        return len(self.classes) + self.undefined

    def index(self, name: str) -> int:
        """Index of a class; LabelConfigError names the known ones."""
        try:
            return self._indices[name]
        except KeyError:
            raise LabelConfigError(
                f"No class {name!r}; the classes are {shorten(self.names)}."
            ) from None

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        colors: Sequence[str | None] = (),
        undefined: bool = True,
        like: ClassSchema | None = None,
    ) -> ClassSchema:
        """Schema of these names, with free hotkeys, and distinct colours where none is given.

        `like`: what is not given is as in that schema, for classes of the same name: keys and
        colours of a project stay, however the next project's would be chosen.
        """
        names = tuple(names)
        _check_count(len(names))  # first: there are no more distinct colours than that
        if colors and len(colors) != len(names):
            raise LabelConfigError(f"Got {len(colors)} colours for {len(names)} classes.")
        known = {info.name: info for info in like.classes} if like else {}
        taken = [info.hotkey for name, info in known.items() if name in names and info.hotkey]
        free = iter(default_keys(len(names), taken))
        keys = [known[name].hotkey if name in known else next(free) for name in names]
        given = colors or [None] * len(names)
        own = [known[name].color if name in known else None for name in names]
        filled = _completed([color or kept for color, kept in zip(given, own, strict=True)])
        rows = zip(names, filled, keys, strict=True)
        return cls(tuple(ClassInfo(*row) for row in rows), undefined)

    @classmethod
    def load(cls, spec: str | Path, like: ClassSchema | None = None) -> ClassSchema:
        """Schema of a preset's name or of a JSON file; LabelConfigError names the presets.

        `like`: as for `of`.
        """
        if str(spec) in presets():
            return cls.preset(str(spec), like)
        path = Path(spec)
        if not path.is_file():
            raise LabelConfigError(
                f"{str(spec)!r} is neither a preset nor a file.",
                hint=f"Presets: {', '.join(presets())}; or give the path of a JSON file.",
            )
        if path.stat().st_size > MAX_FILE_BYTES:
            raise LabelConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes.", hint=_FORMS)
        try:
            raw = json.loads(path.read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise LabelConfigError(f"{path} is not JSON: {error}.", hint=_FORMS) from error
        return cls.from_json(raw, like)

    @classmethod
    def preset(cls, name: str, like: ClassSchema | None = None) -> ClassSchema:
        """Schema of a public data set: one of `presets()`."""
        if name not in presets():
            raise LabelConfigError(f"No preset {name!r}.", hint=f"Presets: {', '.join(presets())}.")
        text = (_presets_folder() / f"{name}.json").read_text("utf-8")
        return cls.from_json(json.loads(text), like)

    @classmethod
    def from_json(cls, obj: Any, like: ClassSchema | None = None) -> ClassSchema:
        """Schema of `to_json`'s form, of {"names", "palette"}, or of a list of names.

        `like`: as for `of`.
        """
        if isinstance(obj, list):
            return cls.of(_strings(obj), like=like)
        if not isinstance(obj, Mapping):
            raise LabelConfigError(f"Classes came as {type(obj).__name__}.", hint=_FORMS)
        undefined = obj.get("undefined", True)
        if "classes" in obj:
            return _from_entries(obj["classes"], undefined, like)
        if "names" in obj:
            palette = obj.get("palette") or []
            colors = [_hex(rgb) for rgb in palette] if isinstance(palette, list) else [None]
            return cls.of(_strings(obj["names"]), colors, undefined, like)
        raise LabelConfigError(f"Classes came with the keys {shorten(obj)}.", hint=_FORMS)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return {
            "classes": [
                {"name": c.name, "color": c.color, "hotkey": c.hotkey} for c in self.classes
            ],
            "undefined": self.undefined,
        }


def presets() -> tuple[str, ...]:
    """Names of the class lists that come with the package."""
    files = (entry.name for entry in _presets_folder().iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in files if name.endswith(".json")))


def shorten(values: Iterable[object], limit: int = 12) -> str:
    """The first `limit` values as text, for an error message."""
    values = list(values)
    tail = f", ... ({len(values)} in all)" if len(values) > limit else ""
    return ", ".join(repr(value) for value in values[:limit]) + tail


def _presets_folder() -> Any:
    return resources.files("label_config") / "presets"


def _from_entries(entries: Any, undefined: Any, like: ClassSchema | None) -> ClassSchema:
    if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
        return ClassSchema.of(entries, undefined=undefined, like=like)
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
        raise LabelConfigError("'classes' is not a list of classes.", hint=_FORMS)
    unknown = {key for entry in entries for key in entry} - {"name", "color", "hotkey"}
    if unknown:
        raise LabelConfigError(
            f"A class has the unknown keys {shorten(sorted(map(str, unknown)))}.",
            hint="Known keys: name, color, hotkey.",
        )
    for entry in entries:
        color = entry.get("color")
        if color is not None and not isinstance(color, str):
            raise LabelConfigError(
                f"Class {entry.get('name')!r} has the colour {color!r}.", hint=_COLOR_HINT
            )
    names = [entry.get("name") for entry in entries]
    colors = [entry["color"].lower() if entry.get("color") else None for entry in entries]
    schema = ClassSchema.of(_strings(names), colors, undefined, like)
    if not any("hotkey" in entry for entry in entries):
        return schema
    pairs = zip(schema.classes, entries, strict=True)
    own = (ClassInfo(info.name, info.color, entry.get("hotkey")) for info, entry in pairs)
    return ClassSchema(tuple(own), undefined)


def _strings(values: Any) -> list[str]:
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    raise LabelConfigError(f"Class names must be a list of texts, got {values!r:.200}.", _FORMS)


def _hex(rgb: Any) -> str:
    numbers = isinstance(rgb, Sequence) and len(rgb) == 3
    if not numbers or not all(type(value) is int and 0 <= value <= 255 for value in rgb):
        raise LabelConfigError(
            f"A palette entry is {rgb!r:.100}; expected [r, g, b] of 0..255.",
            hint="Write it like [128, 64, 128], or leave the palette out.",
        )
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _completed(colors: Sequence[str | None]) -> list[str]:
    """Fill the gaps: in the order of the table, first with what no given colour resembles."""
    if None not in colors:
        return [color for color in colors if color]
    given = {color for color in colors if color and _COLOR.fullmatch(color)}
    apart = {color: min((difference(color, own) for own in given), default=100.0)
             for color in PALETTE}  # fmt: skip
    fresh = [color for color in PALETTE if apart[color] >= LIKE]
    # Too many given to keep clear of all: then those farthest from them.
    fresh += sorted((c for c in PALETTE if 0 < apart[c] < LIKE), key=lambda c: -apart[c])
    rest = iter(fresh)
    return [color or next(rest) for color in colors]


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_CLASSES:
        raise LabelConfigError(
            f"Expected 1 to {MAX_CLASSES} classes, got {count}.",
            hint="List the classes to be told apart; the rest is 'Something else'.",
        )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or name != name.strip():
        raise LabelConfigError(
            f"Class name {name!r:.120} is empty, not a text, or has blanks around it.",
            hint="Give every class a name.",
        )
    if len(name) > MAX_NAME_LENGTH:
        raise LabelConfigError(
            f"Class name {name[:40]!r}... has {len(name)} characters; "
            f"at most {MAX_NAME_LENGTH} fit the screen.",
            hint="Shorten it.",
        )
    if name.casefold() in (NOTHING_TEXT.casefold(), UNSURE_TEXT.casefold()):
        raise LabelConfigError(
            f"The class name {name!r} is taken: every template offers that answer already.",
            hint="Leave it out of the classes.",
        )
    bad = [char for char in name if not _is_printable(char)]
    if bad:
        raise LabelConfigError(
            f"Class name {name!r} holds characters that cannot be shown: {shorten(bad)}.",
            hint="Remove control and direction characters.",
        )


def _is_printable(char: str) -> bool:
    """False for what XML 1.0 forbids, attributes change, or nobody sees; emoji joiners pass."""
    if char in "\u200d\u200c":
        return True
    code = ord(char)
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    # Cn (unassigned) passes: it means newer than Python's Unicode tables.
    tag = 0xE0020 <= code <= 0xE007F  # the flags of England, Scotland, Wales
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and not tag
    return not (noncharacter or hidden)


def _check_color(info: ClassInfo) -> None:
    if not isinstance(info.color, str) or not _COLOR.fullmatch(info.color):
        raise LabelConfigError(
            f"Class {info.name!r} has the colour {info.color!r}; "
            "expected '#rrggbb' in lower-case hexadecimal digits.",
            hint=_COLOR_HINT,
        )


def _check_distinct(what: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise LabelConfigError(
            f"The {what} {shorten(twice)} is used more than once.",
            hint=f"Give each class a {what} of its own.",
        )
