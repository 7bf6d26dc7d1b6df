"""Everything that is installed is pinned: the direct ones by version, all of them by hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.guarantee(26)
ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
EXACT = re.compile(rf"({NAME})(?:\[[a-z,]+\])?==([0-9][\w.!+]*)")
# Which build fits depends on the machine; the lock file holds the one for Linux from PyPI.
BY_MACHINE = {"torch", "torchvision"}


def lines(path: Path) -> list[str]:
    """Requirements of a file, comments left out."""
    found = [line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
    return [line for line in found if line]


def plain(name: str) -> str:
    """A name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by name; every line of a lock file is one of the two."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in lines(path):
        line = line.removesuffix("\\").strip()
        if line.startswith("--hash="):
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line), line
            found[name][1].append(line)
        else:
            match = EXACT.fullmatch(line)
            assert match, f"{path.name}: not an exact pin: {line}"
            name = plain(match[1])
            assert name not in found, line
            found[name] = (match[2], [])
    return found


@pytest.mark.parametrize("name", ["project", "label-studio"])
def test_every_direct_pin_is_exact(name: str) -> None:
    """Seen failing with `types-requests` without a version, as it was."""
    for line in lines(FOLDER / f"{name}.txt"):
        match = EXACT.fullmatch(line)
        if match is None:
            assert plain(re.match(NAME, line)[0]) in BY_MACHINE, f"not exact: {line}"  # type: ignore[index]


@pytest.mark.parametrize("name", ["project", "label-studio"])
def test_lock_has_a_hash_for_everything_and_agrees(name: str) -> None:
    """Seen failing with a line of hashes removed, and with another version of Flask."""
    found = locked(FOLDER / f"{name}.lock")
    assert len(found) > 100
    assert [n for n, (_, hashes) in found.items() if not hashes] == []
    for line in lines(FOLDER / f"{name}.txt"):
        match = EXACT.fullmatch(line)
        if match:
            assert found[plain(match[1])][0] == match[2], line
    assert name != "project" or found.keys() >= BY_MACHINE


def test_what_the_package_asks_for_is_pinned() -> None:
    """Seen failing with flask-wtf left out of project.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {plain(re.match(NAME, line)[0]) for line in lines(FOLDER / "project.txt")}  # type: ignore[index]
    assert {plain(re.match(NAME, line)[0]) for line in asked} <= pinned  # type: ignore[index]
