"""Settings, pause, archive and forget on the admin's page."""

from __future__ import annotations

import html as markup
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_helpers import make_project
from dashboard_helpers import admin_client, admin_settings, busy_store, form_token, log_in
from fake_label_studio import FakeLabelStudio, FakeServer
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from ml_backend.liveness import Watch, WorkerSign
from ml_backend.project_settings import SETTINGS
from ml_backend.settings import Settings
from ml_backend.store import Project, Store
from training.config import CONFIGS

HERE = "/dashboard/projects/4"
EVIL = "\"'><img src=x onerror=alert(1)>{{7*7}}"


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return admin_settings(tmp_path / "home")


@pytest.fixture
def store(config: Settings) -> Iterator[Store]:
    """Project 4 with a life behind it, whose last round has ended."""
    with busy_store(config.home) as opened:
        opened.update_round(4, 6, state="done")
        opened.update_project(4, train_config=CONFIGS["cpu"].to_json())
        yield opened


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer()
    server.add_project(4, make_project().label_config, title="Street scenes")
    monkeypatch.setattr("ml_backend.dashboard.manage.label_studio", lambda: FakeLabelStudio(server))
    return server


@pytest.fixture
def client(config: Settings, store: Store, server: FakeServer) -> FlaskClient:
    client = admin_client(config, store)
    assert log_in(client).status_code == 303
    return client


def page(client: FlaskClient, path: str = HERE) -> str:
    return client.get(path, headers={"Accept": "text/html"}).get_data(as_text=True)


def send(client: FlaskClient, path: str, **fields: str) -> TestResponse:
    """What a browser sends: every field of the form as it was, but for those that are given."""
    shown = page(client, f"{HERE}/settings")
    form = {
        name: markup.unescape(value)
        for name, value in re.findall(r'<input[^>]* name="([^"]+)"[^>]*? value="([^"]*)"', shown)
    }
    for name, body in re.findall(r'<select[^>]* name="([^"]+)".*?>(.*?)</select>', shown, re.S):
        chosen = re.search(r"<option selected>([^<]*)", body)
        form[name] = chosen[1] if chosen else ""
    form |= {"set": ""} | fields
    return client.post(f"{HERE}/{path}", data=form, headers={"Accept": "text/html"})


def row(store: Store) -> Project:
    found = store.project(4)
    assert found is not None
    return found


# Settings


def test_the_form_shows_every_setting_and_what_is_fixed(client: FlaskClient) -> None:
    shown = page(client, f"{HERE}/settings")
    for setting in SETTINGS.values():
        assert f'<label for="{setting.name}">{setting.label}</label>' in shown
        assert markup.escape(setting.when) in shown
    for text in ("Classes", "Superpixels", "Seed", "What never changes", "Sky, Building"):
        assert text in shown
    # Each field has a label and a description that are there.
    for name in re.findall(r'<(?:input|select|textarea) id="([^"]+)"', shown):
        assert f'<label for="{name}">' in shown
    for ids in re.findall(r'aria-describedby="([^"]+)"', shown):
        assert all(f'id="{i}"' in shown for i in ids.split())


def test_a_form_that_is_sent_as_it_is_changes_nothing(client: FlaskClient, store: Store) -> None:
    before = row(store)
    for _ in range(2):
        assert send(client, "settings").status_code == 303
    assert row(store) == before
    assert "nothing differs" in page(client, f"{HERE}/settings")


def test_every_setting_is_changed_by_the_form(
    client: FlaskClient, store: Store, server: FakeServer
) -> None:
    sent = {
        "title": "Roads of Lund", "budget": "250", "train-every": "40", "per-image": "0",
        "preticks": "never", "smallest-share": "0.25", "config": "demo",
        "set": "stage1.lr=1e-5\r\nstage2.lr=2e-5\r\n",
    }  # fmt: skip
    assert set(SETTINGS) <= set(sent)
    assert send(client, "settings", **sent).status_code == 303
    found = row(store)
    assert (found.title, found.budget_clicks, found.train_every) == ("Roads of Lund", 250.0, 40)
    assert (found.per_image, found.preticks, found.smallest_share) == (0, "never", 0.25)
    assert found.train_config["model"]["head_channels"] == 128
    assert [found.train_config[f"stage{n}"]["lr"] for n in (1, 2)] == [1e-5, 2e-5]
    assert server.projects[4].fields["title"] == "Roads of Lund"
    shown = page(client, f"{HERE}/settings")
    assert "budget: 100 -&gt; 250" in shown
    assert "warning: from now on annotators" in shown


def test_wrong_values_are_shown_beside_their_fields(client: FlaskClient, store: Store) -> None:
    before = row(store)
    answer = send(client, "settings", budget="0", preticks="never", title=EVIL, set="stage1.lr=x")
    assert answer.status_code == 400
    assert row(store) == before, "a right value was written beside wrong ones"
    shown = answer.get_data(as_text=True)
    assert "Nothing was changed: 2 values cannot be taken" in shown or "3 values" in shown
    assert 'role="alert"' in shown
    for name in ("budget", "set"):
        field = re.search(rf'<(?:input|textarea) id="{name}"[^>]*>', shown)
        assert field is not None
        assert 'aria-invalid="true"' in field[0]
        assert f"{name}-fault" in field[0]
        assert f'id="{name}-fault"' in shown
    # What was typed is still there, as text.
    assert 'value="0"' in shown
    assert "stage1.lr=x</textarea>" in shown
    assert "<img src=x" not in shown
    assert "<option selected>never</option>" in shown


def test_a_stale_page_undoes_nothing(client: FlaskClient, store: Store) -> None:
    """Somebody else changed the budget by command meanwhile."""
    shown = page(client, f"{HERE}/settings")
    token = form_token(shown)
    store.update_project(4, budget_clicks=77.0)
    old = {"csrf_token": token, "budget": "100", "was-budget": "100",
           "train-every": "9", "was-train-every": "batch"}  # fmt: skip
    assert client.post(f"{HERE}/settings", data=old).status_code == 303
    assert (row(store).budget_clicks, row(store).train_every) == (77.0, 9)


def test_no_file_of_this_machine_is_read(client: FlaskClient, store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"not": "for you"}')
    answer = send(client, "settings", config=str(tmp_path / "secret.json"))
    assert answer.status_code == 400
    assert b"not for you" not in answer.data
    assert "expected one of cpu" in answer.get_data(as_text=True)


def test_a_model_that_cannot_be_had_is_found_by_the_form(client: FlaskClient) -> None:
    answer = send(client, "settings", set="model.encoder=resnet9000")
    assert answer.status_code == 400
    assert "no model named" in answer.get_data(as_text=True)


def test_label_studio_gone_is_said_and_nothing_is_written(
    client: FlaskClient, store: Store, server: FakeServer
) -> None:
    server.go_away()
    before = row(store)
    answer = send(client, "settings", budget="3", title="Roads of Lund")
    assert answer.status_code == 502
    assert "No answer from Label Studio" in answer.get_data(as_text=True)
    assert row(store) == before
    assert send(client, "settings", budget="3").status_code == 303
    assert row(store).budget_clicks == 3.0


# Pause, archive


def test_pause_resume_archive_by_their_buttons(client: FlaskClient, store: Store) -> None:
    def buttons() -> set[str]:
        return set(re.findall(rf'action="{HERE}/(pause|resume|archive)"', page(client)))

    assert buttons() == {"pause", "archive"}
    for action, state, next_ones in (
        ("pause", "paused", {"resume", "archive"}), ("pause", "paused", {"resume", "archive"}),
        ("archive", "archived", {"resume"}), ("pause", "archived", {"resume"}),
        ("resume", "active", {"pause", "archive"}), ("resume", "active", {"pause", "archive"}),
    ):  # fmt: skip
        answer = send(client, action)
        assert answer.headers["Location"] == HERE
        assert row(store).state == state
        assert buttons() == next_ones
        if state != "active":
            assert f"The project is {state}" in page(client)


def test_an_archived_project_is_behind_its_link(client: FlaskClient, store: Store) -> None:
    assert "Archived projects" not in page(client, "/dashboard/")
    send(client, "archive")
    overview = page(client, "/dashboard/")
    assert "Street scenes" not in overview.partition("<main>")[2].partition("Every project")[2]
    assert 'href="/dashboard/archived"' in overview
    assert "Archived projects (1)" in overview
    assert "Street scenes" in page(client, "/dashboard/archived")
    send(client, "resume")
    assert "No project is archived" in page(client, "/dashboard/archived")


@pytest.mark.parametrize("button", ["train", "questions"])
def test_buttons_of_a_paused_project_ask_for_nothing(
    client: FlaskClient, store: Store, button: str
) -> None:
    """Left for later, the request would start a training when the project is resumed."""
    send(client, "archive")
    send(client, button)
    assert store.count_events() == 0
    assert "is archived, so nothing was asked for: resume it first" in page(client)


def test_trouble_is_shown_with_what_to_do(client: FlaskClient, store: Store) -> None:
    at = make_project().created_at
    store.update_project(4, trouble=f"Label Studio answered 404 to it {EVIL}", trouble_at=at)
    for path in ("/dashboard/", HERE):
        shown = page(client, path)
        assert "answered 404" in shown
        assert "<img src=x" not in shown
    assert "Trouble" in shown
    assert "since 2026-11-22 15:00 UTC" in shown
    assert "pixbal project forget --project 4" in shown


def test_an_import_has_no_buttons_that_would_end_it(client: FlaskClient, store: Store) -> None:
    store.update_project(4, state="importing")
    assert not re.findall(rf'action="{HERE}/(pause|resume|archive)"', page(client))
    send(client, "resume")
    assert row(store).state == "importing"
    assert "import of its images has not ended" in page(client)


# Forget


def test_it_says_what_goes_and_wants_the_title(
    client: FlaskClient, store: Store, config: Settings, server: FakeServer
) -> None:
    shown = page(client, f"{HERE}/forget")
    for text in ("Deleted, for good", "Kept", "60 images", "pixbal backup", "Street scenes"):
        assert text in shown
    for title in ("", "street scenes", "Street", EVIL):
        answer = send(client, "forget", title=title)
        assert answer.status_code == 400
        assert "is not the title of project 4" in answer.get_data(as_text=True)
        assert b"<img src=x" not in answer.data
    assert store.project(4) is not None
    server.add_webhook(4, {"url": f"{config.backend_url}/webhook", "headers": {}, "actions": []})
    answer = send(client, "forget", title="Street scenes")
    assert answer.headers["Location"] == "/dashboard/"
    assert store.project(4) is None
    assert server.projects[4].webhooks == {}
    assert not (config.home / "versions" / "p4").exists()
    assert "Project 4 (Street scenes) is forgotten" in page(client, "/dashboard/")
    assert client.get(HERE).status_code == 404


def test_a_round_that_runs_is_not_forgotten(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.update_round(4, 6, state="stage1")
    lives = WorkerSign("w", "w@here", True, 0.0)
    monkeypatch.setattr(Watch, "look", lambda *_: [lives])
    answer = send(client, "forget", title="Street scenes")
    assert answer.status_code == 409
    assert "round 6 of project 4 is running" in answer.get_data(as_text=True)
    assert row(store).state == "active"


@pytest.mark.parametrize("path", ["settings", "pause", "resume", "archive", "forget"])
def test_forms_need_their_token_and_a_session(client: FlaskClient, store: Store, path: str) -> None:
    before = row(store)
    sent = {"budget": "3", "was-budget": "1", "title": "Street scenes"}
    assert client.post(f"{HERE}/{path}", data=sent).status_code == 400
    stranger = client.application.test_client()
    assert stranger.post(f"{HERE}/{path}", data=sent).status_code == 401
    assert row(store) == before


def test_by_eye(
    client: FlaskClient, store: Store, config: Settings, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Chromium computes names, sizes and focus; PIXBAL_SHOTS=folder keeps the pictures."""
    import os
    import threading

    from playwright.sync_api import sync_playwright
    from test_browser import CHROMIUM_FLAGS
    from werkzeug.serving import make_server

    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("Chromium is not installed (`make browser` installs Debian's)")
    store.update_project(4, trouble="Label Studio answered 404 to project 4: Not found.",
                         trouble_at=make_project().created_at)  # fmt: skip
    served = make_server("127.0.0.1", 0, client.application, threaded=True)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{served.server_port}"
    folder = os.environ.get("PIXBAL_SHOTS")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=executable, args=list(CHROMIUM_FLAGS)
            )
            for width in (390, 1100):
                tab = browser.new_page(viewport={"width": width, "height": 844})
                said: list[str] = []
                tab.on("console", lambda message, said=said: said.append(message.text))
                tab.goto(f"{base}/dashboard/login")
                tab.get_by_label("User").fill("admin")
                tab.get_by_label("Password").fill(config.admin_password)
                tab.get_by_role("button", name="Log in").click()
                tab.goto(f"{base}{HERE}/settings")
                tab.get_by_label("Clicks of a batch").fill("0")
                tab.keyboard.press("Enter")
                tab.wait_for_selector("[role=alert]")
                assert tab.get_by_label("Clicks of a batch").get_attribute("aria-invalid") == "true"
                for name in ("settings", "forget", ""):
                    if name != "settings":
                        tab.goto(f"{base}{HERE}/{name}".rstrip("/"))
                    wide = tab.evaluate("document.documentElement.scrollWidth")
                    assert wide <= width, f"{name} at {width} px scrolls sideways: {wide}"
                    if folder:
                        tab.screenshot(path=f"{folder}/{name or 'project'}-{width}.png",
                                       full_page=True)  # fmt: skip
                assert [text for text in said if "400" not in text] == []
            browser.close()
    finally:
        served.shutdown()
        thread.join()
