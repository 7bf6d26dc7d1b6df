"""`pixbal init` twice, with other values, with wrong ones, and over a project that is gone."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import CommandLine, open_command_line

from training.config import CONFIGS


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return open_command_line(tmp_path, monkeypatch)


def nothing_made(line: CommandLine) -> bool:
    """No project here or there, and nothing was asked for that could be downloaded."""
    with line.store() as store:
        return not (store.projects() or line.server.projects or line.server.asked("fetch"))


# Again, with other values


@pytest.mark.guarantee(31)
def test_lower_the_learning_rate_as_the_operations_page_says(line: CommandLine) -> None:
    """Its words were: `pixbal init --set stage1.lr=...`, then `pixbal train`."""
    line.run("init", *line.images())
    said = line.run("init", *line.images()[:-2], "--set", "stage1.lr=1e-5")
    assert line.project(1).train_config["stage1"]["lr"] == CONFIGS["cpu"].stage1.lr
    assert "stage1.lr=1e-05" in said, "it was ignored without a word"
    (command,) = re.findall(r"to change them: pixbal (.+)", said)
    line.run(*shlex.split(command))
    assert line.project(1).train_config["stage1"]["lr"] == 1e-5
    # Again: now nothing differs.
    assert "kept as" not in line.run("init", *line.images()[:-2], "--set", "stage1.lr=1e-5")
    assert "nothing differs" in line.run(*shlex.split(command))


@pytest.mark.guarantee(31)
def test_every_ignored_option_is_named_and_the_command_changes_them(line: CommandLine) -> None:
    first = line.images()
    line.run("init", *first)
    said = line.run(
        "init", *first, "--budget", "7.5", "--train-every", "4", "--preticks", "never",
        "--per-image", "2", "--config", "demo", "--seed", "9",
    )  # fmt: skip
    before = line.project(1)
    assert (before.budget_clicks, before.train_every, before.preticks) == (3.0, None, "auto")
    for text in ("budget 3 (asked for 7.5)", "train-every batch (asked for 4)",
                 "preticks auto (asked for never)", "per-image auto (asked for 2)",
                 "model.head_channels=128"):  # fmt: skip
        assert text in said, (text, said)
    assert "seed 0 (asked for 9), which never changes" in said
    (command,) = re.findall(r"to change them: pixbal (.+)", said)
    line.run(*shlex.split(command))
    after = line.project(1)
    assert (after.budget_clicks, after.train_every, after.preticks) == (7.5, 4, "never")
    assert after.per_image == 2
    assert after.train_config["model"]["head_channels"] == 128
    assert after.seed == 0


def test_what_nobody_gave_is_not_asked_for(line: CommandLine) -> None:
    """The defaults of a repeated `init` are no wish; a value equal to a default, given, is one."""
    line.run("init", *line.images())
    again = ("init", *line.images()[:4])  # images and classes alone
    assert "kept as" not in line.run(*again)
    assert "budget 3 (asked for 500)" in line.run(*again, "--budget", "500")
    line.run(*again, "--side", "32", code=1)
    assert "another --side: 10, now asked for 32" in line.said


# Wrong from the start


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--config", "huge"), "unknown training config 'huge'", "cpu, demo, gpu"),
        (("--set", "stage1.rate=1"), "no setting named 'rate'", "lr"),
        (("--set", "stage1.lr=-1"), "lr must be positive rates", ""),
        (("--set", "device=cuda"), "device cannot be set", "PIXBAL_DEVICE"),
        (("--set", "seed=3"), "seed cannot be set", "--seed"),
        (("--set", "acquisition.name=best"), "acquisition.name must be one of pixbal", "name"),
        (("--set", "model.encoder=resnet9000"), "no model named 'resnet9000'", "list_models"),
        (("--set", 'model.weights="/nowhere.safetensors"'), "names no file", "imagenet"),
        (("--title", "ab"), "titles of 3 to 50 characters, got 2", "--title"),
        (("--title", "x" * 51), "titles of 3 to 50 characters, got 51", "--title"),
        (("--method", "scissors"), "'scissors' is not available", "grid"),
    ],
)
@pytest.mark.parametrize("source", ["--images", "--from-project"])
def test_wrong_options_are_found_before_anything_is_made_or_downloaded(
    line: CommandLine, source: str, options: tuple[str, ...], message: str, hint: str
) -> None:
    given = list(line.images())
    if source == "--from-project":
        given[:2] = ["--from-project", "9"]
    line.run("init", *given, *options, code=1)
    assert message in line.said
    assert hint in line.said.partition("hint:")[2]
    assert nothing_made(line)
    assert not line.server.requests, "Label Studio was asked before"


def test_weights_that_nobody_can_download_are_found_at_once(
    line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline; the gpu preset needs weights from a hub."""

    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    line.run("init", *line.images()[:-2], "--config", "gpu", code=1)
    assert "weights of resnet50s cannot be had from here: Name or service" in line.said
    assert "tf_efficientnet_lite0" in line.said
    assert nothing_made(line)
    # In the cache they need no network.
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "/cached")
    line.run("init", *line.images()[:-2], "--config", "gpu")


@pytest.mark.parametrize("source", ["--images", "--from-project"])
def test_an_init_that_reads_no_image_leaves_no_project_behind(
    line: CommandLine, source: str
) -> None:
    given = list(line.images())
    broken = line.home.parent / "broken"
    broken.mkdir()
    (broken / "holiday.jpg").write_bytes(b"no picture at all")
    given[1] = str(broken)
    if source == "--from-project":
        line.server.add_project(9, '<View><Image name="i" value="$image"/></View>')
        line.server.add_task(9, 90, {"image": "/data/upload/9/holiday.jpg"})
        line.server.files["/data/upload/9/holiday.jpg"] = b"no picture at all"
        given[:2] = ["--from-project", "9"]
    line.run("init", *given, code=1)
    assert "none of the 1 images can be read" in line.said
    assert "holiday.jpg" in line.said
    with line.store() as store:
        assert store.projects() == []
    assert set(line.server.projects) <= {9}


# Over a project that is gone


def test_init_over_the_title_of_a_deleted_project_makes_a_new_one(line: CommandLine) -> None:
    line.run("init", *line.images())
    line.server.delete_project(1)
    said = line.run("init", *line.images())
    assert "project 2: created" in said
    assert "project 1 of this title is gone in Label Studio" in said
    assert "pixbal project forget --project 1" in said
    old = line.project(1)
    assert old.trouble is not None
    assert "404" in old.trouble
    assert line.project(2).state == "active"
    # Again: the new one, and no third.
    assert "project 2: unchanged" in line.run("init", *line.images())
    assert list(line.server.projects) == [2]
    # The message works when followed.
    line.run("project", "forget", "--project", "1", "--yes")
    assert "gone" not in line.run("init", *line.images())


def test_init_with_the_id_of_a_deleted_project_says_what_to_do(line: CommandLine) -> None:
    line.run("init", *line.images())
    line.server.delete_project(1)
    line.run("init", *line.images(), "--project", "1", code=1)
    assert "pixbal project forget --project 1" in line.said
    line.run("project", "forget", "--project", "1", "--yes")
    assert "project 2: created" in line.run("init", *line.images())


def test_label_studio_being_away_is_no_deleted_project(line: CommandLine) -> None:
    line.run("init", *line.images())
    line.server.go_away()
    line.run("init", *line.images(), code=1)
    line.server.heal()
    assert line.project(1).trouble is None
    assert "project 1: unchanged" in line.run("init", *line.images())


def test_init_of_a_paused_project_says_so(line: CommandLine) -> None:
    line.run("init", *line.images())
    line.run("project", "pause")
    assert "project 1 is paused: nothing is pushed" in line.run("init", *line.images())
    assert json.loads(line.run("status", "--json"))[0]["state"] == "paused"
