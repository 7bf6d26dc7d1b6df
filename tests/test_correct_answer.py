"""A real browser: an annotator steps back to her last answer, changes it, and updates it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from stack import Stack
from test_browser import close_instructions, open_label_stream, ticked, wait_until_shown
from test_browser import page as page
from test_browser import stack as stack

from label_config import ClassSchema
from training.scenes import write_scene_set

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_the_last_answer_is_corrected(stack: Stack, page: Page, tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    write_scene_set(scenes, train=2, heldout=0, seed=5)
    project = stack.init(scenes / "train" / "images", None, "corrected", budget=8).project
    schema = ClassSchema.from_json(project.schema_json)
    wrong, right = schema.classes[0], schema.classes[1]
    assert wrong.hotkey is not None
    assert right.hotkey is not None
    task = open_label_stream(page, stack, project.id)
    close_instructions(page)
    wait_until_shown(page)
    page.keyboard.press(wrong.hotkey)
    with page.expect_response(lambda r: "id=next_task" in r.url):
        page.keyboard.press("Control+Enter")
    stack.wait_for("the answer", lambda: classes_of(stack, project.id, task["id"]))
    assert classes_of(stack, project.id, task["id"]) == (wrong.name,)
    wait_until_shown(page)
    page.get_by_test_id("prev-task").click()
    update = page.get_by_role("button", name="Update")
    update.wait_for(state="visible", timeout=60_000)
    wait_until_shown(page)
    assert ticked(page) == {wrong.name}, "her answer is shown again"
    page.keyboard.press(wrong.hotkey)
    page.keyboard.press(right.hotkey)
    expect(update).to_be_enabled(timeout=60_000)
    page.keyboard.press("Control+Enter")
    stack.wait_for(
        "the corrected answer",
        lambda: classes_of(stack, project.id, task["id"]) == (right.name,),
    )


def classes_of(stack: Stack, project_id: int, task_id: int) -> tuple[str, ...] | None:
    """What the label of a task's question says."""
    query = stack.store.query_by_task(project_id, task_id)
    assert query is not None
    label = stack.store.effective_labels(project_id).get(query.id)
    return None if label is None else label.classes
