"""docs/operations.md has a line for every error, every check of the doctor, and true quotations."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from ml_backend import failures
from ml_backend.cli import main
from ml_backend.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", TEXT)


def sources() -> list[Path]:
    return [p for name in ("label_config", "training", "ml_backend")
            for p in sorted((ROOT / name).rglob("*.py"))]  # fmt: skip


def error_classes() -> set[str]:
    """Names of every error made for people, wherever it is defined."""
    bases: dict[str, set[str]] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).split(".")[-1] for base in node.bases}
    found = {"BackendError", "TrainingError", "LabelConfigError"}
    while new := {name for name, of in bases.items() if of & found} - found:
        found |= new
    return found


def test_every_error_has_a_line() -> None:
    """Seen failing with the line of FetchError removed."""
    names = error_classes()
    assert {"BackupError", "Unreachable", "LeaseLost", "CheckpointError"} <= names
    missing = names - set(QUOTED)
    assert not missing, (
        f"docs/operations.md does not explain {sorted(missing)}: add a line that says what it "
        "looks like and what to do."
    )


def check_names() -> set[str]:
    """Names that the doctor's modules give to checks; "..." where one holds a value."""
    found = set()
    for path in sorted((ROOT / "ml_backend").glob("doctor*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        } | _pairs(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Check", "_named"):
                found.add(_name(node.args[0], constants))
    return found - {""}


def _pairs(tree: ast.AST) -> dict[str, object]:
    """Names of assignments such as `name, url = "backend", ...`."""
    found: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            values = getattr(node.value, "elts", [])
            for target, value in zip(node.targets[0].elts, values, strict=False):
                if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
                    found[target.id] = value.value
    return found


def _name(node: ast.expr, constants: dict[str, object]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name):
        return str(constants.get(node.id, ""))
    if isinstance(node, ast.JoinedStr):
        parts = [str(p.value) if isinstance(p, ast.Constant) else "..." for p in node.values]
        return "".join(parts).split(": ")[-1]
    return ""


def test_every_check_of_the_doctor_has_a_line() -> None:
    """Seen failing with the line of "backup" removed."""
    names = check_names()
    assert {"secrets", "backend", "webhook", "database", "backup", "project ..."} <= names
    missing = {name for name in names if name.replace("...", "N") not in QUOTED}
    assert not missing, f"docs/operations.md has no line for the checks {sorted(missing)}."


@pytest.fixture(scope="module")
def said() -> str:
    """Every text in the sources, values as "...", one after the other."""
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                values = [p.value if isinstance(p, ast.Constant) else "..." for p in node.values]
                found.append("".join(map(str, values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_quotations_are_what_the_program_says(said: str) -> None:
    """Messages with blanks: each part between "..." is in the sources.

    Seen failing with a word of a message changed in the page.
    """
    checked = 0
    for quoted in QUOTED:
        if " " not in quoted or quoted.startswith(("pixbal", "project N", "worker ...", "chmod")):
            continue
        # A colon and a value may follow in another text.
        for part in (p.strip(" :().,") for p in quoted.split("...")):
            if len(part) > 3:
                assert part in said, f"docs/operations.md quotes {part!r}, which nothing says"
                checked += 1
    assert checked > 40


def test_hints_of_label_studio_and_failures_are_there() -> None:
    """A new hint for a failed round needs a line. Seen failing with the line of ulimit removed."""
    tree = ast.parse((ROOT / "ml_backend" / "failures.py").read_text(encoding="utf-8"))
    (function,) = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_hint"
    )
    returned = [n.value for n in ast.walk(function) if isinstance(n, ast.Return)]
    hints = [
        getattr(failures, value.id) if isinstance(value, ast.Name) else ast.literal_eval(value)
        for value in returned
        if value is not None
    ]
    assert len(hints) >= 4
    for hint in hints:
        assert hint in QUOTED or not hint


def test_commands_and_settings_exist() -> None:
    known = {setting.name for setting in SETTINGS}
    assert set(re.findall(r"\b(?:PIXBAL|LABEL_STUDIO)_[A-Z_]+", TEXT)) <= known
    assert isinstance(main, click.Group)
    assert set(re.findall(r"`pixbal ([a-z][a-z-]*)", TEXT)) <= set(main.commands)
