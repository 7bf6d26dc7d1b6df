"""Photos by folder, glob and list: what a person means, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml_backend.errors import BackendError
from ml_backend.sources import find_sources, list_sources

CASES = Path(__file__).parent / "cases"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(root: Path, spec: str) -> list[str]:
    return [str(Path(s.name).relative_to(root)) for s in list_sources(spec)]


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["images/a.jpg", "masks/a.png"], ["images/a.jpg"]),
        (["images/a.jpg", "masks/a.png", "figure.png"], ["images/a.jpg"]),
        (["a.jpg", "masks/a.png"], ["a.jpg"]),
        (["train/images/a.jpg", "train/masks/a.png", "test/images/b.jpg", "test/masks/b.png"],
         ["test/images/b.jpg", "train/images/a.jpg"]),
        (["train/a.png", "trainannot/a.png"], ["train/a.png"]),
        (["JPEGImages/a.jpg", "SegmentationClass/a.png"], ["JPEGImages/a.jpg"]),
        (["leftImg8bit/val/x/a.png", "gtFine/val/x/a.png"], ["leftImg8bit/val/x/a.png"]),
        (["images/t/a.jpg", "annotations/t/a.png"], ["images/t/a.jpg"]),
        (["labels/a.jpg", "street/b.jpg"], ["labels/a.jpg", "street/b.jpg"]),
        (["a.jpg", "._a.jpg", "notes.md"], ["a.jpg"]),
    ],
)  # fmt: skip
def test_masks_below_a_folder_are_no_photos(
    files: list[str], taken: list[str], tmp_path: Path
) -> None:
    """People were asked about masks. Seen failing: masks/ was taken, too."""
    touch(tmp_path, *files)
    assert names(tmp_path, str(tmp_path)) == taken
    left = {"masks", "trainannot", "SegmentationClass", "gtFine", "annotations"}
    skipped = sorted(left & {part for name in files for part in Path(name).parts})
    notes = " ".join(find_sources(str(tmp_path)).notes)
    assert all(f"{name}/ left out" in notes for name in skipped)
    assert skipped or not notes


def test_a_folder_of_masks_that_is_named_itself_is_taken(tmp_path: Path) -> None:
    """Venetian masks. The error of the folder above says why nothing was found."""
    touch(tmp_path, "masks/a.jpg")
    assert names(tmp_path, str(tmp_path / "masks")) == ["masks/a.jpg"]
    with pytest.raises(BackendError) as caught:
        list_sources(str(tmp_path))
    assert "masks/ left out" in caught.value.hint


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("img?.png", ["img1.png", "img2.png"]),
        ("img[2-9].png", ["img2.png"]),
        ("**/*.jpg", ["a.jpg", "sub/deep/c.jpg"]),
        ("sub/*", ["sub/b.png", "sub/deep/c.jpg"]),
        ("s?b", ["sub/b.png", "sub/deep/c.jpg"]),
        ("*.md", []),
    ],
)
def test_globs(pattern: str, taken: list[str], tmp_path: Path) -> None:
    """Seen failing: `?` and `[]` found nothing."""
    touch(
        tmp_path,
        "img1.png",
        "img2.png",
        "img10.jpg",
        "a.jpg",
        "sub/b.png",
        "sub/deep/c.jpg",
        "n.md",
    )
    (tmp_path / "img10.jpg").unlink()
    if taken:
        assert names(tmp_path, str(tmp_path / pattern)) == taken
    else:
        with pytest.raises(BackendError, match="no image found"):
            list_sources(str(tmp_path / pattern))


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].png", "a1.png", "set [x]/b.png")
    assert names(tmp_path, str(tmp_path / "a[1].png")) == ["a[1].png"]
    assert names(tmp_path, str(tmp_path / "set [x]")) == ["set [x]/b.png"]


def test_a_list_with_a_byte_order_mark_keeps_its_first_image(tmp_path: Path) -> None:
    """Seen failing: the first path began with an invisible character."""
    touch(tmp_path, "small/s0.jpg", "small/s1.jpg")
    (tmp_path / "list.txt").write_bytes((CASES / "list_bom.txt").read_bytes())
    assert names(tmp_path, str(tmp_path / "list.txt")) == ["small/s0.jpg", "small/s1.jpg"]
    text = (CASES / "list_bom.txt").read_text("utf-8-sig")
    (tmp_path / "list.txt").write_bytes(text.encode("utf-16"))
    assert names(tmp_path, str(tmp_path / "list.txt")) == ["small/s0.jpg", "small/s1.jpg"]


def test_a_list_in_latin_1_is_read(tmp_path: Path) -> None:
    """Seen failing: UnicodeDecodeError."""
    touch(tmp_path, "small/café.jpg")
    (tmp_path / "list.txt").write_bytes((CASES / "list_l1.txt").read_bytes())
    assert names(tmp_path, str(tmp_path / "list.txt")) == ["small/café.jpg"]
    (tmp_path / "small/café.jpg").unlink()
    raw = tmp_path / "small" / os.fsdecode(b"caf\xe9.jpg")
    raw.write_bytes(b"x")
    assert [s.path for s in list_sources(str(tmp_path / "list.txt"))] == [raw]
