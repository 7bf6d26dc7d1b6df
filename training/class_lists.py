"""Class lists as JSON files: the names of a folder's classes and its void value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DataError

VOID_KEYS = ("void", "ignore_index")
_FORMS = (
    'Expected ["name", ...], {"names": [...]} or {"classes": [{"name": ...}, ...]}; '
    '"void": 255 may stand beside it.'
)


@dataclass(frozen=True)
class ClassList:
    """Names by class index, and the mask value that means no class."""

    names: tuple[str, ...]
    void: int = 255

    def __post_init__(self) -> None:
        """Raises: DataError for no or too many classes, doubled or blank names, a void among them.

        At most 255 classes: masks have 8 bits.
        """
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        blank = [index for index, name in enumerate(self.names) if not name.strip()]
        if not 1 <= len(self.names) <= 255 or twice or blank:
            raise DataError(
                f"The class list has {len(self.names)} names, of which {twice} stand more than "
                f"once and those at {blank} are blank.",
                hint="Give 1 to 255 distinct names.",
            )
        whole = isinstance(self.void, int) and not isinstance(self.void, bool)
        if not whole or not len(self.names) <= self.void <= 255:
            raise DataError(
                f"The void value {self.void!r} does not fit {len(self.names)} classes.",
                hint=f"Give a number in {len(self.names)}..255.",
            )


def read_class_list(path: Path) -> ClassList:
    """Read a class list: that of a project, names alone, or either with a void value.

    Raises: DataError naming the file that is missing, no JSON, or no class list.
    """
    try:
        raw = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"There is no class list at {path}.", hint=_FORMS) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.", hint=_FORMS) from error
    try:
        return ClassList(_names(raw), _void(raw))
    except DataError as error:
        raise DataError(f"{path}: {error.message}", hint=error.hint or _FORMS) from error


def _names(raw: Any) -> tuple[str, ...]:
    entries = raw
    if isinstance(raw, dict):
        entries = raw.get("classes", raw.get("names"))
    if not isinstance(entries, list):
        raise DataError("There is no list of classes.", hint=_FORMS)
    names: list[Any] = [e.get("name") if isinstance(e, dict) else e for e in entries]
    strange = [name for name in names if not isinstance(name, str)]
    if strange:
        raise DataError(f"A class has the name {strange[0]!r}.", hint=_FORMS)
    return tuple(names)


def _void(raw: Any) -> Any:
    given = [raw[key] for key in VOID_KEYS if isinstance(raw, dict) and key in raw]
    return given[0] if given else 255
