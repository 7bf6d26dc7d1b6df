"""Threads that write at the same moment share one transaction, and one wait for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


@dataclass
class _Waiting(Generic[Item, Done]):
    item: Item
    done: Done | None = None
    error: BaseException | None = None
    over: bool = False


class GroupCommit(Generic[Item, Done]):
    """Whoever gets the turn writes what all who wait have brought, and they need not write.

    A wait for the disk takes 1 to 30 ms, and only one transaction can have it at a time: written
    one by one, fifty events a second would be all that a slow disk takes.

    Args:
        write: stores items in one transaction and returns one result for each, in order.
    """

    def __init__(self, write: Callable[[Sequence[Item]], Sequence[Done]]) -> None:
        self._write = write
        self._waiting: list[_Waiting[Item, Done]] = []
        self._list = threading.Lock()
        self._turn = threading.Lock()

    def __call__(self, item: Item) -> Done:
        """Store one item; returns or raises when it is, or is not, durable."""
        mine: _Waiting[Item, Done] = _Waiting(item)
        with self._list:
            self._waiting.append(mine)
        with self._turn:
            if not mine.over:
                with self._list:
                    batch, self._waiting = self._waiting, []
                self._commit(batch)
        if mine.error is not None:
            raise mine.error
        return mine.done  # type: ignore[return-value]

    def _commit(self, batch: Sequence[_Waiting[Item, Done]]) -> None:
        try:
            found = self._write([waiting.item for waiting in batch])
            for waiting, done in zip(batch, found, strict=True):
                waiting.done = done
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
            else:  # one of them may be at fault: each for itself
                for waiting in batch:
                    self._commit([waiting])
        except BaseException as error:  # the process is told to end: nobody was served
            for waiting in batch:
                waiting.error = error
            raise
        finally:
            for waiting in batch:
                waiting.over = True
