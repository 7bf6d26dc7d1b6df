"""Writers that meet share a transaction; each still gets its own result or its own error."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backend_helpers import make_store

from ml_backend.store.group_commit import GroupCommit


class Slow:
    """Waits in the first write until the others have queued up; refuses what is negative."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.begun.set()
        self.go.wait(30)
        self.batches.append(list(items))
        if min(items) < 0:
            raise ValueError(f"refused {min(items)}")
        return [10 * item for item in items]


def together(write: Slow, items: Sequence[int]) -> list[int | str]:
    """The first item alone, then all others at once."""
    commit = GroupCommit(write)

    def one(item: int) -> int | str:
        try:
            return commit(item)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(items)) as pool:
        first = pool.submit(one, items[0])
        assert write.begun.wait(30)
        rest = [pool.submit(one, item) for item in items[1:]]
        while len(commit._waiting) < len(items) - 1:
            pass
        write.go.set()
        return [future.result() for future in (first, *rest)]


def test_those_who_wait_share_one_write() -> None:
    write = Slow()
    assert together(write, [1, 2, 3, 4, 5]) == [10, 20, 30, 40, 50]
    assert [sorted(batch) for batch in write.batches] == [[1], [2, 3, 4, 5]]


def test_one_that_is_refused_takes_no_other_along() -> None:
    write = Slow()
    assert together(write, [1, 2, -3, 4]) == [10, 20, "refused -3", 40]


def test_alone_it_writes_at_once_and_an_error_is_raised() -> None:
    write = Slow()
    write.go.set()
    commit = GroupCommit(write)
    assert commit(7) == 70
    with pytest.raises(ValueError, match="refused -1"):
        commit(-1)
    assert commit(8) == 80


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(3)
def test_two_hundred_posts_at_once_of_twenty_events(tmp_path: Path) -> None:
    """Every post gets the row of its event, and one of each is told that it is new.

    Seen failing with the results of a batch handed out in reverse.
    """
    with make_store(tmp_path) as store, ThreadPoolExecutor(40) as pool:

        def post(number: int) -> tuple[int, bool]:
            payload = {"annotations": [{"id": number}]}
            event, new = store.record_event(4, "ANNOTATIONS_DELETED", payload)
            assert event.payload == payload
            return number, new

        found = list(pool.map(post, [n % 20 for n in range(200)]))
        assert sorted(n for n, new in found if new) == list(range(20))
        assert store.count_events() == 20
