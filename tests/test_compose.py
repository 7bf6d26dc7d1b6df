"""docker-compose.yml: valid, narrow, without secrets; its very processes work on loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_backend.cli import main
from ml_backend.init import InitRequest, initialise
from ml_backend.label_studio import LabelStudio
from ml_backend.processes import LabelStudioServer, ManagedProcess, free_port
from ml_backend.settings import SETTINGS, Settings
from ml_backend.store import Store
from training.scenes import write_scene_set

ROOT = Path(__file__).resolve().parents[1]
VALUES = {
    "COMPOSE_PROFILES": "cpu",
    "LABEL_STUDIO_USERNAME": "admin@example.com",
    "LABEL_STUDIO_PASSWORD": "password-of-the-test",
    "LABEL_STUDIO_USER_TOKEN": "0" * 40,
    "PIXBAL_WEBHOOK_SECRET": "webhook-secret-of-the-test",
    "PIXBAL_BASIC_PASSWORD": "basic-password-of-the-test",
    "PIXBAL_MEDIA_KEY": "media-key-of-the-test",
}


def compose_command() -> list[str]:
    """`docker compose` or the older `docker-compose`; both can check a file without an engine."""
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip(
        "neither `docker compose` nor `docker-compose` is installed (Debian: docker-compose)"
    )


def composed(values: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    env_file = tmp_path / "env"
    env_file.write_text("".join(f"{k}={v}\n" for k, v in values.items()), encoding="utf-8")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIXBAL_", "LABEL_STUDIO_"))}
    return subprocess.run(
        [
            *compose_command(),
            "--env-file",
            str(env_file),
            "-f",
            str(ROOT / "docker-compose.yml"),
            "config",
        ],
        capture_output=True,
        text=True,
        env=clean,
        cwd=tmp_path,
        check=False,
    )


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def test_config_passes(tmp_path: Path) -> None:
    result = composed(VALUES, tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("missing", [k for k in VALUES if k != "COMPOSE_PROFILES"])
def test_a_missing_secret_is_named(missing: str, tmp_path: Path) -> None:
    result = composed({k: v for k, v in VALUES.items() if k != missing}, tmp_path)
    assert result.returncode != 0
    assert missing in result.stderr


def test_example_names_every_variable() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / "compose.env.example").read_text()
    used = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert used - {"PIXBAL_BASIC_USER"} <= set(re.findall(r"([A-Z_]+)=", example))


def test_only_known_settings_and_the_narrow_private_address_opening() -> None:
    known = {s.name for s in SETTINGS}
    for name in ("backend", "worker", "worker-gpu"):
        assert set(services()[name]["environment"]) <= known
    environment = services()["label-studio"]["environment"]
    assert environment["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert environment["USER_ADDITIONAL_BANNED_SUBNETS"] == "169.254.0.0/16"
    assert "SSRF_PROTECTION_ENABLED" not in environment
    assert services()["label-studio"]["image"].startswith("heartexlabs/label-studio:1.23")


def test_links_for_people_do_not_point_into_the_compose_network() -> None:
    """Seen failing as it was: "open in Label Studio" led to http://label-studio:8080."""
    label_studio = services()["label-studio"]["environment"]
    for name in ("backend", "worker", "worker-gpu"):
        environment = services()[name]["environment"]
        # The very address that Label Studio writes into task data.
        assert environment["LABEL_STUDIO_PUBLIC_URL"] == label_studio["LABEL_STUDIO_HOST"]
        assert environment["LABEL_STUDIO_PUBLIC_URL"].endswith(":-http://localhost:8080}")


def test_the_gpu_profile_builds_a_gpu_image() -> None:
    """Seen failing as it was: one image for both, with PyTorch from the index of CPU builds."""
    found, dockerfile = services(), (ROOT / "Dockerfile").read_text()
    default = re.search(r"^ARG TORCH_INDEX=(\S+)$", dockerfile, re.MULTILINE)
    assert default is not None
    assert default[1].endswith("/whl/cpu")
    assert '--index-url "$TORCH_INDEX" "torch' in dockerfile
    build = found["worker-gpu"]["build"]
    assert build["context"] == "."
    assert re.search(r"/whl/cu\d+\}?$", build["args"]["TORCH_INDEX"])
    # Else one build would overwrite the other's image.
    assert found["worker-gpu"]["image"] != found["worker"]["image"]
    assert found["worker"]["image"] == found["backend"]["image"]
    assert found["worker"]["build"] == "."


def test_commands_exist() -> None:
    for name in ("backend", "worker", "worker-gpu"):
        program, command, *_ = services()[name]["command"]
        assert program == "pixbal"
        assert command in main.commands


@pytest.mark.guarantee(23)
def test_containers_are_narrow(tmp_path: Path) -> None:
    """Of the composed file, every profile: read-only, without root, rights or ports but one.

    That containers confined so do their work is shown in test_containers.py; that the image builds
    is not, for no engine is at hand in the tests. Seen failing with `read_only` left out, with
    `user: root`, and with a port at the worker.
    """
    result = composed({**VALUES, "COMPOSE_PROFILES": "cpu,gpu"}, tmp_path)
    assert result.returncode == 0, result.stderr
    found = yaml.safe_load(result.stdout)["services"]
    assert {"label-studio", "backend", "worker", "worker-gpu"} == set(found)
    for name, service in found.items():
        assert service["healthcheck"]["test"], name
        assert not service.get("privileged"), name
        assert service.get("network_mode") in (None, "default"), name
        assert all(_is_named_volume(volume) for volume in service["volumes"]), name
        if name != "label-studio":
            assert service["read_only"] is True, name
            assert "user" not in service, name  # the image's own, see below
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
    ports = {name: _ports(service) for name, service in found.items() if service.get("ports")}
    assert ports == {
        "backend": [("127.0.0.1", "9090", 9090)],
        "label-studio": [("127.0.0.1", "8080", 8080)],
    }


def _ports(service: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Address, published and inner port; the two generations of compose print them differently."""
    found = []
    for port in service["ports"]:
        if isinstance(port, str):
            address, published, inner = port.removesuffix("/tcp").split(":")
            found.append((address, published, int(inner)))
        else:
            found.append((port.get("host_ip", ""), str(port["published"]), int(port["target"])))
    return found


def _is_named_volume(volume: str | dict[str, Any]) -> bool:
    """No folder of the host, such as the engine's socket, comes in."""
    if isinstance(volume, str):
        return not volume.startswith(("/", ".", "~"))
    return volume["type"] == "volume"


@pytest.mark.guarantee(23)
def test_image_runs_as_an_ordinary_user_and_opens_one_port() -> None:
    """Seen failing with the last USER line left out, and with a secret as ARG."""
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines() if line]
    users = [words[1] for words in lines if words[0] == "USER"]
    text = (ROOT / "Dockerfile").read_text()
    uid = re.search(rf"useradd .*--uid (\d+) {users[-1]}\b", text)
    assert uid is not None
    assert int(uid[1]) >= 1000
    assert [words[1:] for words in lines if words[0] == "EXPOSE"] == [["9090"]]
    after = lines[[words[:2] for words in lines].index(["USER", users[-1]]) :]
    assert {words[0] for words in after} <= {"USER", "ENV", "VOLUME", "EXPOSE", "CMD", "#"}
    assert not [w for w in lines if w[0] in ("ARG", "ENV") and re.search("SECRET|PASS|KEY", str(w))]
    assert not [words for words in lines if words[0] == "ADD"]


@pytest.mark.guarantee(23)
@pytest.mark.server
@pytest.mark.slow
def test_the_very_processes_work_on_loopback(
    label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    """Backend and worker started by the compose file's commands and environment."""
    result = composed(VALUES, tmp_path)
    assert result.returncode == 0, result.stderr
    resolved = yaml.safe_load(result.stdout)["services"]
    port = free_port()
    # What compose's network does, on loopback: names become addresses, the volume a folder.
    loopback = {
        "PIXBAL_HOME": str(tmp_path / "data"),
        "PIXBAL_HOST": "127.0.0.1",
        "PIXBAL_PORT": str(port),
        "PIXBAL_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "PIXBAL_BACKEND_URL": f"http://127.0.0.1:{port}",
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
    }
    base = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    program = str(Path(sys.executable).parent / "pixbal")
    (tmp_path / "data").mkdir()
    started = []
    try:
        for name in ("backend", "worker"):
            environment = {**base, **resolved[name]["environment"], **loopback}
            command = [program, *resolved[name]["command"][1:]]
            process = ManagedProcess(command, env=environment, log=tmp_path / f"{name}.log")
            process.launch()
            started.append(process)
            check = [program, *services()[name]["healthcheck"]["test"][2:]]
            _wait_healthy(check, environment, process)
        _round_trip(environment, tmp_path)
    finally:
        for process in started:
            process.stop()


def _wait_healthy(check: list[str], environment: dict[str, str], process: ManagedProcess) -> None:
    for _ in range(60):
        assert process.running, process.log_tail()
        if subprocess.run(check, env=environment, capture_output=True, check=False).returncode == 0:
            return
    raise AssertionError(process.log_tail())


def _round_trip(environment: dict[str, str], tmp_path: Path) -> None:
    """`pixbal init` from beside them: Label Studio reaches the backend, questions appear."""
    settings = Settings.from_env(environment)
    scenes = tmp_path / "scenes"
    write_scene_set(scenes, train=2, heldout=0, seed=0)
    store = Store.open(settings.database_url)
    ls = LabelStudio(settings.label_studio_url, settings.label_studio_api_key)
    report = initialise(
        settings,
        store,
        ls,
        InitRequest(
            classes="camvid", images=(str(scenes / "train" / "images"),), title="compose", budget=4
        ),
    )
    assert report.open_questions > 0
    ls.close()
    store.close()
