"""Values kept in memory up to a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """Keeps what `get` computed until `limit` bytes are used; later values are not kept.

    Random batches use every value equally often, so throwing out old ones for new ones gains
    nothing. Safe with threads: at worst a value is computed twice.
    """

    def __init__(self, limit: int, size: Callable[[T], int]) -> None:
        self._room, self._size = limit, size
        self._values: dict[Hashable, T] = {}

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of `key`, computed if it is not kept."""
        if key in self._values:
            return self._values[key]
        value = compute()
        if (size := self._size(value)) <= self._room:
            self._room -= size
            self._values[key] = value
        return value
