"""A proxy in the environment: nothing for this machine goes through it, and failures name it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_helpers import make_settings, make_store
from click.testing import CliRunner
from fake_label_studio import FakeLabelStudio
from http_stub import Reply, Stub, replies
from PIL import Image

from ml_backend.backoff import Backoff
from ml_backend.cli import main
from ml_backend.dashboard.surroundings import LabelStudioSign
from ml_backend.demo.annotator import Annotator
from ml_backend.demo.servers import backend_environment
from ml_backend.doctor import examine
from ml_backend.errors import BackendError
from ml_backend.label_studio import LabelStudio
from ml_backend.label_studio_errors import RESERVED_ADDRESS
from ml_backend.managed import answers
from ml_backend.processes import LabelStudioServer
from ml_backend.settings import Settings
from ml_backend.store import Store

USER = Reply(200, {"id": 1, "email": "a@example.com"})


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A proxy as a company's: it refuses what is not on its list. Every variable leads to it."""
    with Stub(replies(Reply(403, b"<html>blocked by policy</html>"))) as found:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, found.url)
            monkeypatch.delenv(name.upper(), raising=False)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield found


def client(url: str, key: str = "0" * 40) -> LabelStudio:
    return LabelStudio(url, key, backoff=Backoff(attempts=1))


def test_the_health_check_asks_the_backend_itself(proxy: Stub, tmp_path: Path) -> None:
    """Seen failing as it was: "the backend does not answer: HTTP Error 403"."""
    with Stub(replies(Reply(200, {"status": "UP"}))) as backend:
        environment = {"PIXBAL_HOME": str(tmp_path), "PIXBAL_PORT": str(backend.port)}
        result = CliRunner().invoke(main, ["healthcheck"], env=environment)
        assert result.exit_code == 0, result.output
        assert backend.requests[0].headers["Authorization"].startswith("Basic ")
    assert proxy.requests == []


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
def test_the_health_check_finds_the_backend_wherever_it_listens(host: str, tmp_path: Path) -> None:
    with Stub(replies(Reply(200, {"status": "UP"}), Reply(503))) as backend:
        environment = {
            "PIXBAL_HOME": str(tmp_path), "PIXBAL_PORT": str(backend.port), "PIXBAL_HOST": host
        }  # fmt: skip
        assert CliRunner().invoke(main, ["healthcheck"], env=environment).exit_code == 0
        assert CliRunner().invoke(main, ["healthcheck"], env=environment).exit_code == 1


def test_nothing_for_this_machine_goes_through_a_proxy(proxy: Stub, tmp_path: Path) -> None:
    """Of all who ask. Seen failing with trust_env left at its default in each of them."""
    with Stub(replies(USER)) as server, Store.open(f"sqlite:///{tmp_path}/p.db") as store:
        for name in ("127.0.0.1", "localhost"):
            ls = client(f"http://{name}:{server.port}")
            assert ls.whoami()["id"] == 1
            assert b"email" in ls.fetch("/data/upload/1/a.png")
        assert LabelStudioSign(server.url)().good
        assert answers(f"{server.url}/health")
        settings = make_settings(
            tmp_path, PIXBAL_BACKEND_URL=server.url, PIXBAL_PUBLIC_URL=server.url
        )
        checks = {c.name: c for c in examine(settings, store, client(server.url), workers=())}
        assert checks["backend"].ok is True
        annotator = Annotator(server.url, "t", store, 4, {}, 255)
        with pytest.raises(KeyError):  # the stub's answer is no task, but it was asked
            annotator.annotate_all(1)
        assert server.requests[-1].path == "/api/projects/4/next"
    assert proxy.requests == []


def test_label_studio_of_the_demonstration_calls_us_without_a_proxy(
    proxy: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends webhooks and asks for predictions. Seen failing with the environment handed on."""
    monkeypatch.setenv("no_proxy", "intranet")
    server = LabelStudioServer(tmp_path / "ls", executable=Path("label-studio"))
    for environment in (server.env, backend_environment(tmp_path, server, 9)):
        for name in ("no_proxy", "NO_PROXY"):
            assert {"127.0.0.1", "localhost", "intranet"} <= set(environment[name].split(","))


def refused(ls: LabelStudio) -> BackendError:
    with pytest.raises(BackendError) as caught:
        ls.whoami()
    return caught.value


def test_a_failure_behind_a_proxy_names_it_and_the_advice_works(
    proxy: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen failing as it was: "an administrator's token", for a page that a proxy had written."""
    elsewhere = "http://labels.example.com"
    error = refused(client(elsewhere))
    assert len(proxy.requests) == 1
    assert "http_proxy is set" in error.hint
    assert proxy.url not in str(error)  # it may hold a password
    advised = re.search(r"put (\S+) into NO_PROXY", error.hint)
    assert advised is not None
    monkeypatch.setenv("NO_PROXY", advised[1])
    assert "PROXY" not in refused(client(elsewhere)).hint.replace("NO_PROXY", "")
    assert len(proxy.requests) == 1


def test_what_label_studio_says_itself_is_no_fault_of_the_proxy(proxy: Stub) -> None:
    here = Reply(403, {"detail": "You do not have permission"})
    with Stub(replies(here)) as server:
        assert "proxy" not in refused(client(server.url)).hint
    assert "proxy" not in refused(client("http://127.0.0.1:9")).hint


def test_a_dead_proxy_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("http_proxy", raising=False)
    error = refused(client("http://labels.example.com"))
    assert "No answer from Label Studio" in error.message
    assert "HTTP_PROXY is set" in error.hint
    with pytest.raises(BackendError, match="HTTP_PROXY is set"):
        client("http://labels.example.com").fetch("/data/upload/1/a.png")


# A token that was forgotten


def test_a_forgotten_token_is_called_missing(tmp_path: Path) -> None:
    """Seen failing as it was: "Illegal header value b'Token '"."""
    settings = Settings.from_env({"PIXBAL_HOME": str(tmp_path)})
    error = refused(LabelStudio.of(settings))
    assert error.message.startswith("LABEL_STUDIO_API_KEY is not set")
    assert "http://127.0.0.1:8080/user/account" in error.hint
    environment = {"PIXBAL_HOME": str(tmp_path), "LABEL_STUDIO_API_KEY": ""}
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    command = ["init", "--images", str(tmp_path / "a.png"), "--classes", "camvid"]
    result = CliRunner().invoke(main, command, env=environment)
    assert result.exit_code == 1
    assert "LABEL_STUDIO_API_KEY is not set" in result.output
    assert "Illegal header" not in result.output
    with make_store(tmp_path) as store:
        checks = {c.name: c for c in examine(settings, store, LabelStudio.of(settings), workers=())}
    assert checks["token"].ok is False
    assert "LABEL_STUDIO_API_KEY is not set" in checks["token"].detail


def test_a_backend_that_label_studio_cannot_reach_may_be_behind_its_proxy(proxy: Stub) -> None:
    """`init` says so where the refusal does not already say another reason."""
    for detail, hinted in (("Can't connect to ML backend", True), (RESERVED_ADDRESS, False)):
        ls = FakeLabelStudio()
        ls.server.add_project(4, "<View/>")
        ls.server.fail("create_ml_backend", 400, body={"detail": detail})
        with pytest.raises(BackendError) as caught:
            ls.ensure_ml_backend(4, "http://pixbal.internal:9090", "PixBal", "u", "p")
        assert ("pixbal.internal in its NO_PROXY" in caught.value.hint) is hinted
