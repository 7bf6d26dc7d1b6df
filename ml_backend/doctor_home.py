"""What the doctor looks at on this machine: who may listen, the database, the last backup."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ml_backend.backup import LAST_BACKUP
from ml_backend.checks import Check
from ml_backend.errors import SettingsError
from ml_backend.settings import Settings, is_loopback
from ml_backend.store import Store
from ml_backend.store.engine import known_revisions, reading, revision
from training.files import read_json

BACKUP_MAX_AGE_S = 7 * 86400.0


def examine_home(settings: Settings, store: Store, now: float) -> list[Check]:
    """Checks that need no server; the one of the backup only where one was made."""
    return [_listening(settings), _database(store), *_backup(settings.home, now)]


def _listening(settings: Settings) -> Check:
    where = f"{settings.host}:{settings.port}"
    try:
        settings.check_serving()
    except SettingsError as error:
        return Check("listening", False, "; ".join(error.faults), error.hint)
    if is_loopback(settings.host):
        return Check("listening", True, f"on {where}, this machine only")
    return Check("listening", True, f"on {where}, with every secret it needs")


def _database(store: Store) -> Check:
    newest = known_revisions()[-1]
    try:
        with reading(store.engine) as connection:
            found = revision(connection)
    except SQLAlchemyError as error:
        reason = type(getattr(error, "orig", None) or error).__name__
        advice = "Check PIXBAL_DATABASE_URL, that the server runs, and the disk."
        return Check("database", False, f"does not answer: {reason}", advice)
    kind = store.engine.dialect.name
    detail = f"{kind} at revision {found}, this release knows up to {newest}"
    advice = "Another release works on it: run one release only, or restore the backup before it."
    return Check("database", found == newest, detail, advice)


def _backup(home: Path, now: float) -> list[Check]:
    try:
        record = read_json(home / LAST_BACKUP)
        made_at = datetime.fromisoformat(record["made_at"]).astimezone(UTC)
        path = Path(record["path"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        advice = "Make a new one: pixbal backup FILE."
        return [Check("backup", None, f"the record of the last one is damaged: {error}", advice)]
    age_s = now - made_at.timestamp()
    detail = f"the last one is {max(age_s, 0.0) / 86400:.1f} days old: {path}"
    advice = "Make a new one: pixbal backup FILE."
    return [Check("backup", True if age_s < BACKUP_MAX_AGE_S else None, detail, advice)]
