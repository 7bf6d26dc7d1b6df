"""Classes are appended: what is stored, or known by heart, stays as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from backend_helpers import (
    IMAGE_ID,
    make_image,
    make_project,
    make_query,
    make_schema,
    make_settings,
    make_store,
)
from click.testing import CliRunner
from fake_label_studio import FakeLabelStudio
from PIL import Image as PILImage

from label_config import (
    Answer,
    ClassSchema,
    LabelConfigError,
    answer_result,
    build,
    read,
    read_answer,
)
from label_config.append import appended
from label_config.builder import append_to_setup
from ml_backend.classes import append_classes
from ml_backend.cli import main
from ml_backend.errors import BackendError, Conflict
from ml_backend.heldout import read_heldout
from ml_backend.init import InitRequest, _check_unchanged
from ml_backend.label_studio import LabelStudio
from ml_backend.processes import LabelStudioServer
from ml_backend.push import _rescore_open
from ml_backend.queries import plan_queries, scored_names
from ml_backend.store import Project, Store
from training.images import read_mask
from training.pool_scores import ImageScores, PoolScores


def label_studio(store: Store) -> FakeLabelStudio:
    ls = FakeLabelStudio()
    ls.server.add_project(4, row(store).label_config)
    return ls


def setup(ls: FakeLabelStudio) -> str:
    """The labelling setup that Label Studio has."""
    return str(ls.server.project(4).fields["label_config"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path, make_project(schema=make_schema("Road", "Sky")))


def row(store: Store) -> Project:
    found = store.project(4)
    assert found is not None
    return found


def append(store: Store, home: Path, ls: Any, *names: str) -> Any:
    return append_classes(make_settings(home), store, ls, row(store), names)


def test_indices_keys_and_colours_of_the_others_stay() -> None:
    before = make_schema("Road", "Sky")
    after = appended(before, ["Tram", "Car"])
    assert after.names == ("Road", "Sky", "Tram", "Car")
    assert after.classes[:2] == before.classes
    keys = [c.hotkey for c in after.classes]
    assert None not in keys
    assert len(set(keys)) == 4
    assert len({c.color for c in after.classes}) == 4
    assert appended(before, ["Tram"], ["#123456"]).classes[2].color == "#123456"


def test_keys_given_by_hand_are_not_given_again() -> None:
    own = {"name": "Road", "color": "#804080", "hotkey": "2"}
    before = ClassSchema.from_json({"classes": [own, {"name": "Sky", "color": "#808080"}]})
    after = appended(before, ["Tram"])
    assert after.classes[0].hotkey == "2"
    assert after.classes[2].hotkey not in (None, "2")


@pytest.mark.parametrize("name", ["Road", "", "Can't tell", "a\nb"])
def test_names_that_no_class_can_have_change_nothing(
    name: str, store: Store, tmp_path: Path
) -> None:
    before, ls = row(store), label_studio(store)
    with pytest.raises(LabelConfigError):
        append(store, tmp_path, ls, "Tram", name)
    assert row(store) == before
    assert setup(ls) == before.label_config


@pytest.mark.parametrize("template", ["region_multiclass", "region_dominant"])
@pytest.mark.parametrize("undefined", [True, False])
def test_the_setup_is_the_one_of_all_classes(template: str, undefined: bool) -> None:
    before = make_schema("Road", "Sky", undefined=undefined)
    after = appended(before, ["Tram"])
    setup = append_to_setup(build(before, template), after)
    assert setup == build(after, template)
    assert read(setup).schema == after
    assert append_to_setup(setup, after) == setup


@pytest.mark.parametrize("template", ["region_multiclass", "region_dominant"])
def test_a_class_beyond_the_keys_brings_the_search_field(template: str) -> None:
    before = make_schema(*(f"class {i}" for i in range(27)))
    after = appended(before, ["Tram", "Bus", "Boat"])
    assert [c.hotkey is None for c in after.classes[27:]] == [False, True, True]
    setup = append_to_setup(build(before, template), after)
    assert setup == build(after, template)
    assert append_to_setup(setup, after) == setup


@pytest.mark.parametrize("alias", ["other", "none"])
def test_the_answer_beside_the_classes_keeps_its_meaning(alias: str) -> None:
    before = make_schema("Road", "Sky")
    after = appended(before, ["Tram"])
    setup = append_to_setup(build(before, undefined_alias=alias), after)
    assert setup == build(after, undefined_alias=alias)
    taken = appended(before, ["Something else"])
    if alias == "other":
        with pytest.raises(LabelConfigError, match="taken"):
            append_to_setup(build(before), taken)


def test_the_instructions_name_the_new_key(store: Store, tmp_path: Path) -> None:
    ls = label_studio(store)
    append(store, tmp_path, ls, "Tram")
    key = ClassSchema.from_json(row(store).schema_json).classes[-1].hotkey
    assert f"<kbd>{key}</kbd> Tram" in ls.project(4)["expert_instruction"]


def test_the_first_list_without_colours_fits_a_project_of_0_1_with_more_classes(
    store: Store, tmp_path: Path
) -> None:
    """Neither its keys nor its colours are those that a new project would get."""
    old = ClassSchema.from_json({
        "classes": [{"name": "Road", "color": "#e61717", "hotkey": "1"},
                    {"name": "Sky", "color": "#73ff7d", "hotkey": "2"}],
    })  # fmt: skip
    store.update_project(4, schema_json=old.to_json(), label_config=build(old))
    append(store, tmp_path, label_studio(store), "Tram")
    for names in ('["Road", "Sky"]', '["Road", "Sky", "Tram"]'):
        listing = tmp_path / "classes.json"
        listing.write_text(names)
        project = row(store)
        request = InitRequest(classes=str(listing), side=project.side_px, method=project.method)
        _check_unchanged(project, request)
    listing.write_text('["Sky", "Road"]')
    with pytest.raises(Conflict, match="another --classes"):
        _check_unchanged(row(store), request)


def test_a_setup_with_changed_texts_keeps_them() -> None:
    before = make_schema("Road", "Sky")
    setup = build(before).replace("Tick every class", "Kreuze jede Klasse an")
    after = append_to_setup(setup, appended(before, ["Tram"]))
    assert "Kreuze jede Klasse an" in after
    assert read(after).schema.names == ("Road", "Sky", "Tram")
    with pytest.raises(LabelConfigError, match="other classes"):
        append_to_setup(setup, make_schema("Sky", "Road", "Tram"))


def test_beyond_the_keys_the_setup_gets_its_search_field() -> None:
    """Classes without a key are found by their names; a setup of few classes has no such field."""
    before = make_schema(*(f"class {n}" for n in range(28)))
    after = appended(before, ["one more"])
    assert after.classes[28].hotkey is None
    assert "<Filter" not in build(before)
    assert append_to_setup(build(before), after) == build(after)
    assert append_to_setup(build(before), after).count("<Filter") == 1
    more = appended(after, ["another"])
    assert append_to_setup(build(after), more) == build(more)


def test_a_setup_of_an_earlier_release_keeps_its_choices() -> None:
    before = make_schema("Road", "Sky")
    old = build(before, undefined_alias="none")
    after = append_to_setup(old, appended(before, ["Tram"]))
    assert read(after).undefined_alias == "none"
    assert after == build(appended(before, ["Tram"]), undefined_alias="none")


def test_answers_from_before_are_read_as_before() -> None:
    before = make_schema("Road", "Sky")
    after = appended(before, ["Tram"])
    for answer in (Answer("classes", ("Sky",)), Answer("nothing"), Answer("unsure")):
        assert read_answer(answer_result(answer, before), after) == answer


def test_appending_updates_project_and_label_studio(store: Store, tmp_path: Path) -> None:
    ls = label_studio(store)
    report = append(store, tmp_path, ls, "Tram")
    now = row(store)
    assert report.new
    assert ClassSchema.from_json(now.schema_json).names == ("Road", "Sky", "Tram")
    assert list(now.classes_added) == ["Tram"]
    assert setup(ls) == now.label_config
    assert read(now.label_config).schema.names == ("Road", "Sky", "Tram")
    again = append(store, tmp_path, ls, "Tram")
    assert not again.new
    assert row(store) == now
    append(store, tmp_path, ls, "Car")
    assert set(row(store).classes_added) == {"Tram", "Car"}
    assert row(store).classes_added["Tram"] == now.classes_added["Tram"]


def test_with_label_studio_gone_it_goes_on_when_called_again(store: Store, tmp_path: Path) -> None:
    ls = label_studio(store)
    ls.server.go_away()
    with pytest.raises(BackendError, match="has not got them") as caught:
        append(store, tmp_path, ls, "Tram")
    assert caught.value.hint == "Run it again."
    ls.server.heal()
    append(store, tmp_path, ls, "Tram")
    assert setup(ls) == row(store).label_config
    assert ClassSchema.from_json(row(store).schema_json).names == ("Road", "Sky", "Tram")


def test_void_of_old_masks_does_not_become_the_new_class(store: Store, tmp_path: Path) -> None:
    """Masks of 0.1.0 may store void as the number of classes. Seen failing: void was Tram."""
    path = tmp_path / "m.png"
    PILImage.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).save(path)
    store.add_images([make_image(split="heldout", mask_path=str(path))])
    report = append(store, tmp_path, label_studio(store), "Tram")
    (image,) = store.images(4, split="heldout")
    assert read_mask(Path(image.mask_path or "")).tolist() == [[0, 1, 255, 255]]
    assert any("1 held-out images were made without" in line for line in report.lines())


def test_the_undefined_share_is_not_ticked_as_the_new_class(store: Store) -> None:
    """A version from before has the undefined output at the new class's place."""
    after = appended(make_schema("Road", "Sky"), ["Tram"])
    presence = np.array([[0.1, 0.1, 0.8]], np.float16)  # Road, Sky, undefined
    scores = PoolScores(
        {"a" * 24: ImageScores(np.ones(1), np.ones(1, np.float32), presence)}, "r1", "pixbal"
    )
    assert scored_names(after, scores) == ("Road", "Sky")
    (query,) = plan_queries(
        row(store), [make_image(image_id="a" * 24, region_count=1)], [], scores,
        scored_names(after, scores), round_number=2, model_version="r1", budget_clicks=5.0,
    )  # fmt: skip
    assert query.preticks == ()
    wide = PoolScores(
        {"a": ImageScores(np.ones(1), np.ones(1, np.float32), np.ones((1, 4), np.float16))},
        "r2", "pixbal",
    )  # fmt: skip
    assert scored_names(after, wide) == ("Road", "Sky", "Tram")
    empty = PoolScores({}, None, "pixbal")
    assert scored_names(after, empty) == ("Road", "Sky", "Tram")


def test_open_questions_get_no_tick_of_the_undefined_share(store: Store, tmp_path: Path) -> None:
    """A version from before scores them anew. Seen failing: Tram was ticked everywhere."""
    ls = label_studio(store)
    store.add_images([make_image(region_count=1)])
    store.plan_queries([make_query(4, 0)])
    store.set_task_ids({q.id: 7 for q in store.queries(4)})
    ls.server.add_task(4, 7, {})
    append(store, tmp_path, ls, "Tram")
    presence = np.array([[0.1, 0.6, 0.3]], np.float16)  # Road, Sky, undefined
    rows = {IMAGE_ID: ImageScores(np.ones(1), np.ones(1, np.float32), presence)}
    _rescore_open(store, ls, row(store), "r1", PoolScores(rows, "r1", "pixbal"))
    assert [q.preticks for q in store.queries(4)] == [("Sky",)]


def test_init_takes_the_first_list_and_the_longer_one(store: Store, tmp_path: Path) -> None:
    append(store, tmp_path, label_studio(store), "Tram")
    now = row(store)
    listing = tmp_path / "classes.json"
    request = InitRequest(classes=str(listing), side=now.side_px, method=now.method)
    for schema in (make_schema("Road", "Sky"), ClassSchema.from_json(now.schema_json)):
        listing.write_text(json.dumps(schema.to_json()))
        _check_unchanged(now, request)
    listing.write_text('["Road", "Sky", "Bus"]')
    with pytest.raises(Conflict, match="--classes") as caught:
        _check_unchanged(now, request)
    assert "pixbal classes append" in caught.value.hint


def test_held_out_masks_may_hold_the_new_class(store: Store, tmp_path: Path) -> None:
    append(store, tmp_path, label_studio(store), "Tram")
    for kind in ("images", "masks"):
        (tmp_path / "h" / kind).mkdir(parents=True)
    PILImage.new("RGB", (3, 1)).save(tmp_path / "h" / "images" / "a.png")
    mask = PILImage.fromarray(np.array([[0, 1, 2]], np.uint8))
    mask.save(tmp_path / "h" / "masks" / "a.png")
    schema = ClassSchema.from_json(row(store).schema_json)
    assert read_heldout(str(tmp_path / "h"), schema, 100).warnings == ()


def test_the_commands(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXBAL_HOME", str(tmp_path))
    ls = label_studio(store)
    monkeypatch.setattr("ml_backend.label_studio.LabelStudio.of", lambda *_: ls)
    done = CliRunner().invoke(main, ["classes", "append", "Tram, Car", "--color", "#112233",
                                     "--color", "#445566"])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "appended Tram: key d, colour #112233" in done.output
    listed = CliRunner().invoke(main, ["classes", "list"]).output.splitlines()
    assert [line.split()[3] for line in listed] == ["Road", "Sky", "Tram", "Car"]
    assert "appended 20" in listed[3]
    assert CliRunner().invoke(main, ["classes", "append", "Road"]).exit_code == 1


@pytest.mark.server
@pytest.mark.slow
def test_label_studio_takes_a_class_while_answers_exist(
    label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    """A real one refuses setups that answers no longer fit; it takes a longer list."""
    ls = LabelStudio(label_studio.url, label_studio.token)
    first = make_project(schema=make_schema("Road", "Sky"))
    number = ls.create_project("appended classes", first.label_config)
    (task,) = ls.import_tasks(number, [{"data": {"crop": "/c.jpg", "locator": "/l.jpg"}}])

    def answer(alias: str) -> None:
        result = {"from_name": "classes", "to_name": "region", "type": "choices",
                  "value": {"choices": [alias]}}  # fmt: skip
        requests.post(
            f"{label_studio.url}/api/tasks/{task}/annotations/",
            json={"result": [result]},
            headers={"Authorization": f"Token {label_studio.token}"},
            timeout=60,
        ).raise_for_status()

    answer("1")
    store = make_store(tmp_path, replace(first, id=number))
    project = store.project(number)
    assert project is not None
    append_classes(make_settings(tmp_path), store, ls, project, ["Tram"])
    config = str(ls.project(number)["label_config"])
    assert read(config).schema.names == ("Road", "Sky", "Tram")
    answer("2")
    schema = ClassSchema.from_json((store.project(number) or project).schema_json)
    found = [read_answer(a["result"], schema).classes for a in ls.annotations(task)]
    assert sorted(found) == [("Sky",), ("Tram",)]
    ls.delete_project(number)
    ls.close()
