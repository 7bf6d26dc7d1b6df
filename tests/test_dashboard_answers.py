"""The page's buttons about answers: another version in use, flagged answers asked again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_helpers import admin_client, admin_settings, form_token, log_in
from flask.testing import FlaskClient
from round_site import PROJECT, Site, round_site
from test_version_use import GOOD, WORSE

PAGE = f"/dashboard/projects/{PROJECT}"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with round_site(tmp_path, monkeypatch, budget_clicks=12.0, per_image=0) as made:
        made.heldout = {"p4-r1": GOOD, "p4-r2": WORSE}
        made.round("Grass")
        yield made


@pytest.fixture
def client(site: Site) -> FlaskClient:
    found = admin_client(admin_settings(site.runtime.settings.home), site.store)
    log_in(found)
    return found


def press(client: FlaskClient, path: str) -> str:
    """Press a button; the page that follows."""
    page = client.get(PAGE).get_data(as_text=True)
    answer = client.post(
        f"{PAGE}/{path}", data={"csrf_token": form_token(page)}, follow_redirects=True
    )
    return " ".join(answer.get_data(as_text=True).split())


def test_the_button_rolls_back_and_the_page_warns_until_then(
    site: Site, client: FlaskClient
) -> None:
    site.round("Grass")
    page = client.get(PAGE).get_data(as_text=True)
    assert 'role="alert">p4-r2 is worse than p4-r1' in page
    assert "pixbal version activate p4-r1 --project 4" in page
    assert "Use p4-r1" in page
    assert "Use p4-r2" not in page
    said = press(client, "versions/p4-r1/activate")
    assert "p4-r1 is in use. Open questions get its scores" in said
    assert 'role="alert"' not in said
    assert "Use p4-r2" in said
    assert "p4-r1 is in use already." in press(client, "versions/p4-r1/activate")
    site.look()
    assert site.project.model_version == "p4-r1"
    assert "no version" in press(client, "versions/r77/activate")
    row = site.store.version(PROJECT, "p4-r2")
    assert row is not None
    (Path(row.path) / "model.safetensors").write_bytes(b"?")
    said = press(client, "versions/p4-r2/activate")
    assert "has changed. Nothing was changed. Restore it from a backup" in said
    assert site.project.current_version == "p4-r1"


def test_flagged_answers_are_listed_and_asked_again(site: Site, client: FlaskClient) -> None:
    assert "Ask these again" not in client.get(PAGE).get_data(as_text=True)
    assert "No answer is flagged." in press(client, "ask-again")
    *slow, hasty = site.open()
    for query in slow:
        site.answer(query, "Grass", seconds=12.0)
    assert hasty.task_id is not None
    site.server.annotate(hasty.task_id, [], lead_time=1.2)
    site.store.update_project(PROJECT, state="paused")
    site.look()
    page = client.get(PAGE).get_data(as_text=True)
    assert "1 answer saved at once" in page
    assert f"Task {hasty.task_id}, annotator 1: saved as shown after 1.2 s" in page
    assert "1 question to be asked again." in press(client, "ask-again")
    assert "No answer is flagged." in press(client, "ask-again"), "pressed twice"
    found = site.store.query_by_region(PROJECT, hasty.image_id, hasty.region_index)
    assert found is not None
    assert (found.asking, found.status) == (2, "planned")


def test_the_page_says_what_ticks_do(site: Site, client: FlaskClient) -> None:
    page = client.get(PAGE).get_data(as_text=True)
    assert "Ticks in advance are not shown: 0 of the 20 answers" in page
    site.round("Grass")
    site.round("Grass")
    page = client.get(PAGE).get_data(as_text=True)
    assert "Ticks in advance are shown: they save keys; on 26 questions" in page


@pytest.mark.parametrize("path", ["versions/p4-r1/activate", "ask-again"])
def test_a_stranger_or_a_form_without_token_changes_nothing(
    site: Site, client: FlaskClient, path: str
) -> None:
    assert client.post(f"{PAGE}/{path}").status_code == 400
    stranger = admin_client(admin_settings(site.runtime.settings.home), site.store)
    assert stranger.post(f"{PAGE}/{path}").status_code in (303, 401)
    assert site.project.current_version == "p4-r1"
