"""JSON values into frozen dataclasses, with the type of every field checked."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from training.errors import ConfigError, UnknownSetting

T = TypeVar("T")


def ensure(holds: bool, name: str, expected: str, got: object) -> None:
    """Raise ConfigError with what was expected and what came, unless `holds`."""
    if not holds:
        raise ConfigError(f"{name} must be {expected}, got {got!r}.", hint=f"Change {name}.")


def parse_dataclass(cls: type[T], values: object, where: str) -> T:
    """Build `cls` from a mapping of JSON values.

    Raises: ConfigError for a mistyped field, UnknownSetting for one that `cls` does not have.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where} must be an object of settings, got {type(values).__name__}.",
            hint='Write it as JSON: {"name": value, ...}.',
        )
    hints = _fields(cls)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise _unknown(where, str(unknown[0]), hints)
    parsed = {n: _parse(hints[n], v, f"{where}.{n}") for n, v in values.items()}
    try:
        return cls(**parsed)
    except ConfigError as error:
        group = getattr(cls, "group", None)
        if group is None:
            raise
        # There are several of this kind: only here its own name is known.
        own = where.rpartition(".")[2]
        message, hint = (
            text.replace(f"{group}.", f"{own}.") for text in (error.message, error.hint)
        )
        raise ConfigError(message, hint) from None


def parse_override(cls: type[Any], values: dict[str, Any], text: str) -> None:
    """Write one "a.b=value" into nested JSON `values` of `cls`; ConfigError if no such setting."""
    name, equals, raw = text.partition("=")
    if not equals:
        raise ConfigError(
            f"An override must look like name=value, got {text!r}.",
            hint="For instance stage1.lr=1e-4.",
        )
    *outer, last = name.strip().split(".")
    kind: Any = cls
    for part in outer:
        kind = _field(kind, part, name)
        values = values[part]
    kind = _field(kind, last, name)
    if dataclasses.is_dataclass(kind):
        raise ConfigError(
            f"{name} is a group of settings, not one.", hint=f"Known: {', '.join(_fields(kind))}."
        )
    try:
        values[last] = json.loads(raw)
    except json.JSONDecodeError as error:
        if kind is not str:  # a bare word is a string where a string is due, and nowhere else
            raise ConfigError(
                f"{name} must be {_describe(kind)}, got {raw!r}.",
                hint="Values are JSON: true, 3, 1e-4, [384, 384], null.",
            ) from error
        values[last] = raw
    if kind is str and not isinstance(values[last], str):
        values[last] = raw


def _fields(cls: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(cls):
        return {}
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _field(kind: Any, part: str, name: str) -> Any:
    hints = _fields(kind)
    if part not in hints:
        raise _unknown(name, part, hints)
    return hints[part]


def _unknown(where: str, name: str, known: Mapping[str, Any]) -> UnknownSetting:
    return UnknownSetting(
        f"{where} has no setting named {name!r}.", hint=f"Known: {', '.join(known) or 'none'}."
    )


def _parse(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return parse_dataclass(kind, value, where)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _parse(next(k for k in inner if k is not type(None)), value, where)
    if origin is tuple:
        if isinstance(value, list | tuple) and inner[-1:] == (Ellipsis,):
            inner = (inner[0],) * len(value)
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            raise _mistyped(kind, value, where)
        return tuple(
            _parse(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, value, strict=True))
        )
    # bool is a subclass of int in Python, and bool("False") is True: compare the exact type.
    if kind is float and type(value) in (int, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise _mistyped(kind, value, where)
        return float(value)
    if type(value) is not kind:
        raise _mistyped(kind, value, where)
    return value


def _mistyped(kind: Any, value: object, where: str) -> ConfigError:
    return ConfigError(
        f"{where} must be {_describe(kind)}, got {value!r} ({type(value).__name__}).",
        hint=f"Give {where} as {_describe(kind)}.",
    )


def _describe(kind: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and inner[-1:] == (Ellipsis,):
        return f"a list, each {_describe(inner[0])}"
    if origin is tuple:
        return f"a list of {len(inner)}: {', '.join(_describe(k) for k in inner)}"
    if inner:
        return " or ".join("null" if k is type(None) else _describe(k) for k in inner)
    return names.get(kind, getattr(kind, "__name__", str(kind)))
