"""Images into the pool: every kind of bad image named, nothing lost, nothing twice."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from backend_helpers import make_project, make_store
from PIL import Image as PILImage

from ml_backend.errors import BackendError
from ml_backend.pool import Cut, Source, import_images, import_lines, keep, list_sources
from ml_backend.store import Image, Store
from training.regions import RegionMap

CASES = Path(__file__).parent / "cases"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def cut(home: Path, method: str = "grid") -> Cut:
    return Cut(home, method, side_px=16, max_pixels=50_000_000)


def picture(height: int = 48, width: int = 64, seed: int = 0) -> PILImage.Image:
    rng = np.random.default_rng(seed)
    return PILImage.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def encoded(image: PILImage.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IEND", b"")


def exif_rotated() -> bytes:
    exif = PILImage.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    return encoded(picture(48, 64), "JPEG", exif=exif)


def sixteen_bit() -> bytes:
    return encoded(PILImage.fromarray(np.full((20, 30), 40_000, np.uint16)), "PNG")


GOOD: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "rgb.png": (lambda: encoded(picture(), "PNG"), (64, 48)),
    "cmyk.jpg": (lambda: encoded(picture(seed=1).convert("CMYK"), "JPEG"), (64, 48)),
    "sixteen.png": (sixteen_bit, (30, 20)),
    "rotated.jpg": (exif_rotated, (48, 64)),
    "one.png": (lambda: encoded(picture(1, 1), "PNG"), (1, 1)),
    "grey.png": (lambda: encoded(picture(seed=2).convert("L"), "PNG"), (64, 48)),
}
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated.jpg": (lambda: encoded(picture(seed=3), "JPEG")[:400], "truncated"),
    "huge.png": (lambda: png_header(10_000, 10_001), "100010000|100,010,000|10000"),
    "empty.png": (lambda: b"", "empty|no bytes|0 bytes"),
    "text.png": (lambda: b"not an image at all", "not"),
}


def test_good_and_bad_images(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (make, _) in {**GOOD, **BAD}.items():
        (folder / name).write_bytes(make())
    report = import_images(
        store, make_project(), list_sources(str(folder)), cut(tmp_path), processes=1
    )
    assert report.added == len(GOOD)
    assert {Path(name).name for name, _ in report.unreadable} == set(BAD)
    rows = {Path(i.source).name: i for i in store.images(4)}
    assert set(rows) == {*GOOD, *BAD}
    for name, (_, (width, height)) in GOOD.items():
        row = rows[name]
        assert (row.status, row.width, row.height) == ("ready", width, height)
        found = RegionMap.load(Path(row.regions_path))
        assert found.ids.shape == (height, width)
        assert (found.hash, found.count) == (row.regions_hash, row.region_count)
    for name, (_, expected) in BAD.items():
        assert rows[name].status == "unreadable"
        assert any(e in (rows[name].reason or "").lower() for e in expected.split("|")), rows[name]


def test_again_adds_nothing_and_a_mended_file_replaces_the_refused_one(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(picture(), "PNG"))
    (folder / "b.png").write_bytes(b"broken")
    sources = list_sources(str(folder))
    first = import_images(store, make_project(), sources, cut(tmp_path), processes=1)
    assert (first.added, len(first.unreadable)) == (1, 1)
    (folder / "b.png").write_bytes(encoded(picture(seed=9), "PNG"))
    second = import_images(store, make_project(), sources, cut(tmp_path), processes=1)
    assert (second.added, second.known, second.unreadable) == (1, 1, ())
    ready = [i for i in store.images(4) if i.status == "ready"]
    assert {Path(i.source).name for i in ready} == {"a.png", "b.png"}


def test_equal_content_under_two_names_is_one_image(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(encoded(picture(), "PNG"))
    report = import_images(
        store, make_project(), list_sources(str(folder)), cut(tmp_path), processes=1
    )
    assert (report.added, report.known) == (1, 1)


def test_a_file_that_is_gone_is_recorded(store: Store, tmp_path: Path) -> None:
    source = Source("gone.png", tmp_path / "gone.png")
    report = import_images(store, make_project(), [source], cut(tmp_path), processes=1)
    assert report.unreadable == (("gone.png", "No such file or directory"),)


def test_the_kept_copy_does_not_change_with_the_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    before = encoded(picture(), "PNG")
    path.write_bytes(before)
    import_images(store, make_project(), [Source("a", path)], cut(tmp_path), processes=1)
    path.write_bytes(encoded(picture(seed=5), "PNG"))
    (row,) = store.images(4)
    assert Path(row.path).read_bytes() == before


def test_several_processes_do_the_same(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(16):
        (folder / f"{number}.png").write_bytes(encoded(picture(seed=number), "PNG"))
    sources = list_sources(str(folder))
    seen: list[int] = []
    import_images(
        store, make_project(), sources, cut(tmp_path), processes=2,
        progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    several = {i.source: without_home(i, tmp_path) for i in store.images(4)}
    other = tmp_path / "other"
    other.mkdir()
    alone = make_store(other)
    import_images(alone, make_project(), sources, cut(other), processes=1)
    assert several == {i.source: without_home(i, other) for i in alone.images(4)}
    assert seen == list(range(1, 17))


def without_home(image: Image, home: Path) -> tuple[str, str, str, int]:
    return (
        str(Path(image.path).relative_to(home)),
        str(Path(image.regions_path).relative_to(home)),
        image.regions_hash,
        image.region_count,
    )


def test_another_method_never_meets_an_old_map(tmp_path: Path) -> None:
    keys = {cut(tmp_path, m).key for m in ("grid", "seeds", "slic")}
    assert len(keys) == 3
    assert Cut(tmp_path, "grid", 24, 1).key != Cut(tmp_path, "grid", 16, 1).key


@pytest.mark.parametrize("kind", ["folder", "glob", "list", "file"])
def test_sources_by_every_kind_of_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.JPG", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    listing = tmp_path / "list.txt"
    listing.write_text("# a comment\na.png\n\nsub/b.JPG\n")
    spec, expected = {
        "folder": (str(tmp_path), ["a.png", "b.JPG"]),
        "glob": (str(tmp_path / "*.png"), ["a.png"]),
        "list": (str(listing), ["a.png", "b.JPG"]),
        "file": (str(tmp_path / "a.png"), ["a.png"]),
    }[kind]
    assert [s.path.name for s in list_sources(spec)] == expected


@pytest.mark.parametrize("spec", ["nowhere", "nowhere/*.png", "."])
def test_nothing_found_says_what_to_give(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackendError, match="no image found") as caught:
        list_sources(spec)
    assert "folder" in caught.value.hint


def test_a_file_replaced_in_place_is_a_new_image(store: Store, tmp_path: Path) -> None:
    """Known by content, not by name. Seen failing: "1 known", and the new picture was not taken."""
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "PNG"))
    import_images(store, make_project(), [Source("a.png", path)], cut(tmp_path), processes=1)
    path.write_bytes(encoded(picture(seed=5), "PNG"))
    report = import_images(
        store, make_project(), [Source("a.png", path)], cut(tmp_path), processes=1
    )
    assert (report.added, report.known) == (1, 0)
    assert len(store.images(4, status="ready")) == 2
    assert "a.png has changed" in report.notes[0]


def test_equal_relative_names_in_two_folders_are_two_images(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen failing: the second folder's picture was "known"."""
    added = []
    for number, folder in enumerate(("monday", "tuesday")):
        (tmp_path / folder / "photos").mkdir(parents=True)
        (tmp_path / folder / "photos" / "a.png").write_bytes(encoded(picture(seed=number), "PNG"))
        monkeypatch.chdir(tmp_path / folder)
        report = import_images(
            store, make_project(), list_sources("photos"), cut(tmp_path), processes=1
        )
        added.append(report.added)
    assert added == [1, 1]


def test_a_known_image_is_not_cut_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "PNG"))
    import_images(store, make_project(), [Source("a", path)], cut(tmp_path), processes=1)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("cut again")

    monkeypatch.setattr("ml_backend.pool.segment", refuse)
    again = import_images(store, make_project(), [Source("b", path)], cut(tmp_path), processes=1)
    assert (again.added, again.known) == (0, 1)


def test_a_name_that_is_not_utf8_is_refused_and_the_others_go_in(
    store: Store, tmp_path: Path
) -> None:
    """Seen failing: UnicodeEncodeError from the database, and nothing was imported."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(picture(), "PNG"))
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(picture(seed=1), "PNG"))
    report = import_images(
        store, make_project(), list_sources(str(folder)), cut(tmp_path), processes=1
    )
    assert report.added == 1
    ((name, reason),) = report.unreadable
    assert name.endswith("caf\\xe9.png")
    assert "not UTF-8" in reason
    assert [i.source.endswith("caf\\xe9.png") for i in store.images(4, status="unreadable")] == [
        True
    ]
    assert any("caf\\xe9.png" in line for line in import_lines(report))


def test_a_mended_file_leaves_no_refused_one_behind(store: Store, tmp_path: Path) -> None:
    """Seen failing: the status went on showing the refused state of the file."""
    path = tmp_path / "b.png"
    path.write_bytes(b"broken")
    import_images(store, make_project(), [Source("b", path)], cut(tmp_path), processes=1)
    path.write_bytes(encoded(picture(), "PNG"))
    import_images(store, make_project(), [Source("b", path)], cut(tmp_path), processes=1)
    assert [i.status for i in store.images(4)] == ["ready"]


def test_dark_16_bit_files_are_told_of_once(store: Store, tmp_path: Path) -> None:
    sources = [Source("one.png", CASES / "gray12in16.png"),
               Source("two.png", CASES / "rgb16_12bit.png")]  # fmt: skip
    report = import_images(store, make_project(), sources, cut(tmp_path), processes=1)
    (note,) = report.notes
    assert note.startswith("2 images use 12 bits of 16")
    assert import_images(store, make_project(), sources, cut(tmp_path), processes=1).notes == ()


def test_keep_is_by_content_and_leaves_no_debris(tmp_path: Path) -> None:
    first = keep(b"data", tmp_path, "abcdef", ".png")
    assert keep(b"data", tmp_path, "abcdef", ".png") == first
    assert first.read_bytes() == b"data"
    assert [p.name for p in first.parent.iterdir()] == ["abcdef.png"]
