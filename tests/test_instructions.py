"""What annotators read before they begin, and what `init` does with the field it stands in."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_helpers import make_image, make_project, make_settings, make_store
from fake_label_studio import FakeLabelStudio
from PIL import Image as Picture

from label_config import ClassSchema, build
from label_config.instructions import RENEWED, instructions
from ml_backend.app import create_app
from ml_backend.connect import ensure_instructions
from ml_backend.init import InitReport, InitRequest, initialise
from ml_backend.instructions import PICTURES, example_regions, project_instructions, region_detail
from ml_backend.services import Services
from ml_backend.store import Image, Project, Store
from training.regions import RegionMap

CAMVID = ClassSchema.load("camvid")


def test_it_says_what_is_asked_and_by_which_keys() -> None:
    text = instructions(CAMVID, smallest_share=0.2)
    for words in (
        "inside the bright outline",
        "at least 20 % (a fifth)</b> of the region. Leave out what covers less",
        "<b>Something else</b>: something is inside that no class names",
        "<b>Can't tell</b>",
        "<kbd>a</kbd> Sky",
        "<kbd>0</kbd> Something else, <kbd>x</kbd> Can't tell",
        "<kbd>Ctrl</kbd>+<kbd>Enter</kbd> sends",
    ):
        assert words in text
    assert "Shift" not in text
    assert "style=" not in text
    assert RENEWED in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "there", "absent"),
    [
        ({"smallest_share": 0.0}, "however little of the region", "at least"),
        ({"smallest_share": 0.125}, "at least 12.5 %</b>", "a fifth"),
        ({"template": "region_dominant", "smallest_share": 0.2}, "covers most</b>", "20 %"),
        ({"undefined_alias": "none"}, "<b>Nothing listed</b>: none of", "Something else"),
        (
            {"pictures": ["/data/local-files/?d=a&b"]},
            '<img src="/data/local-files/?d=a&amp;b"',
            "ü",
        ),
    ],
)
def test_it_follows_the_project(options: dict[str, Any], there: str, absent: str) -> None:
    text = instructions(CAMVID, **options)
    assert there in text
    assert absent not in text


def test_without_undefined_there_is_no_something_else() -> None:
    text = instructions(ClassSchema.load("voc2012"))
    assert "Something else" not in text
    assert "<kbd>0</kbd>" not in text


def test_more_classes_than_keys_are_found_by_name() -> None:
    text = instructions(ClassSchema.of([f"class {i}" for i in range(40)]))
    assert "<kbd>Shift</kbd>+<kbd>F</kbd>" in text
    assert text.count("<kbd>") == 28 + 2 + 4 + 5


@pytest.mark.guarantee(20)
def test_class_names_are_text() -> None:
    assert "&lt;script&gt; &amp; x" in instructions(ClassSchema.of(["<script> & x"]))


# Pictures


def noisy(folder: Path, number: int, place: int) -> Image:
    """A grey picture of six regions, one of which holds detail."""
    rng = np.random.default_rng(number)
    ids = np.broadcast_to(np.arange(96) // 16, (32, 96)).astype(np.int32)
    pixels = np.full((32, 96, 3), 128, np.uint8)
    pixels[:, 16 * place : 16 * place + 16] = rng.integers(0, 255, (32, 16, 3))
    name = f"{number:024x}"
    Picture.fromarray(pixels).save(folder / f"{name}.png")
    regions = RegionMap(ids.copy(), 6, "grid", {})
    regions.save(folder / f"{name}.npz")
    return make_image(
        4, name, source=f"{name}.png", path=str(folder / f"{name}.png"), width=96, height=32,
        regions_path=str(folder / f"{name}.npz"), regions_hash=regions.hash, region_count=6,
    )  # fmt: skip


def test_examples_hold_detail_and_come_from_different_images(tmp_path: Path) -> None:
    images = [noisy(tmp_path, n, n % 6) for n in range(9)]
    place = {image.image_id: n % 6 for n, image in enumerate(images)}
    found = example_regions(images, seed=3)
    assert len({image.image_id for image, _ in found}) == PICTURES
    assert [index for _, index in found] == [place[image.image_id] for image, _ in found]
    assert example_regions(images[::-1], seed=3) == found
    assert any(example_regions(images, seed=s) != found for s in range(5))


def test_one_image_gives_three_of_its_own_regions(tmp_path: Path) -> None:
    found = example_regions([noisy(tmp_path, 1, 2)], seed=0)
    indices = [index for _, index in found]
    assert indices[0] == 2
    assert len(set(indices)) == PICTURES


def test_slivers_and_missing_files_are_no_examples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (8, 33, 3)).astype(np.uint8)
    ids = np.minimum(np.broadcast_to(np.arange(33) // 16, (8, 33)), 2).astype(np.int32)
    detail = region_detail(image, RegionMap(ids.copy(), 3, "grid", {}))
    assert detail[2] == 0.0
    assert np.allclose(detail[0], image[:, :16].astype(float).mean(axis=2).std())
    gone = replace(noisy(tmp_path, 1, 2), path=str(tmp_path / "gone.png"))
    assert example_regions([gone], seed=0) == []


def sources(text: str) -> list[str]:
    return re.findall(r'<img src="([^"]+)"', text)


def test_the_pictures_can_be_fetched(tmp_path: Path) -> None:
    settings, store = make_settings(tmp_path / "home"), make_store(tmp_path)
    store.add_images([noisy(tmp_path, n, n % 6) for n in range(4)])
    (project,) = store.projects()
    text = project_instructions(settings, store, project)
    assert text == project_instructions(settings, store, project)
    client = create_app(Services(settings, store)).test_client()
    assert len(sources(text)) == PICTURES
    for address in sources(text):
        path = address.removeprefix(settings.public_url)
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (200, "image/jpeg")


def test_the_pictures_lie_where_label_studio_serves_them_from(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    settings = make_settings(
        tmp_path / "home", PIXBAL_MEDIA="local-files", PIXBAL_LOCAL_FILES_ROOT=str(root)
    )
    store = make_store(tmp_path)
    store.add_images([noisy(tmp_path, n, n % 6) for n in range(4)])
    (project,) = store.projects()
    for address in sources(project_instructions(settings, store, project)):
        file = root / address.removeprefix("/data/local-files/?d=")
        assert file.read_bytes().startswith(b"\xff\xd8")  # JPEG


# The field


def test_the_field_is_set_once_renewed_and_left_to_who_changed_it() -> None:
    ls = FakeLabelStudio()
    ls.server.add_project(4, make_project().label_config)
    first, second = instructions(CAMVID), instructions(CAMVID, smallest_share=0.2)

    def there() -> tuple[str, bool]:
        found = ls.project(4)
        return found["expert_instruction"], found["show_instruction"]

    assert ensure_instructions(ls, 4, first) == "created"
    assert there() == (first, True)
    assert ensure_instructions(ls, 4, first) == "unchanged"
    ls.update_project(4, show_instruction=False)  # switched off by an admin
    assert ensure_instructions(ls, 4, second) == "updated"
    assert there() == (second, False)
    own = second.replace(RENEWED, "")
    ls.update_project(4, expert_instruction=own)
    assert ensure_instructions(ls, 4, first) == "unchanged"
    assert there() == (own, False)


# pixbal init


def init(
    tmp_path: Path, ls: FakeLabelStudio, store: Store, classes: object, **more: Any
) -> InitReport:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps(classes))
    picture = tmp_path / "photos" / "a.png"
    picture.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    Picture.fromarray(pixels).save(picture)
    request = InitRequest(
        classes=str(file), images=(str(picture.parent),), method="grid", push=False, **more
    )
    return initialise(make_settings(tmp_path / "home"), store, ls, request)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path}/pixbal.db")


def the_project(store: Store) -> Project:
    (project,) = store.projects()
    return project


def test_a_new_project_leaves_out_small_shares_and_says_so(tmp_path: Path, store: Store) -> None:
    ls = FakeLabelStudio()
    fields = ls.project(init(tmp_path, ls, store, ["Road", "Sky"]).project.id)
    assert the_project(store).smallest_share == 0.2
    assert "covers at least 20 % of the outline" in fields["label_config"]
    assert "at least 20 %" in fields["expert_instruction"]
    assert len(sources(fields["expert_instruction"])) == PICTURES
    assert fields["show_instruction"] is True
    again = init(tmp_path, ls, store, ["Road", "Sky"])
    assert ("instructions", "unchanged") in again.connected


def test_every_class_counts_where_asked(tmp_path: Path, store: Store) -> None:
    ls = FakeLabelStudio()
    report = init(tmp_path, ls, store, ["Road", "Sky"], smallest_share=0.0)
    fields = ls.project(report.project.id)
    assert the_project(store).smallest_share == 0.0
    assert "Tick every class inside the outline" in fields["label_config"]


def test_a_project_of_0_1_keeps_keys_colours_and_meaning(tmp_path: Path, store: Store) -> None:
    """`init` again with the same list of names, which today would get other keys and colours."""
    names = ["Road", "Sky"]
    old = ClassSchema.from_json({
        "classes": [{"name": "Road", "color": "#e61717", "hotkey": "1"},
                    {"name": "Sky", "color": "#73ff7d", "hotkey": "2"}],
        "undefined": True,
    })  # fmt: skip
    assert old != ClassSchema.of(names)
    config = build(old, undefined_alias="none")
    store.add_project(
        make_project(4, old, label_config=config, title="PixBal regions", method="grid")
    )
    ls = FakeLabelStudio()
    ls.server.add_project(4, config)
    report = init(tmp_path, ls, store, names)
    assert not report.created
    assert the_project(store).schema_json == old.to_json()
    fields = ls.project(4)
    assert fields["label_config"] == config
    text = fields["expert_instruction"]
    assert "<kbd>1</kbd> Road, <kbd>2</kbd> Sky, <kbd>0</kbd> Nothing listed" in text
    assert "however little" in text


def test_colours_that_look_alike_are_warned_of(tmp_path: Path, store: Store) -> None:
    classes = {"classes": [{"name": "car", "color": "#0000ff"}, {"name": "bus", "color": "#0000fe"},
                           {"name": "tree", "color": "#00ff00"}]}  # fmt: skip
    lines = "\n".join(init(tmp_path, FakeLabelStudio(), store, classes).lines())
    assert "warning: classes whose colours look alike: 'car' and 'bus' (#0000ff, #0000fe)" in lines
    assert "tree" not in lines


def test_colours_of_a_published_list_or_filled_in_are_not(tmp_path: Path, store: Store) -> None:
    report = init(tmp_path, FakeLabelStudio(), store, [f"class {i}" for i in range(100)])
    assert report.warnings == ()
