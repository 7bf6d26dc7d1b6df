"""`pixbal init` is killed while it imports: a worker that runs beside it pushes nothing yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backend_helpers import make_settings
from fake_label_studio import FakeLabelStudio
from inline_site import Clock, open_worker
from PIL import Image

from ml_backend.errors import BackendError
from ml_backend.init import InitRequest, initialise
from ml_backend.runtime import Runtime
from ml_backend.status import project_status
from ml_backend.store import Store

IMAGES = 6


class Killed(BaseException):
    """Passes every `except Exception`, as the end of a process does."""


@pytest.fixture
def request_(tmp_path: Path) -> InitRequest:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "classes.json").write_text('["Road", "Sky"]')
    return InitRequest(
        classes=str(tmp_path / "classes.json"), images=(str(folder),), method="grid", side=8,
        budget=9, config="demo", title="streets",
    )  # fmt: skip


@pytest.mark.guarantee(28)
def test_a_killed_import_says_how_to_go_on_and_is_pushed_from_all_images(
    request_: InitRequest, tmp_path: Path
) -> None:
    """All first questions came from the images that were there when the worker looked.

    Seen failing with the project made "active" at once.
    """
    (tmp_path / "home").mkdir()
    settings = make_settings(tmp_path / "home", PIXBAL_DEVICE="cpu")
    ls = FakeLabelStudio()
    with Store.open(settings.database_url) as store:
        runtime = Runtime(settings, store, ls)
        worker = open_worker(runtime, Clock(), "one")

        def after_two(done: int, total: int) -> None:
            worker.tick()  # a worker looks at every step of the import
            assert store.queries(store.projects()[0].id) == []
            if done == 2:
                raise Killed

        with pytest.raises(Killed):
            initialise(settings, store, ls, request_, after_two)
        (project,) = store.projects()
        assert project.state == "importing"
        assert len(store.images(project.id)) == 2
        for _ in range(3):
            worker.clock.seconds += 61  # type: ignore[attr-defined]
            worker.tick()
        assert store.queries(project.id) == []
        assert project_status(settings, store, project.id)["state"] == "importing"
        report = initialise(settings, store, ls, request_)
        assert not report.created
        assert report.project.id == project.id
        assert len(store.images(project.id)) == IMAGES
        open_now = store.queries(project.id, status="open")
        assert len({q.image_id for q in open_now}) >= 4
        found = store.project(project.id)
        assert found is not None
        assert found.state == "active"


@pytest.mark.parametrize("title", ["streets", "others"])
def test_an_init_that_reads_no_image_leaves_no_project_behind(
    request_: InitRequest, tmp_path: Path, title: str
) -> None:
    """Neither here nor in Label Studio. Seen failing with the images read after it was made."""
    (tmp_path / "home").mkdir()
    settings = make_settings(tmp_path / "home")
    ls = FakeLabelStudio()
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with Store.open(settings.database_url) as store:
        with pytest.raises(BackendError) as caught:
            initialise(settings, store, ls, replace(request_, title=title))
        assert store.projects() == []
        assert ls.server.projects == {}
        assert "images can be read" in caught.value.message
        assert "0.png" in caught.value.hint
