"""What `pixbal init` makes of the images it is given, before and after a project is there."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_helpers import make_settings
from fake_label_studio import FakeLabelStudio
from PIL import Image

from ml_backend.classes import append_classes
from ml_backend.errors import BackendError
from ml_backend.images import find_images, remove_images
from ml_backend.init import InitReport, InitRequest, initialise
from ml_backend.settings import Settings
from ml_backend.store import Store

H, W = 16, 24


@dataclass
class Site:
    root: Path
    settings: Settings
    store: Store
    ls: FakeLabelStudio

    def init(self, **fields: Any) -> InitReport:
        request = InitRequest(
            classes=str(self.root / "classes.json"), images=(str(self.root / "data"),),
            method="grid", side=8, push=False,
        )  # fmt: skip
        return initialise(self.settings, self.store, self.ls, replace(request, **fields))


def write(path: Path, seed: int, mask: bool = False, value: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (H, W, 3), np.uint8)
    if mask:
        pixels = np.zeros((H, W), np.uint8)
        pixels[:4] = value
    Image.fromarray(pixels).save(path)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two photos beside their masks, and one held-out image."""
    for number in range(2):
        write(tmp_path / "data" / "images" / f"{number}.png", number)
        write(tmp_path / "data" / "masks" / f"{number}.png", 0, mask=True)
    write(tmp_path / "held" / "images" / "h.png", 9)
    write(tmp_path / "held" / "masks" / "h.png", 0, mask=True)
    (tmp_path / "classes.json").write_text('["Road", "Sky"]')
    home = tmp_path / "home"
    home.mkdir()
    settings = make_settings(home)
    return Site(tmp_path, settings, Store.open(settings.database_url), FakeLabelStudio())


def test_masks_beside_the_photos_are_left_out_with_a_word(site: Site) -> None:
    """People were asked about masks. Seen failing: a mask was the third image of the pool."""
    report = site.init(heldout=str(site.root / "held"))
    assert (report.images.added, report.images.heldout) == (3, 1)
    text = "\n".join(report.lines())
    assert "images: 2 added, 0 known, 0 refused" in text
    assert "1 held-out added" in text
    assert "masks/ left out: masks are no photos" in text
    again = site.init(heldout=str(site.root / "held"))
    assert (again.images.added, again.images.known, again.created) == (0, 3, False)


def test_held_out_images_that_cannot_be_used_make_no_project(site: Site) -> None:
    """Each of its rounds would fail at its evaluation. Seen failing: the project was made."""
    write(site.root / "held" / "masks" / "h.png", 0, mask=True, value=40)
    with pytest.raises(BackendError, match=r"holds the values 40; the class list has 0\.\.1"):
        site.init(heldout=str(site.root / "held"))
    assert site.store.projects() == []
    assert site.ls.server.projects == {}


def test_warnings_about_held_out_masks_are_in_the_report(site: Site) -> None:
    write(site.root / "held" / "masks" / "h.png", 0, mask=True, value=255)
    text = "\n".join(site.init(heldout=str(site.root / "held")).lines())
    assert "0 and 255 only" in text
    assert "not measured: Sky" in text


def test_a_held_out_image_of_the_pool_is_found_before_anything_is_made(site: Site) -> None:
    (site.root / "held" / "images" / "h.png").write_bytes(
        (site.root / "data" / "images" / "0.png").read_bytes()
    )
    with pytest.raises(BackendError, match="among the images to label"):
        site.init(heldout=str(site.root / "held"))
    assert site.store.projects() == []


def test_init_again_leaves_removed_images_out_and_says_so(site: Site) -> None:
    project = site.init().project
    gone = find_images(site.store, project.id, ["0.png"], "pool")
    remove_images(site.store, site.ls, project.id, gone)
    report = site.init()
    assert "1 left out since they were removed" in "\n".join(report.lines())
    assert len(site.store.images(project.id, split="pool", status="ready")) == 1


def test_init_again_after_a_class_was_appended(site: Site) -> None:
    project = site.init().project
    append_classes(site.settings, site.store, site.ls, project, ["Tram"])
    setup = site.ls.server.project(project.id).fields["label_config"]
    site.init()
    (site.root / "classes.json").write_text(json.dumps(["Road", "Sky", "Tram"]))
    site.init()
    assert site.ls.server.project(project.id).fields["label_config"] == setup


def test_the_second_copy_of_earlier_releases_goes(site: Site) -> None:
    old = site.settings.home / "incoming" / "ab" / "x.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"fetched before")
    site.init()
    assert not old.exists()


def test_regions_too_small_for_the_model_are_warned_of(site: Site) -> None:
    """Photos of 4000 x 3000 px were cut into 11,625 regions of 2.6 px each, without a word."""
    pixels = np.zeros((600, 800, 3), np.uint8)
    for number in range(2):
        Image.fromarray(pixels + number).save(site.root / "data" / "images" / f"{number}.png")
    small = ("model.short_side=60",)
    text = "\n".join(site.init(overrides=small, side=40).lines())
    assert "WARNING: a region of 40 px is 4 px where the model sees the image" in text
    assert "(60 of 600 px)" in text
    assert "--side 160" in text
    # As the warning says: another title, that side.
    text = "\n".join(site.init(overrides=small, side=160, title="Larger regions").lines())
    assert "WARNING" not in text
