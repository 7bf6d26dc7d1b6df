"""Images of a Label Studio project: fetched once, kept once, refused with the reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from backend_helpers import make_project, make_settings, make_store
from fake_label_studio import FakeLabelStudio
from PIL import Image

from ml_backend.errors import BackendError
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


def label_studio(*urls: str) -> FakeLabelStudio:
    """A project 9 with one task for each address; the file behind number n is png(n)."""
    ls = FakeLabelStudio()
    ls.server.add_project(9, SETUP)
    for number, url in enumerate(urls, start=1):
        add_task(ls, number, url)
    return ls


def add_task(ls: FakeLabelStudio, number: int, url: str) -> None:
    ls.server.add_task(9, number, {"image": url})
    ls.server.files[url] = png(number)


def fetched(ls: FakeLabelStudio) -> int:
    return len(ls.server.asked("fetch"))


def take(store: Store, ls: FakeLabelStudio, home: Path) -> ImportReport:
    sources = sources_of_project(make_settings(home), ls, 9, store.images(4))
    return import_images(store, make_project(), sources, Cut(home, "grid", 8, 10**7), processes=1)


def files(home: Path) -> list[str]:
    return sorted(p.name for p in home.rglob("*") if p.is_file() and p.suffix in (".png", ".img"))


def test_nothing_is_fetched_twice_and_one_copy_is_kept(tmp_path: Path) -> None:
    """Seen failing: each call fetched every image, and a second copy lay in incoming/."""
    store, ls = make_store(tmp_path), label_studio("/data/upload/1.png", "/data/2")
    report = take(store, ls, tmp_path)
    assert (report.added, report.unreadable) == (2, ())
    again = take(store, ls, tmp_path)
    assert (again.added, again.known) == (0, 2)
    assert fetched(ls) == 2
    assert len(files(tmp_path)) == 2
    assert {i.ls_task_id for i in store.images(4)} == {1, 2}


def test_a_task_that_came_later_is_fetched_alone(tmp_path: Path) -> None:
    store, ls = make_store(tmp_path), label_studio("/data/1.png")
    take(store, ls, tmp_path)
    add_task(ls, 2, "/data/2.png")
    report = take(store, ls, tmp_path)
    assert (report.added, report.known) == (1, 1)
    assert fetched(ls) == 2


def test_a_task_with_another_address_is_fetched(tmp_path: Path) -> None:
    store, ls = make_store(tmp_path), label_studio("/data/1.png")
    take(store, ls, tmp_path)
    ls.server.files["/data/other.png"] = png(3)
    ls.server.project(9).tasks[1].data["image"] = "/data/other.png"
    assert take(store, ls, tmp_path).added == 1


def test_what_cannot_be_fetched_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Seen failing: "No such file or directory"."""
    store, ls = make_store(tmp_path), label_studio("/data/1.png", "/data/2.png")
    ls.server.add_task(9, 7, {"text": "no picture"})
    ls.server.fail("fetch", 403, times=1)
    report = take(store, ls, tmp_path)
    assert report.added == 1
    assert dict(report.unreadable) == {
        "/data/1.png": "/data/1.png answered 403.",
        "task 7": "task 7 has no image under 'image'",
    }
    assert take(store, ls, tmp_path).added == 1
    assert [i.source for i in store.images(4, status="unreadable")] == ["task 7"]


def test_images_are_recorded_as_they_come(tmp_path: Path) -> None:
    """A killed import goes on where it was. Seen failing: all were fetched before the first."""
    store, ls = make_store(tmp_path), label_studio(*(f"/data/{n}.png" for n in range(3)))
    seen: list[int] = []
    ls.server.before("fetch", lambda: seen.append(len(store.images(4))), times=3)
    take(store, ls, tmp_path)
    assert seen == [0, 1, 2]


def test_the_image_is_the_one_that_people_label(tmp_path: Path) -> None:
    """Seen failing: regions were cut from the first Image tag, masks drawn on the other one."""
    assert image_key((CASES / "two_images.xml").read_text()) == "depth"
    plain = "<View><Image name='a' value='$a'/><Image name='b' value='$b'/></View>"
    assert image_key(plain) == "a"
    with pytest.raises(BackendError, match="no Image tag"):
        image_key("<View/>")
