"""HOME/secrets.env: the secrets that were drawn because nobody chose any, readable by one user."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
from pathlib import Path

from ml_backend.errors import SettingsError
from ml_backend.setting_types import Faults

SECRETS_FILE = "secrets.env"
# The secrets nobody has to choose: ensure_secrets() draws them.
GENERATED_SECRETS = (
    "PIXBAL_WEBHOOK_SECRET",
    "PIXBAL_BASIC_PASSWORD",
    "PIXBAL_MEDIA_KEY",
    "PIXBAL_ADMIN_PASSWORD",
)


def ensure_secrets(home: Path) -> Path:
    """Draw the secrets HOME/secrets.env lacks; those it has stay. Returns the file, mode 0600.

    Raises:
        SettingsError: the file is readable by others, or cannot be read.
    """
    home.mkdir(parents=True, exist_ok=True)
    folder = os.open(home, os.O_RDONLY)
    try:
        # Backend and worker may start in the same moment; both must end up with the same ones.
        fcntl.flock(folder, fcntl.LOCK_EX)
        return _complete(home)
    finally:
        os.close(folder)


def _complete(home: Path) -> Path:
    path = home / SECRETS_FILE
    faults = Faults()
    known = read_secrets(home, faults)
    if faults:
        raise SettingsError(list(faults))
    missing = [name for name in GENERATED_SECRETS if not known.get(name)]
    if not missing:
        return path
    old = path.read_text("utf-8") if path.exists() else ""
    if old and not old.endswith("\n"):
        old += "\n"
    text = old + "".join(f"{name}={secrets.token_urlsafe(32)}\n" for name in missing)
    handle, temporary = tempfile.mkstemp(dir=home, prefix=".secrets-")  # mkstemp makes it 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return path


def read_secrets(home: Path, faults: Faults) -> dict[str, str]:
    """NAME=value lines of HOME/secrets.env; no file, no secrets; what is wrong goes to `faults`."""
    path = home / SECRETS_FILE
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            faults.append(f"{path} can be read by others; run: chmod 600 {path}")
            return {}
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{path} cannot be read: {error}")
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}
