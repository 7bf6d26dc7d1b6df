"""A real browser: "Label All Tasks", five regions by keyboard alone, and the ticks are labels."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright
from stack import Stack

from label_config import ClassSchema
from ml_backend.instructions import project_instructions
from ml_backend.processes import LabelStudioServer
from training.images import read_mask
from training.oracle import region_targets
from training.regions import RegionId, RegionMap
from training.scenes import write_scene_set

pytestmark = [pytest.mark.server, pytest.mark.slow]

# As root Chromium needs --no-sandbox; the others keep it from looking for hosts outside.
CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture
def page() -> Iterator[Page]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("Chromium is not installed (`make browser` installs Debian's)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(CHROMIUM_FLAGS))
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        yield page
        browser.close()


@pytest.fixture
def stack(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[Stack]:
    # No comparison with Label Studio comes in between: what arrives, a webhook brought.
    made = Stack(tmp_path / "stack", label_studio, extra={"PIXBAL_RECONCILE_S": "3600"})
    made.backend.start()
    made.worker.start()
    yield made
    made.stop()


def open_label_stream(page: Page, stack: Stack, project_id: int) -> Any:
    """Log in, open the project, press "Label All Tasks"; returns the first task handed out."""
    server = stack.label_studio
    page.goto(f"{server.url}/user/login/")
    page.fill("input[name=email]", server.user)
    page.fill("input[name=password]", server.password)
    page.press("input[name=password]", "Enter")
    page.wait_for_url(lambda url: "/user/login" not in url)
    page.goto(f"{server.url}/projects/{project_id}/data")
    with page.expect_response(lambda r: "id=next_task" in r.url) as answer:
        page.get_by_role("button", name="Label All Tasks").click()
    return answer.value.json()


def close_instructions(page: Page) -> None:
    """They are shown at the start; Esc closes them."""
    heading = page.get_by_role("heading", name="What is asked")
    heading.first.wait_for(state="visible", timeout=60_000)
    page.keyboard.press("Escape")
    heading.first.wait_for(state="hidden", timeout=60_000)


def take_picture(page: Page, what: str = "") -> None:
    """Keep a picture of the screen where PIXBAL_SCREENSHOT=file.png asks for it."""
    if os.environ.get("PIXBAL_SCREENSHOT"):
        file = Path(os.environ["PIXBAL_SCREENSHOT"])
        page.screenshot(path=file.with_stem(file.stem + what))


def ticked(page: Page) -> set[str]:
    """Texts of the ticked choices, without their keys."""
    found: list[str] = page.evaluate(
        "() => [...document.querySelectorAll('.lsf-choice')]"
        ".filter(c => c.querySelector('input:checked')).map(c => c.innerText)"
    )
    return {text.split("[")[0].strip() for text in found}


def wait_until_shown(page: Page) -> None:
    """The ticks are there and both pictures have arrived through the browser."""
    page.wait_for_selector(".lsf-choice__checkbox, .lsf-choice__item", timeout=60_000)
    page.wait_for_function(
        "() => [...document.querySelectorAll('img')].filter("
        "i => i.complete && i.naturalWidth > 200).length >= 2",
        timeout=60_000,
    )


def test_five_regions_by_keyboard(stack: Stack, page: Page, tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    write_scene_set(scenes, train=3, heldout=0, seed=4)
    report = stack.init(scenes / "train" / "images", None, "keyboard", budget=12)
    project_id = report.project.id
    schema = ClassSchema.from_json(report.project.schema_json)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    task = open_label_stream(page, stack, project_id)
    close_instructions(page)
    expected: dict[int, set[str]] = {}
    for number in range(5):
        wait_until_shown(page)
        names = oracle_names(stack, project_id, task["data"]["region"], scenes, schema)
        keys = [schema.classes[schema.index(name)].hotkey for name in names] or ["0"]
        for key in keys:
            assert key is not None
            page.keyboard.press(key)
        if number == 0:
            take_picture(page)
        expected[task["id"]] = set(names)
        with page.expect_response(lambda r: "id=next_task" in r.url) as answer:
            page.keyboard.press("Control+Enter")
        task = answer.value.json()

    def labels() -> dict[int, set[str]]:
        found = stack.store.labels(project_id)
        return {label.task_id: set(label.classes) for label in found if label.task_id}

    stack.wait_for("five labels", lambda: len(labels()) == 5, timeout_s=30)
    assert labels() == expected
    # They came by webhook, not by a later comparison with Label Studio.
    text = stack.worker.log.read_text()
    assert "found by reconciliation" not in text
    assert not failures


def test_forty_classes_by_keyboard(stack: Stack, page: Page, tmp_path: Path) -> None:
    """A class without a key: Shift+F, a part of its name, Enter, Tab. Then as with any other."""
    scenes = tmp_path / "scenes"
    write_scene_set(scenes, train=3, heldout=0, seed=4)
    listing = tmp_path / "classes.json"
    listing.write_text(json.dumps([f"thing {i}" for i in range(40)]))
    report = stack.init(scenes / "train" / "images", None, "forty", budget=6, classes=str(listing))
    project_id = report.project.id
    # Label Studio keeps the text as it was written, so that a second `init` changes nothing.
    field = stack.ls.project(project_id)["expert_instruction"]
    assert field == project_instructions(stack.settings, stack.store, report.project)
    assert dict(report.connected)["instructions"] == "created"
    task = open_label_stream(page, stack, project_id)
    pictures = page.locator("td img")
    pictures.first.wait_for(timeout=60_000)
    page.wait_for_function(
        "() => [...document.querySelectorAll('td img')].filter(i => i.naturalWidth > 200)"
        ".length >= 3",
        timeout=60_000,
    )
    take_picture(page, "_instructions")
    close_instructions(page)
    wait_until_shown(page)
    page.keyboard.press("a")
    page.keyboard.press("Shift+F")
    page.keyboard.type("ing 39")
    page.wait_for_function("() => document.querySelectorAll('.lsf-choice_hidden').length === 41")
    page.keyboard.press("Enter")
    wait_for_ticks(page, {"thing 0", "thing 39"})
    # Ctrl+Enter in the field does not submit, and what it ticks is no class.
    page.keyboard.press("Control+Enter")
    wait_for_ticks(page, {"thing 0", "thing 39", "Can't tell"})
    page.keyboard.press("Control+Enter")
    wait_for_ticks(page, {"thing 0", "thing 39"})
    page.keyboard.press("Tab")
    page.keyboard.press("0")
    wait_for_ticks(page, {"thing 0", "thing 39", "Something else"})
    take_picture(page, "_forty")
    with page.expect_response(lambda r: "id=next_task" in r.url):
        page.keyboard.press("Control+Enter")
    stack.wait_for("the label", lambda: stack.store.labels(project_id), timeout_s=60)
    (label,) = stack.store.labels(project_id)
    assert (label.task_id, label.kind, label.other) == (task["id"], "classes", True)
    assert set(label.classes) == {"thing 0", "thing 39"}
    # The next question begins with the whole list.
    wait_until_shown(page)
    page.keyboard.press("s")
    wait_for_ticks(page, {"thing 1"})
    assert page.locator(".lsf-choice_hidden").count() == 0


def wait_for_ticks(page: Page, wanted: set[str]) -> None:
    deadline = time.monotonic() + 30
    while ticked(page) != wanted:
        assert time.monotonic() < deadline, (ticked(page), wanted)
        page.wait_for_timeout(50)


def oracle_names(
    stack: Stack, project_id: int, region: str, scenes: Path, schema: ClassSchema
) -> tuple[str, ...]:
    found = RegionId.parse(region)
    image = stack.store.image(project_id, found.image_id)
    assert image is not None
    mask = next((scenes / "train" / "masks").glob(f"{Path(image.source).stem}.*"))
    targets = region_targets(
        read_mask(mask),
        RegionMap.load(Path(image.regions_path)),
        num_classes=len(schema.names),
        void=11,
        undefined=True,
    )
    row = targets[found.index]
    return tuple(name for c, name in enumerate(schema.names) if row[c])
