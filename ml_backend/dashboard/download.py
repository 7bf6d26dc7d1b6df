"""A version as one file: the very folder that `pixbal export` writes, zipped."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import IO

from ml_backend.errors import NotFound
from ml_backend.store import VersionRow


def zip_version(version: VersionRow, spool: Path) -> IO[bytes]:
    """The folder of a version as a zip, in a file below `spool` that is gone when it is closed.

    Raises:
        NotFound: the folder is gone. OSError: the disk is full.
    """
    folder = Path(version.path)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    if not files:
        raise NotFound(
            f"The files of version {version.name} are gone.", "Restore PIXBAL_HOME from a backup."
        )
    # Not in memory: weights are hundreds of megabytes. Closed by the server after the last byte.
    target = tempfile.TemporaryFile(dir=spool)
    try:
        # Weights do not compress.
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for path in files:
                archive.write(path, f"{version.name}/{path.relative_to(folder).as_posix()}")
        target.seek(0)
    except BaseException:
        target.close()
        raise
    return target
