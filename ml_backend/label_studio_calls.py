"""What the parts of the Label Studio client build on: calls by SDK method or by path."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Calls(ABC):
    """One authorised connection to a server."""

    @abstractmethod
    def call(self, what: str, do: Callable[[Any], T], *, repeat: bool = True) -> T:
        """Run `do` with the SDK client; `repeat` where doing it twice does no harm."""

    @abstractmethod
    def raw(
        self, method: str, path: str, what: str, *, params: Mapping[str, Any] | None = None
    ) -> Any:
        """The JSON of a request that may be repeated, as the server sent it."""


def where(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    """One filter of the Data Manager on a task column."""
    return {
        "filter": f"filter:tasks:{column}",
        "operator": operator,
        "type": kind,
        "value": value,
    }


def by_id(filters: list[dict[str, Any]]) -> str:
    """The `query` parameter: all filters hold, in the order of ids."""
    return json.dumps(
        {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}
    )
