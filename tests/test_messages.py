"""Messages for people: what came, and a hint that works when it is followed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from backend_helpers import make_project, make_settings, make_store
from click.testing import CliRunner, Result
from fake_label_studio import FakeLabelStudio
from PIL import Image

from label_config import ClassSchema, LabelConfigError
from ml_backend.cli import main
from ml_backend.cli_simulate import with_spread
from ml_backend.errors import BackendError
from ml_backend.init import InitReport, InitRequest, initialise, train_config
from ml_backend.pool import Cut, ImportReport, Source, import_images
from ml_backend.store import Store
from training.config import StageConfig, TrainConfig
from training.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def pixbal(*words: str, home: Path) -> Result:
    environment = {"PIXBAL_HOME": str(home), "LABEL_STUDIO_API_KEY": "0" * 40,
                   "LABEL_STUDIO_URL": "http://127.0.0.1:9"}  # fmt: skip
    return CliRunner().invoke(main, list(words), env=environment)


def hint_of(result: Result) -> str:
    assert result.exit_code == 1, result.output
    found = re.search(r"hint: (.*)", result.output)
    assert found is not None, result.output
    return found[1]


def test_the_option_that_a_hint_names_is_one_of_the_command(tmp_path: Path) -> None:
    """Two region projects. Seen failing as it was: `pixbal masks` advised --project."""
    settings = make_settings(tmp_path)
    with make_store(tmp_path, make_project(4), make_project(5)):
        pass
    hint = hint_of(pixbal("masks", "--project", "7", home=settings.home))
    assert "--project 7 --region-project" in hint
    # Followed, it gets as far as Label Studio.
    again = pixbal("masks", "--project", "7", "--region-project", "5", home=settings.home)
    assert "No answer from Label Studio" in again.output
    hint = hint_of(pixbal("masks", "--project", "7", "--region-project", "6", home=settings.home))
    assert "--region-project" in hint
    for command in ("push", "train", "export --out x", "reconcile"):
        hint = hint_of(pixbal(*command.split(), home=settings.home))
        assert hint == "Name one with --project: 4, 5."


def test_a_picture_that_is_too_large_names_the_setting(tmp_path: Path) -> None:
    """Seen failing as it was: "raise the pixel cap (max_pixels)", which nobody can set."""
    picture = tmp_path / "large.png"
    Image.new("RGB", (64, 48), (9, 99, 199)).save(picture)
    with make_store(tmp_path, make_project(method="grid")) as store:
        project = store.project(4)
        assert project is not None
        reports = []
        for environ in ({"PIXBAL_MAX_PIXELS": "1000"}, {"PIXBAL_MAX_PIXELS": "4000"}):
            cut = Cut(tmp_path, "grid", 16, make_settings(tmp_path, **environ).max_pixels)
            reports.append(import_images(store, project, [Source("large", picture)], cut))
        assert len(store.images(4, status="ready")) == 1
    ((_, reason),) = reports[0].unreadable
    assert "raise PIXBAL_MAX_PIXELS" in reason


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stage_is_called_by_its_own_name(stage: str, tmp_path: Path) -> None:
    """Seen failing as it was: "Change stage.lr", which `--set` does not know."""
    for setting, value in (("lr", "-1"), ("epochs", "0"), ("batch_size", "1")):
        with pytest.raises(ConfigError) as caught:
            train_config("cpu", (f"{stage}.{setting}={value}",), 0)
        assert caught.value.message.startswith(f"{stage}.{setting} must be ")
        name = re.search(r"Change (\S+)\.$", caught.value.hint)
        assert name is not None
        assert train_config("cpu", (f"{name[1]}=3",), 0)
    file = tmp_path / "own.json"
    file.write_text(json.dumps({stage: {"power": 0}}))
    with pytest.raises(ConfigError, match=rf"^{stage}\.power must be positive"):
        train_config(str(file), (), 0)
    with pytest.raises(ConfigError, match=r"config\.stage1 must be an object"):
        TrainConfig.from_json({"stage1": 3})
    with pytest.raises(ConfigError, match=r"^stage\.lr"):
        StageConfig(lr=-1)  # nobody knows yet of which


@pytest.mark.parametrize(
    ("classes", "says", "followed"),
    [
        ([{"name": "Road", "color": "red"}], "Write it like #804080", "#804080"),
        ([{"name": "Road", "color": 7}], "Write it like #804080", "#804080"),
        ([{"name": "Road", "color": "#80408"}], "Write it like #804080", "#804080"),
    ],
)
def test_a_colour_that_is_none(
    classes: list[dict[str, object]], says: str, followed: str, tmp_path: Path
) -> None:
    """Seen failing as it was: "Run again with `pixbal --debug ...`"."""
    file = tmp_path / "classes.json"
    file.write_text(json.dumps({"classes": classes}))
    result = pixbal("init", "--images", "x", "--classes", str(file), home=tmp_path / "home")
    hint = hint_of(result)
    assert says in hint
    assert "--debug" not in result.output
    assert "LabelConfigError" not in result.output
    assert ClassSchema.from_json({"classes": [{"name": "Road", "color": followed}]})


def test_a_palette_entry_that_is_no_colour() -> None:
    for wrong in (
        {"names": ["Road"], "palette": [[1, 2]]},
        {"names": ["A"], "palette": [[1, 2, 256]]},
    ):
        with pytest.raises(LabelConfigError) as caught:
            ClassSchema.from_json(wrong)
        assert "[128, 64, 128]" in caught.value.hint


def test_no_error_made_for_people_advises_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hint it lacks. Errors that nobody made on purpose do."""
    from ml_backend import cli_common

    def fail(error: Exception) -> str:
        def raising() -> None:
            raise error

        monkeypatch.setattr(cli_common, "open_all", raising)
        result = CliRunner().invoke(main, ["status"])
        assert result.exit_code == 1
        return result.output

    for error in (LabelConfigError("no"), ConfigError("no"), BackendError("no")):
        assert fail(error) == "pixbal: no\n"
    assert "--debug" in fail(RuntimeError("no"))


def every_command(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from every_command(command)


def test_hints_name_only_options_and_settings_that_exist() -> None:
    """Every `--option` in a text of the program is one of some command."""
    options = {
        option
        for command in every_command(main)
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--debug", "--help", "--version"}
    foreign = {"--user", "--force-reinstall", "--no-deps", "--index-url"}  # of docker and pip
    checked = 0
    for path in (p for name in ("ml_backend", "label_config", "training")
                 for p in (ROOT / name).rglob("*.py")):  # fmt: skip
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg in ("hint", "help", "epilog"):
                for text in ast.walk(node.value):
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text.value))
                        assert used <= options | foreign, (path, used - options)
                        checked += len(used)
    assert checked > 10


# What `init` reports


def report(**fields: object) -> str:
    defaults: dict[str, object] = {
        "project": make_project(), "url": "http://x", "created": True,
        "images": ImportReport(3, 0, 30, ()), "connected": (), "pushed": 0,
    }  # fmt: skip
    return "\n".join(InitReport(**{**defaults, **fields}).lines())  # type: ignore[arg-type]


def test_init_says_why_it_pushed_nothing() -> None:
    """Seen failing as it was: "questions: 0 pushed, 15 open"."""
    assert "questions: 15 pushed, 15 open" in report(pushed=15, open_questions=15)
    assert "15 are open already, so none was pushed now" in report(open_questions=15)
    assert "none pushed, as --no-push asks; `pixbal push --project 4`" in report(
        asked_to_push=False
    )
    assert "see `pixbal status`" in report()


def test_a_new_project_has_a_new_label_config(tmp_path: Path) -> None:
    """Seen failing as it was: "label config: unchanged" of a project made a second ago."""
    Image.new("RGB", (64, 48), (9, 99, 199)).save(tmp_path / "a.png")
    request = InitRequest(
        classes="camvid", images=(str(tmp_path / "a.png"),), method="grid", side=16, push=False
    )
    settings = make_settings(tmp_path / "home")
    settings.home.mkdir()
    with Store.open(settings.database_url) as store:
        ls = FakeLabelStudio()
        reports = [initialise(settings, store, ls, request) for _ in range(2)]
    assert [line for line in reports[0].lines() if "label config" in line] == [
        "label config: created"
    ]
    assert "webhook: created" in reports[0].lines()
    assert "label config: unchanged" in reports[1].lines()


def test_one_seed_has_no_spread() -> None:
    """Seen failing as it was: "0.389 +- 0.000" for one seed."""
    assert with_spread([0.3891]) == "0.389"
    assert with_spread([0.30, 0.40]) == "0.350 ± 0.071"  # n - 1, as in the report
