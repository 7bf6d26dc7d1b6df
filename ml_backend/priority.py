"""Who gets the processor first: answers before training."""

from __future__ import annotations

import contextlib
import os
import threading

NICENESS = 10
_stood_back = threading.local()


def stand_back() -> None:
    """Let everything else on these cores go before the calling thread and the threads it starts.

    Training takes every core it finds; Label Studio gives a webhook one second. On Linux a priority
    is a thread's own: the thread that applies events keeps its turn, and with it the database's
    lock is soon free again. Lowering is always allowed; where it fails, work goes on as it was. A
    second call changes nothing.
    """
    if not getattr(_stood_back, "done", False):
        _stood_back.done = True
        with contextlib.suppress(OSError, AttributeError):
            os.nice(NICENESS)
