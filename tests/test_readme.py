"""The README says what the program does."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from label_config import ClassSchema
from ml_backend.cli import main
from ml_backend.documents import rewrite

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_are_those_of_the_code() -> None:
    """Else: python -m ml_backend.documents"""
    assert rewrite(TEXT) == TEXT
    assert "PIXBAL_WEBHOOK_SECRET" in TEXT
    assert "`pixbal doctor`" in TEXT


def test_every_pixbal_command_parses() -> None:
    """Commands in code blocks name commands and options that exist."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    found = 0
    for line in lines:
        words = shlex.split(line)
        if "pixbal" not in words[:5]:
            continue
        words = words[words.index("pixbal") + 1 :]
        command = main.commands[words[0]]
        while isinstance(command, click.Group) and len(words) > 1:
            words = words[1:]
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        known |= {option for parameter in command.params for option in parameter.secondary_opts}
        assert {word for word in words if word.startswith("--")} <= known, line
        found += 1
    assert found >= 4


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^\.?make ([a-z-]+)", TEXT, re.MULTILINE)) <= targets


def test_every_command_has_an_example() -> None:
    for words, command in every_command(main, ()):
        result = CliRunner().invoke(main, [*words, "--help"])
        assert result.exit_code == 0
        if not isinstance(command, click.Group) or len(words) == 1:
            assert f"pixbal {' '.join(words)}" in (command.epilog or ""), words


def every_command(
    group: click.Group, above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Commands and groups by their words."""
    for name, command in group.commands.items():
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, (*above, name))


def test_class_list_in_the_readme_is_read(tmp_path: Path) -> None:
    found = re.search(r"`(\{\"classes\": .*?\})`", TEXT)
    assert found is not None
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(json.loads(found[1].replace(", ...", ""))))
    assert ClassSchema.load(path).names == ("Road",)


def test_pictures_exist() -> None:
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT):
        assert (ROOT / picture).is_file(), picture
