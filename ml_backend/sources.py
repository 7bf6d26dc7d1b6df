"""Which files are meant: a folder, a glob or a list; the masks of a data set are no photos."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ml_backend.errors import BackendError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})

# Folders of masks: the first ones wherever they are met, the others beside one of images only.
_MASKS = frozenset({"mask", "masks"})
_MASKS_BESIDE = frozenset({
    "annotations", "gtcoarse", "gtfine", "labels", "segmentationclass", "segmentationclassaug",
    "segmentationobject", "stuffthingmaps",
})  # fmt: skip
_IMAGES = frozenset({"image", "images", "img", "imgs", "jpegimages", "leftimg8bit", "photos"})


@dataclass(frozen=True)
class Source:
    """One image to import.

    Attributes:
        name: what people know it by: a path or an address.
        path: the file to read.
        split: "pool", or "heldout" for images with masks that only measure the model.
        mask: index mask of a held-out image.
        void: the mask value that means no class, beside 255 and the number of classes.
        ls_task_id: the Label Studio task that it came from.
        load: brings the file here and returns its path, in place of `path`.
    """

    name: str
    path: Path
    split: str = "pool"
    mask: Path | None = None
    void: int = 255
    ls_task_id: int | None = None
    load: Callable[[], Path] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Found:
    """Images that a person named, and what was left out, for that person to read."""

    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()


def printable(name: str) -> str:
    r"""A file name that can be shown and stored: bytes that are not UTF-8 as \xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def list_sources(spec: str) -> list[Source]:
    """The images of `find_sources`."""
    return list(find_sources(spec).sources)


def find_sources(spec: str) -> Found:
    """Images named by a folder (searched through), a glob, or a text file with one path a line.

    Of a folder that holds `images/` and `masks/` the former is taken; folders of masks below are
    left out, with a note.

    Raises:
        BackendError: nothing there, or no image among it.
    """
    path = Path(spec).expanduser()
    notes: list[str] = []
    if path.is_dir():
        found = sorted(_walk(path, notes))
    elif path.is_file() and path.suffix.lower() == ".txt":
        found = _listed(path)
    elif path.is_file():
        found = [path]
    else:
        found = _matching(str(path), notes)
    if not found:
        raise BackendError(
            f"no image found at {printable(spec)!r}",
            hint="; ".join([
                *notes,
                "Give a folder, a glob in quotes such as 'photos/*.jpg', or a .txt file with one "
                f"path a line. Read are {', '.join(sorted(IMAGE_SUFFIXES))}.",
            ]),
        )  # fmt: skip
    return Found(tuple(Source(str(p), p.resolve()) for p in found), tuple(notes))


def _walk(folder: Path, notes: list[str]) -> Iterator[Path]:
    """Images below a folder; in the layout of a data set, those of its images folder alone."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        masks = _mask_folders(folders)
        images = [name for name in folders if name.casefold() in _IMAGES]
        if masks:
            left = ", ".join(f"{name}/" for name in masks)
            notes.append(f"{printable(str(here))}: {printable(left)} left out: masks are no photos")
        if masks and images:
            if any(_is_image(name) for name in files):
                notes.append(f"{printable(str(here))}: only {printable(images[0])}/ is taken")
            folders[:], files = images, []
        else:
            folders[:] = [name for name in folders if name not in masks]
        yield from (here / name for name in files if _is_image(name))


def _mask_folders(folders: list[str]) -> list[str]:
    """Those that hold masks, by their names and what stands beside them."""
    names = {name.casefold() for name in folders}
    beside = _MASKS_BESIDE if names & _IMAGES else frozenset()
    return sorted(
        name
        for name in folders
        if name.casefold() in _MASKS | beside
        # CamVid as published: train/ and trainannot/.
        or (name.endswith("annot") and name.removesuffix("annot").casefold() in names)
    )


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _matching(pattern: str, notes: list[str]) -> list[Path]:
    """Images that a glob names, and those in folders that it names."""
    found: set[Path] = set()
    for name in glob.glob(pattern, recursive=True):
        path = Path(name)
        if path.is_dir():
            found.update(_walk(path, notes) if not pattern.endswith("**") else ())
        elif _is_image(path.name):
            found.add(path)
    return sorted(found)


def _listed(path: Path) -> list[Path]:
    """Paths in a list, from its folder on, in UTF-8, UTF-16 with its mark, or Latin-1."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            encoding = "latin-1"
    try:
        lines = data.decode(encoding).splitlines()
    except UnicodeDecodeError as error:
        raise BackendError(
            f"{printable(str(path))} is no list of paths: {error}",
            hint="Store it as UTF-8 text with one path a line.",
        ) from error
    named = [line.strip() for line in lines]
    return [_place(path.parent, line, encoding) for line in named if line and line[0] != "#"]


def _place(folder: Path, line: str, encoding: str) -> Path:
    path = folder / Path(line).expanduser()
    if encoding == "latin-1" and not path.exists():
        # A file name of that age, whose bytes stand in the list as they stand on the disk.
        raw = folder / os.fsdecode(line.encode("latin-1"))
        return raw if raw.exists() else path
    return path
