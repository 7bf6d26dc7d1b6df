"""`pixbal project show|set`: every setting, checked as a whole before any of it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from backend_helpers import make_project, make_settings, make_store
from command_line import CommandLine, open_command_line
from fake_label_studio import FakeLabelStudio

from label_config import read
from ml_backend.change_project import change_project
from ml_backend.errors import BackendError, Conflict, NotFound
from ml_backend.locks import file_lock, project_lock
from ml_backend.project_settings import SETTINGS, WrongSettings, fixed_settings
from ml_backend.store import Store
from ml_backend.train_settings import check_model_aside, preset_of
from training.config import CONFIGS, ModelConfig, TrainConfig
from training.errors import ConfigError


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A command line with project 4, here and in Label Studio."""
    line = open_command_line(tmp_path, monkeypatch)
    project = make_project(4, title="street scenes", train_config=CONFIGS["cpu"].to_json())
    make_store(line.home, project).close()
    line.server.add_project(4, project.label_config, title="street scenes")
    return line


CHANGES: dict[str, tuple[str, object]] = {
    "title": ("Roads of Lund", "Roads of Lund"),
    "budget": ("250", 250.0),
    "train-every": ("40", 40),
    "per-image": ("0", 0),
    "preticks": ("never", "never"),
    "smallest-share": ("0.25", 0.25),
}


@pytest.mark.guarantee(31)
def test_every_setting_can_be_changed(line: CommandLine) -> None:
    assert set(CHANGES) == set(SETTINGS), "a setting has no example here"
    for name, (text, value) in CHANGES.items():
        said = line.run("project", "set", f"--{name}", text)
        assert getattr(line.project(4), SETTINGS[name].column) == value
        assert f"{name}: " in said
        assert SETTINGS[name].when in said, "when it takes effect is not said"
        # Twice: nothing differs, and nothing is asked of Label Studio.
        asked = len(line.server.requests)
        assert "nothing differs" in line.run("project", "set", f"--{name}", text)
        assert len(line.server.requests) == asked


def test_all_at_once_and_all_shown(line: CommandLine) -> None:
    options = [word for name, (text, _) in CHANGES.items() for word in (f"--{name}", text)]
    line.run("project", "set", *options, "--config", "demo", "--set", "stage2.lr=3e-4")
    shown = json.loads(line.run("project", "show", "--json"))
    assert {name: shown[name] for name in CHANGES} == {n: text for n, (text, _) in CHANGES.items()}
    assert shown["train_config"]["stage2"]["lr"] == 3e-4
    text = line.run("project", "show")
    for name, (value, _) in CHANGES.items():
        assert f"--{name} {value}" in text
    assert "--config demo" in text
    assert "--set stage2.lr=0.0003" in text
    for item in fixed_settings(line.project(4)):
        assert f"{item.name}: " in text
        assert item.why[:40] in text


def test_the_values_that_mean_none(line: CommandLine) -> None:
    for given, column in (("train-every", "train_every"), ("per-image", "per_image")):
        line.run("project", "set", f"--{given}", "7")
        assert getattr(line.project(4), column) == 7
    line.run("project", "set", "--train-every", "batch", "--per-image", "auto")
    row = line.project(4)
    assert (row.train_every, row.per_image) == (None, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("title", "ab"), ("title", " a "), ("title", "x" * 51), ("title", "a\tb\nc"),
        ("budget", "0"), ("budget", "-3"), ("budget", "nan"), ("budget", "inf"), ("budget", "many"),
        ("budget", ""), ("train-every", "0"), ("train-every", "2.5"), ("train-every", "-1"),
        ("train-every", "9" * 30), ("per-image", "-1"), ("per-image", "x"), ("per-image", "²"),
        ("preticks", "sometimes"), ("preticks", ""), ("smallest-share", "1.5"),
        ("smallest-share", "-0.1"), ("smallest-share", "a fifth"),
    ],
)  # fmt: skip
def test_nothing_is_written_where_one_value_is_wrong(
    line: CommandLine, name: str, text: str
) -> None:
    """With a right value before and after it."""
    before = line.project(4)
    right = [word for n, (t, _) in CHANGES.items() if n != name for word in (f"--{n}", t)]
    line.run("project", "set", *right[:4], f"--{name}={text}", *right[4:], code=1)
    assert line.said.startswith(f"pixbal: {name}: ")
    assert line.project(4) == before
    assert not line.server.asked("update_project")


def test_every_fault_is_named_at_once(line: CommandLine) -> None:
    line.run("project", "set", "--budget", "0", "--preticks", "maybe", "--set", "stage1.lr=x",
             code=1)  # fmt: skip
    for name in ("budget: ", "preticks: ", "set: stage1.lr"):
        assert name in line.said
    assert "hint: Nothing was changed" in line.said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "stage1.speed=3"), "no setting named 'speed'"),
        (("--set", "stage1.lr"), "name=value"),
        (("--set", "threads=2"), "PIXBAL_THREADS"),
        (("--set", "acquisition.name=best"), "acquisition.name must be one of"),
        (("--set", "model.encoder=resnet9000"), "no model named 'resnet9000'"),
        (("--config", "huge"), "unknown training config 'huge'"),
    ],
)
def test_training_settings_are_checked(
    line: CommandLine, options: tuple[str, ...], message: str
) -> None:
    before = line.project(4)
    line.run("project", "set", "--budget", "9", *options, code=1)
    assert message in line.said
    assert line.project(4) == before


def test_overrides_change_what_is_there_and_a_preset_replaces_it(line: CommandLine) -> None:
    line.run("project", "set", "--set", "stage1.lr=1e-4")
    line.run("project", "set", "--set", "stage1.epochs=3")
    stage = line.project(4).train_config["stage1"]
    assert (stage["lr"], stage["epochs"]) == (1e-4, 3)
    line.run("project", "set", "--config", "demo")
    assert line.project(4).train_config["stage1"]["lr"] == CONFIGS["demo"].stage1.lr


def test_the_seed_of_the_project_outlives_a_preset(line: CommandLine) -> None:
    with line.store() as store:
        config = CONFIGS["cpu"].with_overrides(["seed=7"]).to_json()
        store.update_project(4, seed=7, train_config=config)
    line.run("project", "set", "--config", "demo")
    assert line.project(4).train_config["seed"] == 7


def test_the_title_is_changed_in_label_studio_too(line: CommandLine) -> None:
    line.run("project", "set", "--title", "  Roads of Lund ")
    assert line.server.projects[4].fields["title"] == "Roads of Lund"
    # `init` finds the project by its new title, so no two may have one.
    with line.store() as store:
        store.add_project(make_project(5, title="fields"))
    line.run("project", "set", "--project", "5", "--title", "Roads of Lund", code=1)
    assert "project 4 has this title" in line.said


def test_label_studio_gone_stops_only_what_it_shows(line: CommandLine) -> None:
    line.server.go_away()
    line.run("project", "set", "--budget", "12")
    assert line.project(4).budget_clicks == 12.0
    line.run("project", "set", "--budget", "13", "--title", "Roads of Lund", code=1)
    assert "No answer from Label Studio" in line.said
    row = line.project(4)
    assert (row.budget_clicks, row.title) == (12.0, "street scenes"), "half of it was written"


def test_the_smallest_share_warns_and_keeps_the_choices(line: CommandLine) -> None:
    before = read(line.project(4).label_config)
    said = line.run("project", "set", "--smallest-share", "0.3")
    assert "warning: from now on annotators are told otherwise" in said
    row = line.project(4)
    assert line.server.projects[4].fields["label_config"] == row.label_config
    after = read(row.label_config)
    assert (after.schema, after.template) == (before.schema, before.template)
    assert "covers at least 30 % of" in row.label_config
    assert "30 %" in line.server.projects[4].fields["expert_instruction"]


def test_fixed_settings_say_why(tmp_path: Path) -> None:
    with make_store(tmp_path) as store:
        for fixed in fixed_settings(make_project()):
            with pytest.raises(WrongSettings) as caught:
                change(store, {fixed.name: "1"})
            assert caught.value.faults == {fixed.name: fixed.why}
            # Classes can be added, so "never changes" alone would mislead.
            assert ("`pixbal classes append`" in fixed.why) == (fixed.name == "classes")
        with pytest.raises(WrongSettings, match="there are title, budget"):
            change(store, {"colour": "red"})


def change(store: Store, wanted: dict[str, str], project_id: int = 4, **more: object) -> list[str]:
    settings = make_settings(Path("unused"))
    return change_project(
        settings, store, FakeLabelStudio, project_id, wanted, check_model=refuse, **more  # type: ignore[arg-type]
    )  # fmt: skip


def refuse(config: ModelConfig) -> None:
    """The model that a test asks for must not be looked for."""
    raise AssertionError(config)


def test_only_another_model_is_looked_for(tmp_path: Path) -> None:
    """A worker may have weights that this machine has not."""
    config = CONFIGS["gpu"].to_json()
    with make_store(tmp_path, make_project(4, train_config=config)) as store:
        change(store, {}, overrides=["stage1.lr=1e-5"])
        with pytest.raises(AssertionError):
            change(store, {}, overrides=["model.encoder=resnet18"])


def test_projects_without_settings(tmp_path: Path) -> None:
    masks = make_project(5, template="image_masks", label_config="<View/>", title="masks")
    with make_store(tmp_path, make_project(4), masks) as store:
        with pytest.raises(Conflict, match="shows masks"):
            change(store, {"budget": "3"}, project_id=5)
        with pytest.raises(NotFound):
            change(store, {"budget": "3"}, project_id=6)


def test_a_running_round_keeps_its_settings(tmp_path: Path) -> None:
    frozen = CONFIGS["cpu"].to_json()
    with make_store(tmp_path, make_project(4, train_config=frozen)) as store:
        store.start_round(4, 1, "labels", "w1")
        store.update_round(4, 1, state="stage1", train_config=frozen)
        said = change(store, {}, overrides=["stage1.lr=1e-5"])
        row = store.round(4, 1)
        assert row is not None
        assert row.train_config == frozen
        assert "One that runs keeps what it began with" in said[0]


def test_the_model_is_checked_in_a_process_of_its_own() -> None:
    check_model_aside(ModelConfig(weights="none"))
    with pytest.raises(ConfigError, match="no model named 'resnet9000'"):
        check_model_aside(ModelConfig(encoder="resnet9000"))


def test_a_model_check_that_breaks_is_no_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BackendError, match="cannot be checked"):
        check_model_aside(ModelConfig())


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_presets_are_recognised(name: str) -> None:
    config = CONFIGS[name].with_overrides(["stage2.lr=1e-3", "seed=5"])
    found, changed = preset_of(config.to_json())
    assert found == name
    assert TrainConfig.named(found).with_overrides([*changed, "seed=5"]) == config


def test_without_a_wish_the_command_says_how(line: CommandLine) -> None:
    line.run("project", "set", code=2)
    assert "pixbal project show" in line.said


def test_help_names_every_setting(line: CommandLine) -> None:
    options = set(re.findall(r"--([a-z-]+)", line.run("project", "set", "--help")))
    assert options >= set(SETTINGS) | {"config", "set", "project"}


def test_a_share_is_not_changed_while_classes_are_appended(line: CommandLine) -> None:
    """Both change the labelling setup; one of them would have written the other's away.

    Seen failing (the setup was written meanwhile) with nothing held.
    """
    before = line.project(4)
    with file_lock(project_lock(line.home, 4), what="import into 4"):
        said = line.run("project", "set", "--smallest-share", "0.25", code=1)
        assert "already running" in said
        assert line.project(4) == before
        # What does not concern the setup does not wait.
        line.run("project", "set", "--budget", "7")
    line.run("project", "set", "--smallest-share", "0.25")
    assert line.project(4).smallest_share == 0.25
