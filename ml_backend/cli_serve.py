"""Commands that run processes: serve, worker, up, healthcheck."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import click

from ml_backend import cli_common
from ml_backend.errors import BackendError


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
    click.echo(f"backend on {settings.public_url}, Label Studio at {settings.label_studio_url}")
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
@click.option("--worker", "of_worker", is_flag=True, help="Check the worker's heartbeat instead.")
def healthcheck(of_worker: bool) -> None:
    """Exit 0 where the backend answers /health (or the worker is alive), else 1."""
    settings = cli_common.load_settings()
    if of_worker:
        path = settings.home / "worker.heartbeat"
        age = time.time() - float(path.read_text()) if path.is_file() else float("inf")
        if age > 60:
            raise BackendError(
                f"no sign of the worker for {age:.0f} s", hint="Start `pixbal worker`."
            )
        return
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    token = f"{settings.basic_user}:{settings.basic_password}".encode()
    import base64

    request = urllib.request.Request(
        f"http://{host}:{settings.port}/health",
        headers={"Authorization": "Basic " + base64.b64encode(token).decode()},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise BackendError(
            f"the backend does not answer: {error}", hint="Start `pixbal serve`."
        ) from None


COMMANDS = (serve, worker, up, healthcheck)
