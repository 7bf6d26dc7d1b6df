"""Every setting: name, default, help, secret or not. The environment is read in one place."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from ml_backend.errors import SettingsError
from ml_backend.secrets_file import GENERATED_SECRETS as GENERATED_SECRETS
from ml_backend.secrets_file import SECRETS_FILE as SECRETS_FILE
from ml_backend.secrets_file import ensure_secrets as ensure_secrets
from ml_backend.secrets_file import read_secrets
from ml_backend.setting_types import Faults, database_url, http_url, own_worker_id, token


class Setting(NamedTuple):
    """One environment variable; `default` is shown in the documents, "" means unset."""

    name: str
    default: str
    help: str
    secret: bool = False


SETTINGS: tuple[Setting, ...] = (
    Setting("PIXBAL_HOME", "./pixbal-data", "Folder for images, regions, versions and databases"),
    Setting("PIXBAL_DATABASE_URL", "sqlite:///HOME/pixbal.db", "Store: SQLite or PostgreSQL", True),
    Setting(
        "PIXBAL_WORKFLOW_DATABASE_URL",
        "sqlite:///HOME/workflow.db",
        "Durable workflow state: SQLite or PostgreSQL",
        True,
    ),
    Setting("PIXBAL_HOST", "127.0.0.1", "Address the backend listens on"),
    Setting("PIXBAL_PORT", "9090", "Port the backend listens on, 1 to 65535"),
    Setting("PIXBAL_PUBLIC_URL", "http://HOST:PORT", "Backend as the annotator's browser sees it"),
    Setting("PIXBAL_BACKEND_URL", "PIXBAL_PUBLIC_URL", "Backend as Label Studio sees it"),
    Setting("LABEL_STUDIO_URL", "http://127.0.0.1:8080", "Label Studio as the backend sees it"),
    Setting(
        "LABEL_STUDIO_PUBLIC_URL", "LABEL_STUDIO_URL", "Label Studio as people's browsers see it"
    ),
    Setting("LABEL_STUDIO_API_KEY", "", "Label Studio token, legacy or personal", True),
    Setting("PIXBAL_WEBHOOK_SECRET", "", "Value of the webhook header X-Pixbal-Secret", True),
    Setting("PIXBAL_BASIC_USER", "pixbal", "User Label Studio signs in with"),
    Setting("PIXBAL_BASIC_PASSWORD", "", "Password Label Studio signs in with", True),
    Setting("PIXBAL_MEDIA_KEY", "", "Key that signs the addresses of region pictures", True),
    Setting("PIXBAL_ADMIN_USER", "admin", "User of the admin's page"),
    Setting(
        "PIXBAL_ADMIN_PASSWORD", "", "Password of the admin's page, at least 12 characters", True
    ),
    Setting("PIXBAL_MEDIA", "backend", "Who serves region pictures: backend or local-files"),
    Setting(
        "PIXBAL_LOCAL_FILES_ROOT",
        "",
        "Label Studio's document root, written to when PIXBAL_MEDIA is local-files",
    ),
    Setting("PIXBAL_MAX_PIXELS", "50000000", "Largest image accepted, in pixels"),
    Setting("PIXBAL_DEVICE", "auto", "Where models run: auto, cpu, cuda, cuda:N or mps"),
    Setting("PIXBAL_THREADS", "1", "CPU threads of a model, 1 to 256"),
    Setting("PIXBAL_RECONCILE_S", "60", "Seconds between comparisons with Label Studio"),
    Setting("PIXBAL_POLL_S", "1", "Seconds between looks at the queue of events"),
    Setting(
        "PIXBAL_WORKER_ID",
        "HOST-HOME",
        "Name of a worker, one for each that runs: letters, digits, '.', '_' and '-'",
    ),
    Setting("PIXBAL_LEASE_S", "30", "Seconds of silence after which a worker counts as lost"),
    Setting("PIXBAL_RETRY_S", "30", "Seconds before a failed round is tried again; they double"),
    Setting("PIXBAL_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR"),
)

MIN_PASSWORD = 12


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Fields that may hold a secret are not part of the repr."""

    home: Path
    database_url: str = field(repr=False)
    workflow_database_url: str = field(repr=False)
    host: str
    port: int
    public_url: str
    backend_url: str
    label_studio_url: str
    label_studio_public_url: str
    label_studio_api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    basic_user: str
    basic_password: str = field(repr=False)
    media_key: str = field(repr=False)
    admin_user: str
    admin_password: str = field(repr=False)
    media: Literal["backend", "local-files"]
    local_files_root: Path | None
    max_pixels: int
    device: str
    threads: int
    reconcile_s: float
    poll_s: float
    worker_id: str
    lease_s: float
    retry_s: float
    log_level: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Settings of an environment; an empty value counts as unset.

        Secrets the environment lacks are read from HOME/secrets.env.

        Raises:
            SettingsError: with every fault found, not only the first.
        """
        faults = Faults()
        values = _values(environ, faults)
        settings = _parse(values, faults)
        if faults:
            raise SettingsError(list(faults), "Correct them and start again.")
        return settings

    def project_page(self, project_id: int) -> str:
        """Where a person opens a project of Label Studio."""
        return f"{self.label_studio_public_url}/projects/{project_id}/data"

    @property
    def images_dir(self) -> Path:
        """Image files, named by content."""
        return self.home / "images"

    @property
    def media_dir(self) -> Path:
        """Cache of drawn region pictures; may be deleted at any time."""
        return self.home / "media"

    def secret_values(self) -> tuple[str, ...]:
        """Every non-empty string that must never reach a log, database passwords included."""
        found = [
            self.label_studio_api_key,
            self.webhook_secret,
            self.basic_password,
            self.media_key,
            self.admin_password,
        ]
        for url in (self.database_url, self.workflow_database_url):
            password = urlsplit(url).password or ""
            found += [password, unquote(password)]
        return tuple(dict.fromkeys(value for value in found if value))

    def check_serving(self) -> None:
        """Refuse to listen beyond this machine without secrets.

        The admin's password is none of them: without it that page is off, wherever it listens.

        Raises:
            SettingsError: the host is not loopback and a secret is unset.
        """
        if is_loopback(self.host):
            return
        needed = {
            "PIXBAL_WEBHOOK_SECRET": self.webhook_secret,
            "PIXBAL_BASIC_PASSWORD": self.basic_password,
            "PIXBAL_MEDIA_KEY": self.media_key,
        }
        missing = [name for name, value in needed.items() if not value]
        if missing:
            raise SettingsError(
                [f"{name} is unset and PIXBAL_HOST is {self.host}" for name in missing],
                "Set them, let `pixbal init` draw them, or listen on 127.0.0.1.",
            )


def home_of(environ: Mapping[str, str]) -> Path:
    """PIXBAL_HOME of an environment, absolute, with ~ written out; for all who need it."""
    # A shell leaves ~ as it is in quotes, in .env files and behind `env NAME=`.
    text = environ.get("PIXBAL_HOME", "").strip() or "./pixbal-data"
    return Path(text).expanduser().absolute()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server listening on the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def settings_table() -> str:
    """The settings as a Markdown table, as the README shows it."""
    rows = ["| Setting | Default | Meaning |", "|---|---|---|"]
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default else "unset"
        mark = " (secret)" if setting.secret else ""
        rows.append(f"| `{setting.name}` | {default} | {setting.help}{mark} |")
    return "\n".join(rows) + "\n"


def _values(environ: Mapping[str, str], faults: Faults) -> dict[str, str]:
    """Set values by name: the environment first, then, for secrets, the secrets file."""
    known = {setting.name for setting in SETTINGS}
    for name in sorted(environ):
        if name.startswith("PIXBAL_") and name not in known:
            # Only near misses: other programs may use the prefix for things of their own.
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.92)
            if near:
                faults.append(f"{name} is not a setting; did you mean {near[0]}?")
    values = {s.name: environ[s.name].strip() for s in SETTINGS if environ.get(s.name, "").strip()}
    home = home_of(environ)
    values["PIXBAL_HOME"] = str(home)
    stored = read_secrets(home, faults)
    for setting in SETTINGS:
        if setting.secret and stored.get(setting.name):
            values.setdefault(setting.name, stored[setting.name])
    return values


def _parse(values: Mapping[str, str], faults: Faults) -> Settings:
    """Typed settings; a fault leaves its default in place, the caller raises."""
    home = Path(values["PIXBAL_HOME"])
    if home.exists() and not home.is_dir():
        faults.append(f"PIXBAL_HOME must be a folder, got the file {home}")
    host = values.get("PIXBAL_HOST", "127.0.0.1")
    port = faults.integer(values, "PIXBAL_PORT", 9090, 1, 65535)
    wildcard = host in ("0.0.0.0", "::", "[::]")
    own_host = "localhost" if wildcard else f"[{host.strip('[]')}]" if ":" in host else host
    public = http_url(values, "PIXBAL_PUBLIC_URL", f"http://{own_host}:{port}", faults)
    media = faults.choice(values, "PIXBAL_MEDIA", "backend", ("backend", "local-files"))
    root = values.get("PIXBAL_LOCAL_FILES_ROOT")
    if media == "local-files" and not root:
        faults.append("PIXBAL_LOCAL_FILES_ROOT must be set when PIXBAL_MEDIA is local-files")
    user = token(values, "PIXBAL_BASIC_USER", faults) or "pixbal"
    if ":" in user:
        faults.append(f"PIXBAL_BASIC_USER must not hold a colon, got {user!r}")
    admin_password = token(values, "PIXBAL_ADMIN_PASSWORD", faults)
    if 0 < len(admin_password) < MIN_PASSWORD:
        faults.append(f"PIXBAL_ADMIN_PASSWORD must have at least {MIN_PASSWORD} characters")
    label_studio = http_url(values, "LABEL_STUDIO_URL", "http://127.0.0.1:8080", faults)
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    level = {"PIXBAL_LOG_LEVEL": values.get("PIXBAL_LOG_LEVEL", "INFO").upper()}
    return Settings(
        home=home,
        database_url=database_url(values, "PIXBAL_DATABASE_URL", home / "pixbal.db", faults),
        workflow_database_url=database_url(
            values, "PIXBAL_WORKFLOW_DATABASE_URL", home / "workflow.db", faults
        ),
        host=host,
        port=port,
        public_url=public,
        backend_url=http_url(values, "PIXBAL_BACKEND_URL", public, faults),
        label_studio_url=label_studio,
        label_studio_public_url=http_url(values, "LABEL_STUDIO_PUBLIC_URL", label_studio, faults),
        label_studio_api_key=token(values, "LABEL_STUDIO_API_KEY", faults),
        webhook_secret=token(values, "PIXBAL_WEBHOOK_SECRET", faults),
        basic_user=user,
        basic_password=token(values, "PIXBAL_BASIC_PASSWORD", faults),
        media_key=token(values, "PIXBAL_MEDIA_KEY", faults),
        admin_user=token(values, "PIXBAL_ADMIN_USER", faults) or "admin",
        admin_password=admin_password,
        media=cast("Literal['backend', 'local-files']", media),
        local_files_root=Path(root).expanduser().absolute() if root else None,
        max_pixels=faults.integer(values, "PIXBAL_MAX_PIXELS", 50_000_000, 1, 2_000_000_000),
        device=faults.device(values, "PIXBAL_DEVICE"),
        threads=faults.integer(values, "PIXBAL_THREADS", 1, 1, 256),
        reconcile_s=faults.seconds(values, "PIXBAL_RECONCILE_S", 60.0),
        poll_s=faults.seconds(values, "PIXBAL_POLL_S", 1.0),
        worker_id=faults.name(values, "PIXBAL_WORKER_ID", own_worker_id(home)),
        lease_s=faults.seconds(values, "PIXBAL_LEASE_S", 30.0),
        retry_s=faults.seconds(values, "PIXBAL_RETRY_S", 30.0),
        log_level=faults.choice(level, "PIXBAL_LOG_LEVEL", "INFO", levels),
    )
