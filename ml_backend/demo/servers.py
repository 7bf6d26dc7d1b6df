"""Label Studio, backend and worker of the demonstration: started in order, stopped in reverse."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ml_backend.processes import (
    BackendServer,
    LabelStudioServer,
    WorkerProcess,
    find_label_studio,
    free_port,
    label_studio_template,
)
from ml_backend.proxies import without_proxy_to_loopback
from ml_backend.settings import Settings, ensure_secrets

# Freshly migrated data folders of Label Studio, one per release; also used by the tests.
TEMPLATES = Path(".cache/label-studio")


@dataclass(frozen=True)
class Running:
    """The started servers."""

    settings: Settings
    label_studio: LabelStudioServer
    backend: BackendServer
    worker: WorkerProcess
    environment: dict[str, str]


@contextmanager
def servers(folder: Path, console: Console, *, keep: bool = False) -> Iterator[Running]:
    """Label Studio, backend and worker on free ports; stopped by process id at the end."""
    executable = find_label_studio(Path.cwd())
    # A terminated demonstration must stop its children, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ports = _ports(folder) if keep else None
    with ExitStack() as stack:
        console.print("starting Label Studio (its very first start takes up to a minute)")
        label_studio = LabelStudioServer(
            folder / "label-studio",
            executable=executable,
            port=ports and ports[0],
            template=label_studio_template(TEMPLATES, executable),
        )
        stack.callback(label_studio.stop)
        label_studio.start()
        port = ports[1] if ports else free_port()
        environment = backend_environment(folder, label_studio, port)
        ensure_secrets(folder / "pixbal")
        backend = BackendServer(env=environment, log=folder / "backend.log", port=port, workers=2)
        stack.callback(backend.stop)
        backend.start()
        worker = WorkerProcess(env=environment, log=folder / "worker.log")
        stack.callback(worker.stop)
        worker.start()
        yield Running(Settings.from_env(environment), label_studio, backend, worker, environment)


def _ports(folder: Path) -> tuple[int, int]:
    """The ports of an earlier `--keep`, so that its addresses stay good; else new ones."""
    path = folder / "ports.json"
    if not path.is_file():
        path.write_text(json.dumps([free_port(), free_port()]), encoding="ascii")
    first, second = json.loads(path.read_text(encoding="ascii"))
    return int(first), int(second)


def backend_environment(folder: Path, label_studio: LabelStudioServer, port: int) -> dict[str, str]:
    """The environment of backend and worker: one thread each, loopback addresses."""
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("PIXBAL_", "LABEL_STUDIO_"))
    }
    return without_proxy_to_loopback(inherited) | {
        "PIXBAL_HOME": str(folder / "pixbal"),
        "PIXBAL_PORT": str(port),
        "PIXBAL_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "PIXBAL_RECONCILE_S": "20",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }
