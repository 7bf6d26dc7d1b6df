"""The command line over the fake Label Studio: one home, and what a person sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from backend_helpers import BASIC_PASSWORD, MEDIA_KEY, WEBHOOK_SECRET
from click.testing import CliRunner
from fake_label_studio import FakeLabelStudio, FakeServer
from training_helpers import write_pool

from ml_backend.cli import main
from ml_backend.store import Project, Store


@dataclass
class CommandLine:
    """Runs commands; `said` is what the last one printed."""

    home: Path
    server: FakeServer = field(default_factory=FakeServer)
    said: str = ""

    def run(self, *arguments: str, typed: str | None = None, code: int = 0) -> str:
        """A command that must end with `code`; what it printed."""
        result = CliRunner().invoke(main, list(arguments), input=typed)
        self.said = result.output
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    def client(self, *_: object, **__: object) -> FakeLabelStudio:
        """A new client of the one server."""
        return FakeLabelStudio(self.server)

    def store(self) -> Store:
        """The store of the home."""
        return Store.open(f"sqlite:///{self.home}/pixbal.db")

    def project(self, project_id: int) -> Project:
        """The project's row."""
        with self.store() as store:
            row = store.project(project_id)
        assert row is not None
        return row

    def images(self, count: int = 2) -> tuple[str, ...]:
        """Options of `init` for a project of a few small pictures."""
        folder = self.home.parent / "photos"
        if not folder.exists():
            for _, image, regions, mask in write_pool(folder, count):
                del image
                regions.unlink()
                mask.unlink()
        classes = self.home.parent / "classes.json"
        classes.write_text('["Grass", "Brick"]')
        return ("--images", str(folder), "--classes", str(classes), "--method", "grid",
                "--side", "10", "--budget", "3", "--set", 'model.weights="none"')  # fmt: skip


def open_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A command line on a new home."""
    line = CommandLine(folder / "home")
    line.home.mkdir(parents=True)
    for name, value in {
        "PIXBAL_HOME": str(line.home),
        "LABEL_STUDIO_API_KEY": "0" * 40,
        "PIXBAL_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "PIXBAL_BASIC_PASSWORD": BASIC_PASSWORD,
        "PIXBAL_MEDIA_KEY": MEDIA_KEY,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ml_backend.label_studio.LabelStudio.of", line.client)
    return line
