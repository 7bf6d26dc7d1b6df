"""Images of a Label Studio project: fetched once, kept once, refused with the reason."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_helpers import make_project, make_settings, make_store
from PIL import Image

from ml_backend.errors import BackendError
from ml_backend.fetch import FetchError
from ml_backend.from_project import image_key, sources_of_project
from ml_backend.pool import Cut, ImportReport, import_images
from ml_backend.store import Store

CASES = Path(__file__).parent / "cases"
SETUP = "<View><Image name='image' value='$image'/></View>"


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Tasks:
    """A Label Studio of tasks by id, and of the files behind their addresses."""

    def __init__(self, files: dict[str, bytes | BackendError], setup: str = SETUP) -> None:
        self.files, self.setup = files, setup
        self.fetched: list[str] = []
        self.more: dict[int, dict[str, Any]] = {}

    def project(self, project_id: int) -> dict[str, Any]:
        return {"label_config": self.setup}

    def tasks(self, project_id: int, with_annotations: bool) -> Iterator[dict[str, Any]]:
        for number, url in enumerate(self.files, start=1):
            yield {"id": number, "data": {"image": url}}
        yield from ({"id": i, "data": data} for i, data in self.more.items())

    def fetch(self, url: str, task_id: int) -> bytes:
        self.fetched.append(url)
        found = self.files[url]
        if isinstance(found, BackendError):
            raise found
        return found


def take(store: Store, ls: Tasks, home: Path) -> ImportReport:
    sources = sources_of_project(make_settings(home), ls, 9, store.images(4))  # type: ignore[arg-type]
    return import_images(store, make_project(), sources, Cut(home, "grid", 8, 10**7), processes=1)


def files(home: Path) -> list[str]:
    return sorted(p.name for p in home.rglob("*") if p.is_file() and p.suffix in (".png", ".img"))


def test_nothing_is_fetched_twice_and_one_copy_is_kept(tmp_path: Path) -> None:
    """Seen failing: each call fetched every image, and a second copy lay in incoming/."""
    store, ls = make_store(tmp_path), Tasks({"/data/upload/1.png": png(1), "/data/2": png(2)})
    report = take(store, ls, tmp_path)
    assert (report.added, report.unreadable) == (2, ())
    again = take(store, ls, tmp_path)
    assert (again.added, again.known) == (0, 2)
    assert len(ls.fetched) == 2
    assert len(files(tmp_path)) == 2
    assert {i.ls_task_id for i in store.images(4)} == {1, 2}


def test_a_task_that_came_later_is_fetched_alone(tmp_path: Path) -> None:
    store, ls = make_store(tmp_path), Tasks({"/data/1.png": png(1)})
    take(store, ls, tmp_path)
    ls.files["/data/2.png"] = png(2)
    report = take(store, ls, tmp_path)
    assert (report.added, report.known) == (1, 1)
    assert ls.fetched == ["/data/1.png", "/data/2.png"]


def test_a_task_with_another_address_is_fetched(tmp_path: Path) -> None:
    store, ls = make_store(tmp_path), Tasks({"/data/1.png": png(1)})
    take(store, ls, tmp_path)
    ls.files = {"/data/other.png": png(3)}
    assert take(store, ls, tmp_path).added == 1


def test_what_cannot_be_fetched_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Seen failing: "No such file or directory"."""
    store = make_store(tmp_path)
    ls = Tasks({"/data/1.png": FetchError("/data/1.png answered 403."), "/data/2.png": png(2)})
    ls.more = {7: {"text": "no picture"}}
    report = take(store, ls, tmp_path)
    assert report.added == 1
    assert dict(report.unreadable) == {
        "/data/1.png": "/data/1.png answered 403.",
        "task 7": "task 7 has no image under 'image'",
    }
    ls.files["/data/1.png"] = png(1)
    assert take(store, ls, tmp_path).added == 1
    assert [i.source for i in store.images(4, status="unreadable")] == ["task 7"]


def test_images_are_recorded_as_they_come(tmp_path: Path) -> None:
    """A killed import goes on where it was. Seen failing: all were fetched before the first."""
    store = make_store(tmp_path)
    seen: list[int] = []

    class Watched(Tasks):
        def fetch(self, url: str, task_id: int) -> bytes:
            seen.append(len(store.images(4)))
            return super().fetch(url, task_id)

    take(store, Watched({f"/data/{n}.png": png(n) for n in range(3)}), tmp_path)
    assert seen == [0, 1, 2]


def test_the_image_is_the_one_that_people_label(tmp_path: Path) -> None:
    """Seen failing: regions were cut from the first Image tag, masks drawn on the other one."""
    assert image_key((CASES / "two_images.xml").read_text()) == "depth"
    plain = "<View><Image name='a' value='$a'/><Image name='b' value='$b'/></View>"
    assert image_key(plain) == "a"
    with pytest.raises(BackendError, match="no Image tag"):
        image_key("<View/>")
