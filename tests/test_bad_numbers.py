"""Numbers that no project can have: refused with words, before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import CommandLine, open_command_line

from ml_backend.cli import main

HUGE = str(10**22)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return open_command_line(tmp_path, monkeypatch)


def refused(*words: str) -> str:
    """What a command says that must fail."""
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code in (1, 2), result.output
    return result.output


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--budget", "nan"), ("--budget", "inf"), ("--budget", "1e309"),
        ("--smallest-share", "nan"), ("--train-every", HUGE), ("--per-image", HUGE),
        ("--seed", HUGE), ("--seed", str(2**63 - 1)), ("--side", HUGE), ("--project", HUGE),
    ],
)  # fmt: skip
def test_init_refuses_a_number_that_no_project_can_have(
    line: CommandLine, option: str, value: str
) -> None:
    """A project was made in Label Studio, and none here: each further call made one more.

    Seen failing with the bounds of the command line alone, which let NaN pass.
    """
    said = refused("init", *line.images(), option, value)
    assert "--debug" not in said, said
    assert option.strip("-") in said
    assert not line.server.projects
    with line.store() as store:
        assert not store.projects()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_init_again_proposes_no_command_that_is_refused(line: CommandLine, value: str) -> None:
    line.run("init", *line.images())
    said = refused("init", *line.images(), "--budget", value)
    assert "project set" not in said, said


@pytest.mark.parametrize(
    "words",
    [
        ("ask-again", "--task", HUGE),
        ("masks", "--project", HUGE),
        ("masks", "--project", "1", "--region-project", HUGE),
        ("status", "--project", HUGE),
        ("images", "add", "--from-project", HUGE),
        ("project", "forget", "--project", HUGE),
        ("project", "show", "--project", HUGE),
        ("project", "pause", "--project", HUGE),
        ("doctor", "--project", HUGE),
    ],
)
def test_an_id_that_no_database_holds_is_refused_in_words(
    line: CommandLine, words: tuple[str, ...]
) -> None:
    """Seen failing (an OverflowError of the database, "run again with --debug")."""
    line.run("init", *line.images())
    said = refused(*words)
    assert "Error:" not in said.replace("Error: Invalid value", ""), said
    assert "--debug" not in said, said
