"""Commands that run processes: serve, worker, up, healthcheck."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import click

from ml_backend import cli_common
from ml_backend.errors import BackendError

if TYPE_CHECKING:
    from ml_backend.settings import Settings


def gunicorn_command(host: str, port: int) -> list[str]:
    """The web process: threads, since a handler waits for the database and for pictures."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return [
        sys.executable, "-m", "gunicorn", "ml_backend.wsgi:app", "--bind", address,
        "--worker-class", "gthread", "--workers", "2", "--threads", "8", "--timeout", "120",
        # Nobody uses that socket; it would lie in the home folder, read-only in the container.
        "--graceful-timeout", "10", "--no-control-socket",
    ]  # fmt: skip


@click.command(epilog="Example: pixbal serve")
def serve() -> None:
    """Serve the ML backend (gunicorn) on PIXBAL_HOST:PIXBAL_PORT."""
    settings = cli_common.load_settings()
    settings.check_serving()
    command = gunicorn_command(settings.host, settings.port)
    os.execv(command[0], command)


@click.command(epilog="Example: pixbal worker")
def worker() -> None:
    """Run the worker: reconciliation, training, scoring, pushing."""
    from ml_backend.worker import run_and_exit

    run_and_exit(cli_common.load_settings())


@click.command(epilog="Example: pixbal up")
def up() -> None:
    """Run the backend and the worker together until Ctrl+C; each is started again if it dies."""
    settings = cli_common.load_settings()
    settings.check_serving()
    commands = {
        "backend": gunicorn_command(settings.host, settings.port),
        "worker": [sys.executable, "-m", "ml_backend.worker"],
    }
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    running = {name: subprocess.Popen(command) for name, command in commands.items()}
    click.echo(
        f"backend on {settings.public_url}, Label Studio at {settings.label_studio_public_url}"
    )
    click.echo(
        f"the admin's page: {settings.public_url}/dashboard/ (password: PIXBAL_ADMIN_PASSWORD)"
    )
    started = dict.fromkeys(commands, time.monotonic())
    while not stopping:
        for name, process in running.items():
            if process.poll() is not None and time.monotonic() - started[name] > 5:
                click.echo(f"{name} ended with {process.returncode}; started again", err=True)
                running[name] = subprocess.Popen(commands[name])
                started[name] = time.monotonic()
        time.sleep(0.2)
    for process in running.values():
        process.terminate()
    for process in running.values():
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()


@click.command(epilog="Example: pixbal healthcheck --worker")
@click.option("--worker", "of_worker", is_flag=True, help="Check PIXBAL_WORKER_ID's lease instead.")
def healthcheck(of_worker: bool) -> None:
    """Exit 0 where the backend answers /health (or the worker is alive), else 1."""
    settings = cli_common.load_settings()
    if of_worker:
        _check_worker(settings)
    else:
        _check_backend(settings)


def _check_worker(settings: Settings) -> None:
    """The worker of this very environment: another one that lives must not speak for it."""
    from sqlalchemy import inspect
    from sqlalchemy.exc import SQLAlchemyError

    from ml_backend.liveness import look_at_workers
    from ml_backend.store import Store, schema
    from ml_backend.store.engine import make_engine

    advice = "Start it: pixbal worker. If another one is meant, set PIXBAL_WORKER_ID to its id."
    # Not Store.open: a check changes no database, and has no time to wait for one who does.
    with Store(make_engine(settings.database_url)) as store:
        try:
            ever = inspect(store.engine).has_table(schema.lease.name)
            found = look_at_workers(settings, store, settings.worker_id) if ever else []
        except SQLAlchemyError as error:
            reason = type(getattr(error, "orig", None) or error).__name__
            raise BackendError(
                f"the worker cannot be asked: {reason}",
                hint=f"Check PIXBAL_DATABASE_URL. {advice}",
            ) from None
    if not found:
        raise BackendError(f"the worker {settings.worker_id} does not run", hint=advice)
    if not found[0].alive:
        raise BackendError(
            f"no sign of the worker {settings.worker_id} for {found[0].silent_s:.0f} s", hint=advice
        )


def _check_backend(settings: Settings) -> None:
    import httpx

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}.get(
        settings.host, settings.host
    )
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    try:
        # No proxy of the environment: the backend is on this machine.
        answer = httpx.get(
            f"http://{host}:{settings.port}/health",
            auth=(settings.basic_user, settings.basic_password),
            timeout=5.0,
            trust_env=False,
        )
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise BackendError(
            f"the backend does not answer: {error}", hint="Start `pixbal serve`."
        ) from None


COMMANDS = (serve, worker, up, healthcheck)
