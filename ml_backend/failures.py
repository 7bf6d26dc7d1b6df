"""Why a round failed, in words, and whether it is worth another try."""

from __future__ import annotations

import errno

from sqlalchemy.exc import DBAPIError

from ml_backend.errors import BackendError, LabelStudioError
from training.errors import OutOfMemory, TrainingError

TRIES = 3  # without a request; a failure that is always the same ends after these
LONGEST_PAUSE_S = 600.0
DISK_FULL = "The disk is full: make room below PIXBAL_HOME. What was trained is kept."
_PG_DISK_FULL = "53100"


def transient(error: BaseException) -> bool:
    """Label Studio away, overloaded, or an import without an answer: it will pass.

    A refusal with a reason (a deleted project, a bad token) will not: it would be refused again.
    """
    return isinstance(error, LabelStudioError) and bool(getattr(error, "transient", True))


def cause_of(error: BaseException) -> BaseException:
    """The last error of a step that was tried several times, else the error itself."""
    tried = getattr(error, "errors", None)
    return tried[-1] if isinstance(tried, list) and tried else error


def pause_before_retry(error: BaseException, attempts: int, first_s: float) -> float | None:
    """Seconds until a round that failed is tried again by itself; None: it waits for a request.

    Label Studio is waited for as long as it takes. What may pass (a full disk, a GPU that others
    filled, an error nobody expected) is tried `TRIES` times. What would fail again is not: a wrong
    setting, no labels, a loss that became NaN.
    """
    error = cause_of(error)
    if not transient(error):
        settled = isinstance(error, BackendError | TrainingError)
        if attempts >= TRIES or (settled and not isinstance(error, OutOfMemory)):
            return None
    return float(min(first_s * 2 ** min(attempts - 1, 16), LONGEST_PAUSE_S))


def reason_of(error: BaseException) -> str:
    """What failed, for the round's record: the type, the message, and what to do."""
    error = cause_of(error)
    hint = getattr(error, "hint", "") or _hint(error)
    # SQLAlchemy's own text also has the statement, its values and a link.
    text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    kind = "" if isinstance(error, BackendError | TrainingError) else f"{type(error).__name__}: "
    whole = f"{kind}{text}" + (f" {hint}" if hint and hint not in text else "")
    return whole.replace("\0", "\\0")  # PostgreSQL stores no zero byte


def disk_is_full(error: BaseException) -> bool:
    """Whether a file or the database could not grow; each says so in its own way."""
    if isinstance(error, DBAPIError):
        server = getattr(error.orig, "sqlstate", None) == _PG_DISK_FULL
        return server or "disk is full" in str(error.orig)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _hint(error: BaseException) -> str:
    if disk_is_full(error):
        return DISK_FULL
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "A limit on the size of files is in the way (ulimit -f)."
    # PyTorch says this of the GPU and, in other words, of the machine's own memory.
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return "Free memory, or lower model.short_side, augment.crop or PIXBAL_THREADS."
    return ""
