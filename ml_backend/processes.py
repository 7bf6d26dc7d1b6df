"""The servers a demo or a test starts: Label Studio, the web backend, the worker."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from ml_backend.leases import worker_lease
from ml_backend.managed import LOOPBACK, ManagedProcess, ProcessError, answers, free_port
from ml_backend.proxies import without_proxy_to_loopback
from ml_backend.settings import Settings
from ml_backend.store import Store
from ml_backend.store.engine import make_engine

__all__ = [
    "BackendServer",
    "LabelStudioServer",
    "ManagedProcess",
    "ProcessError",
    "WorkerProcess",
    "find_label_studio",
    "free_port",
    "label_studio_template",
    "label_studio_version",
]

ACCOUNT_FILE = "account.json"


class BackendServer(ManagedProcess):
    """The web backend under gunicorn; `env` carries the PIXBAL_ settings."""

    name = "backend"

    def __init__(
        self,
        *,
        env: Mapping[str, str],
        log: Path,
        port: int,
        host: str = LOOPBACK,
        workers: int = 1,
        threads: int = 8,
        cwd: Path | None = None,
    ) -> None:
        self.url = f"http://{host}:{port}"
        command = [
            *(sys.executable, "-m", "gunicorn", "ml_backend.wsgi:app"),
            *("--bind", f"{host}:{port}", "--worker-class", "gthread"),
            *("--workers", str(workers), "--threads", str(threads)),
            # Else every backend of this user answers on one socket in the home folder.
            "--no-control-socket",
        ]
        super().__init__(command, env=env, log=log, cwd=cwd)

    def ready(self) -> bool:
        """True once /health is answered; 401 counts, for the path may ask for a password."""
        return self.running and answers(f"{self.url}/health")


class WorkerProcess(ManagedProcess):
    """The process that runs the rounds; ready when it has taken its lease."""

    name = "worker"

    def __init__(self, *, env: Mapping[str, str], log: Path, cwd: Path | None = None) -> None:
        super().__init__([sys.executable, "-m", "ml_backend.worker"], env=env, log=log, cwd=cwd)
        self._token_before = 0

    def launch(self) -> None:
        """Start the child; a lease that an earlier one took does not count as this child's."""
        self._token_before = self._token()
        super().launch()

    def ready(self) -> bool:
        """True once the lease of this worker has changed hands since this start."""
        return self.running and self._token() > self._token_before

    def _token(self) -> int:
        """The number of the worker's lease, which rises whenever it is taken; 0 for none yet."""
        env = dict(self.env)
        if self.cwd is not None:  # a relative home is relative to the child's folder
            env["PIXBAL_HOME"] = str(self.cwd / (env.get("PIXBAL_HOME") or "pixbal-data"))
        settings = Settings.from_env(env)
        # Not Store.open: the child itself brings the database up to date.
        with Store(make_engine(settings.database_url)) as store:
            try:
                lease = store.lease(worker_lease(settings.worker_id))
            except SQLAlchemyError:
                return 0  # no such table yet, or a server that is not up
        return 0 if lease is None else lease.token


class LabelStudioServer(ManagedProcess):
    """A real Label Studio on its own data folder, for the demo and for tests.

    A folder's first start makes one administrator; `user`, `password` and `token` stay in its
    `account.json` (mode 0600), because Label Studio takes them from the environment only that once.
    """

    name = "Label Studio"

    def __init__(
        self,
        data_dir: Path,
        *,
        executable: Path,
        port: int | None = None,
        log: Path | None = None,
        template: Path | None = None,
        extra_env: Mapping[str, str] | None = None,
    ) -> None:
        """`template`: a folder from `label_studio_template`, copied when `data_dir` is new."""
        self.data_dir = data_dir.resolve()
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        _seed(self.data_dir, template)
        account = _account(self.data_dir)
        self.user, self.password = account["user"], account["password"]
        self.token = account["token"]
        self.files_root = self.data_dir / "files"
        self.files_root.mkdir(exist_ok=True)
        command = [
            *(str(executable), "start", "--no-browser"),
            *("--internal-host", LOOPBACK, "--port", str(self.port)),
        ]
        env = self._environment() | dict(extra_env or {})
        super().__init__(command, env=env, log=log or self.data_dir / "label-studio.log")

    def _environment(self) -> dict[str, str]:
        # Nothing of the parent's own LABEL_STUDIO_ or DJANGO settings may leak in.
        foreign = ("LABEL_STUDIO_", "DJANGO_", "PIXBAL_", "PYTHON")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        # Its calls of our backend, webhooks and predictions, stay on this machine.
        return without_proxy_to_loopback(inherited) | {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.data_dir),
            "LABEL_STUDIO_HOST": self.url,
            "LABEL_STUDIO_USERNAME": self.user,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
            # Read only when the organisation is made, at the first start.
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.files_root),
            # By default Label Studio refuses backends and webhooks on loopback and private
            # addresses; the cloud metadata range stays refused.
            "USE_DEFAULT_BANNED_SUBNETS": "false",
            "USER_ADDITIONAL_BANNED_SUBNETS": "169.254.0.0/16",
            "COLLECT_ANALYTICS": "False",
            "LATEST_VERSION_CHECK": "False",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }

    def launch(self) -> None:
        """Start the child; a taken port is an error: Label Studio would silently use the next."""
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, self.port)) == 0:
                raise ProcessError(
                    f"Port {self.port} is in use, so Label Studio cannot have it.",
                    hint="Choose another port, or stop what listens there.",
                )
        super().launch()

    def ready(self) -> bool:
        """True once /health is answered."""
        return self.running and answers(f"{self.url}/health")

    def start(self, timeout_s: float = 300.0) -> Self:
        """Launch and wait; a new folder without template takes 50 to 80 s for its migrations."""
        return super().start(timeout_s)


def find_label_studio(root: Path) -> Path:
    """The program in `root/.venv-label-studio`, else on PATH; ProcessError if in neither."""
    own = root / ".venv-label-studio" / "bin" / "label-studio"
    if own.is_file():
        return own
    found = shutil.which("label-studio")
    if found is None:
        raise ProcessError(
            f"Label Studio is not installed: neither {own} nor label-studio on PATH.",
            hint="python3 -m venv .venv-label-studio && "
            ".venv-label-studio/bin/pip install 'label-studio==1.23.*'",
        )
    return Path(found)


def label_studio_version(executable: Path) -> str:
    """The installed version, from the package metadata (running the program takes seconds)."""
    for folder in executable.resolve().parent.parent.glob("lib/python*/site-packages"):
        for info in folder.glob("label_studio-*.dist-info"):
            return info.name.removeprefix("label_studio-").removesuffix(".dist-info")
    raise ProcessError(
        f"No installed label-studio package beside {executable}.",
        hint="Give the label-studio program inside its own virtual environment.",
    )


def label_studio_template(cache: Path, executable: Path) -> Path:
    """A migrated data folder of this version under `cache`, built once, never run afterwards."""
    template = cache.resolve() / f"label-studio-{label_studio_version(executable)}"
    if (template / ACCOUNT_FILE).is_file():
        return template
    cache.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f"{template.name}.", dir=template.parent))
    try:
        with LabelStudioServer(building, executable=executable):
            pass
        # Two builders: the first rename wins; the second meets a full folder and drops its own.
        with contextlib.suppress(OSError):
            building.rename(template)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if not (template / ACCOUNT_FILE).is_file():
        raise ProcessError(
            f"The template folder {template} could not be made.", hint="Remove it and try again."
        )
    return template


def _seed(data_dir: Path, template: Path | None) -> None:
    fresh = not data_dir.exists() or not any(data_dir.iterdir())
    if template is not None and fresh:
        shutil.copytree(template, data_dir, dirs_exist_ok=True)
        (data_dir / "label-studio.log").unlink(missing_ok=True)
    data_dir.mkdir(parents=True, exist_ok=True)


def _account(data_dir: Path) -> dict[str, str]:
    path = data_dir / ACCOUNT_FILE
    if path.is_file():
        account: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return account
    if (data_dir / "label_studio.sqlite3").exists():
        raise ProcessError(
            f"{data_dir} holds a Label Studio database but no {ACCOUNT_FILE}.",
            hint="Give an empty folder, or one that PixBal made.",
        )
    account = {
        "user": "admin@example.com",
        "password": secrets.token_urlsafe(12),
        "token": secrets.token_hex(20),
    }
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        json.dump(account, file)
    return account
