"""The services of docker-compose.yml in real containers: confined as it says, and at work so."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from containers import Container, Image, Pod, make_root, oci_config, volumes_of, why_not
from servers import CACHE
from test_compose import VALUES, composed

from ml_backend.demo.annotator import Annotator
from ml_backend.label_studio import LabelStudio
from ml_backend.processes import ProcessError, find_label_studio, label_studio_template
from ml_backend.settings import Settings
from ml_backend.store import Store

pytestmark = [pytest.mark.guarantee(23), pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
PIXBAL = Image.of_dockerfile(ROOT / "Dockerfile", ROOT / ".venv")
# Docker Hub's image of Label Studio, as far as it matters; the last three keep it off the internet.
LABEL_STUDIO = Image(
    user="user", uid=1001, workdir="/label-studio", venv=ROOT / ".venv-label-studio",
    env={"LABEL_STUDIO_BASE_DATA_DIR": "/label-studio/data",
         "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LATEST_VERSION_CHECK": "False"},
    folders={"/label-studio": 1001, "/label-studio/data": 1001},
    command=("label-studio", "start", "--no-browser", "--internal-host", "0.0.0.0", "--port",
             "8080"),
)  # fmt: skip
SCENES = Path("/data/scenes")
# What a service may write to: its volumes, and memory. The kernel lets all make message queues.
WRITABLE = ["/data", "/dev/mqueue", "/dev/shm", "/label-studio/files", "/tmp"]
TINY = ("stage1.epochs=1", "stage1.steps_per_epoch=4", "stage2.epochs=1",
        "stage2.steps_per_epoch=4", "model.short_side=120")  # fmt: skip


class Compose:
    """Services of the compose file, each in its container, on one network under their names."""

    def __init__(self, folder: Path, values: dict[str, str], images: Mapping[str, Image]) -> None:
        """`images` by service; the services that it lacks are left out."""
        result = composed(values, folder)
        assert result.returncode == 0, result.stderr
        found = yaml.safe_load(result.stdout)["services"]
        self.folder, self.images = folder, images
        self.services = {name: found[name] for name in images}
        self.containers: dict[str, Container] = {}
        self.volumes = folder / "volumes"
        for name, service in self.services.items():
            for source, where, _ in volumes_of(service):
                (self.volumes / source).mkdir(parents=True, exist_ok=True)
                # A new volume takes over the owner of the folder that it covers, else it is root's.
                if uid := images[name].folders.get(where):
                    os.chown(self.volumes / source, uid, uid)
        self.pod = Pod(folder / "pod.log")
        self._networks = {name: self.pod.connect(name) for name in self.services}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pod.close()
        for container in self.containers.values():
            container.wait()

    def up(self, name: str) -> Container:
        """Start a service and wait until the compose file's own health check passes."""
        hosts = {}
        for other, service in self.services.items():
            network = (service.get("networks") or {}).get("default") or {}
            for called in (other, *network.get("aliases", [])):
                hosts[called] = self.pod.addresses[other]
        root = self.folder / name / "root"
        service, image = self.services[name], self.images[name]
        make_root(root, image, hosts)
        config = oci_config(name, service, image, root, self.volumes, self._networks[name])
        container = self.containers[name] = Container(self.pod, name, root.parent, config)
        kind, *check = service["healthcheck"]["test"]
        assert kind == "CMD"
        container.wait_healthy(check)
        return container


def inside(container: Container, function: Callable[[], object]) -> Any:
    """What a function of this module returns when it is called in the container."""
    program = (
        f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]!r}; import json;"
        f"import test_containers; print(json.dumps(test_containers.{function.__name__}()))"
    )
    done = container.exec("python", "-c", program)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{container.log[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[[dict[str, str], Mapping[str, Image]], Compose]]:
    """Makes the containers' surroundings; at the end all is gone."""
    if reason := why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda values, images: stack.enter_context(Compose(tmp_path, values, images))


# -- how they are confined ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ports"), [("backend", [9090]), ("worker", [])])
def test_a_service_is_confined(up: Callable[..., Compose], name: str, ports: list[int]) -> None:
    """No root, no rights, nothing to write to but volumes and memory, no port but the backend's.

    Seen failing with `read_only` left out (a file could be made in /home/pixbal and /var/tmp), with
    `cap_drop` left out (CapBnd a80425fb), with `security_opt` left out (NoNewPrivs 0), with `tmpfs`
    left out (none in /tmp), with /label-studio/files not given to pixbal in the Dockerfile, as it
    was (none in there), with its USER line left out (root without rights may not write to /data:
    the worker ends), and with a second `--bind` (9091 listens).
    """
    container = up(VALUES, {name: PIXBAL}).up(name)
    found = inside(container, look_around)
    assert found["rights"] == {
        "Uid": "10001", "Gid": "10001", "Groups": "", "NoNewPrivs": "1",
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16),
    }  # fmt: skip
    assert found["writable"] == WRITABLE
    assert found["listening"] == ports
    assert container.stop() == 0


def look_around() -> dict[str, Any]:
    """The rights of the service itself (process 1), and what is open from beside it."""
    lines = Path("/proc/1/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    names = ("Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    rights = {name: (status[name].split() or [""])[0] for name in names}
    return {"rights": rights, "writable": writable_folders(), "listening": open_ports()}


def writable_folders() -> list[str]:
    """Every folder in which a file can be made, by trying; none below another of them."""
    found: list[str] = []
    for folder, subfolders, _ in os.walk("/"):
        if folder == "/proc":
            subfolders.clear()
        try:
            path = Path(folder) / f".probe-{os.getpid()}"
            path.open("x").close()
            path.unlink()
        except OSError:
            continue
        found.append(folder)
        subfolders.clear()
    return sorted(found)


def open_ports() -> list[int]:
    """Ports on which something waits in this network: TCP that listens, and all of UDP."""
    found = set()
    for kind, states in (("tcp", {"0A"}), ("udp", {"07"})):
        for path in (Path("/proc/net") / kind, Path("/proc/net") / f"{kind}6"):
            for line in path.read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state in states:
                    found.add(int(local.rpartition(":")[2], 16))
    return sorted(found)


# -- that they do their work so ----------------------------------------------------------------


@pytest.mark.server
@pytest.mark.parametrize("media", ["backend", "local-files"])
def test_the_whole_compose_file_does_a_round(
    up: Callable[..., Compose], media: str, tmp_path: Path
) -> None:
    """From `pixbal init` by exec to the questions of round 2; the compose file's own environment.

    The label events are there as soon as the last answer is given: the webhook brought them.

    Seen failing with `pixbal init` run with another webhook secret (no event came), with the alias
    backend.pixbal.internal left out (Label Studio refuses the webhook), with PIXBAL_MEDIA not
    passed on, as it was (the backend's addresses), with /label-studio/files not given to pixbal in
    the Dockerfile, as it was (init cannot write pictures), without `--no-control-socket`, as it was
    (gunicorn logs ERROR: read-only file system), and with the command run by `sh -c` (the backend
    outlives SIGTERM: 137).
    """
    account = seed_label_studio(tmp_path / "volumes" / "label-studio-data")
    values = {**VALUES, **account, "PIXBAL_MEDIA": media}
    compose = up(values, {"label-studio": LABEL_STUDIO, "backend": PIXBAL, "worker": PIXBAL})
    compose.up("label-studio")
    backend, worker = compose.up("backend"), compose.up("worker")
    inside(backend, write_scenes)
    images, heldout = SCENES / "train" / "images", SCENES / "test"
    init = backend.exec(
        "pixbal", "init", "--images", str(images), "--heldout", str(heldout), "--classes", "camvid",
        "--budget", "4", *(word for setting in TINY for word in ("--set", setting)),
    )  # fmt: skip
    assert init.returncode == 0, init.stdout + init.stderr
    for url, start in inside(backend, pictures):
        served_by = {"backend": "http://localhost:9090/media/", "local-files": "/data/local-files/"}
        assert url.startswith(served_by[media])
        assert start == "ffd8"  # a JPEG
    answered, events = inside(backend, answer_all)
    assert answered > 0
    assert events == ["ANNOTATION_CREATED"] * answered
    after = inside(backend, wait_for_the_round)
    assert after["round"] == ["done", "p1-r1", ""]
    assert after["open"] > 0
    assert after["kept aside"] == 0
    doctor = backend.exec("pixbal", "doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert [container.stop() for container in (worker, backend)] == [0, 0]
    for container in (worker, backend):
        assert not re.search(r"ERROR|CRITICAL|Traceback", container.log), container.log


def seed_label_studio(folder: Path) -> dict[str, str]:
    """A migrated volume, which saves a minute; the lines of .env that fit its account."""
    try:
        template = label_studio_template(CACHE, find_label_studio(ROOT))
    except ProcessError as error:
        pytest.skip(f"{error.message} {error.hint}")
    shutil.copytree(template, folder)
    account = json.loads((folder / "account.json").read_text())
    for path in folder.rglob("*"):
        os.chown(path, LABEL_STUDIO.uid, LABEL_STUDIO.uid)
    return {
        "LABEL_STUDIO_USERNAME": account["user"],
        "LABEL_STUDIO_PASSWORD": account["password"],
        "LABEL_STUDIO_USER_TOKEN": account["token"],
    }


def write_scenes() -> None:
    from training.scenes import write_scene_set

    write_scene_set(SCENES, train=3, heldout=1, seed=0)


def pictures() -> list[tuple[str, str]]:
    """Address and first bytes of the pictures of every question, fetched from where they are."""
    settings = Settings.from_env(os.environ)
    found = []
    with Store.open(settings.database_url) as store:
        (project,) = store.projects()
    ls = LabelStudio(settings.label_studio_url, settings.label_studio_api_key)
    for task in ls.tasks(project.id, with_annotations=False):
        for kind in ("crop", "locator"):
            url = task["data"][kind]
            if url.startswith("/"):
                data = ls.fetch(url)
            else:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    data = answer.read()
            found.append((url, data[:2].hex()))
    ls.close()
    assert found
    return found


def answer_all() -> tuple[int, list[str]]:
    """Every open question is answered in Label Studio; how many, and the events that came by then.

    Nothing but a request to the backend's address for webhooks makes a row with such an action:
    reconciliation stores labels without any.
    """
    settings = Settings.from_env(os.environ)
    masks = {
        str(path): SCENES / "train" / "masks" / f"{path.stem}.png"
        for path in (SCENES / "train" / "images").iterdir()
    }
    with Store.open(settings.database_url) as store:
        (project,) = store.projects()
        server = (settings.label_studio_url, settings.label_studio_api_key)
        done = Annotator(*server, store, project.id, masks, void=255).annotate_all(100)
    database = sqlite3.connect(settings.home / "pixbal.db")
    rows = database.execute("SELECT action FROM pixbal_event ORDER BY id").fetchall()
    database.close()
    return done, [action for (action,) in rows]


def wait_for_the_round() -> dict[str, Any]:
    """What became of round 1 and what is asked after it."""
    settings = Settings.from_env(os.environ)
    deadline = time.monotonic() + 180
    with Store.open(settings.database_url) as store:
        (project,) = store.projects()
        row = None
        while time.monotonic() < deadline and (row is None or row.state not in ("done", "failed")):
            time.sleep(0.2)
            row = store.round(project.id, 1)
        return {
            "round": row and [row.state, row.version, row.error or ""],
            "open": len(store.queries(project.id, status="open")),
            "kept aside": len(store.failed_events(project.id)),
        }
