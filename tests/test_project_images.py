"""Images come, go and come back; held-out ones are listed, replaced and removed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_helpers import at, make_label, make_project, make_schema, make_settings, make_store
from click.testing import CliRunner
from fake_label_studio import FakeLabelStudio
from PIL import Image as PILImage

from ml_backend.cli import main
from ml_backend.cycle import Cycle
from ml_backend.errors import BackendError, Conflict, NotFound
from ml_backend.images import (
    add_heldout,
    add_images,
    find_images,
    image_table,
    remove_heldout,
    remove_images,
    withdraw_removed,
)
from ml_backend.ingest import parse_time
from ml_backend.labels import trainable_labels
from ml_backend.queries import plan_queries
from ml_backend.reconcile import reconcile
from ml_backend.runtime import Runtime
from ml_backend.store import Project, Query, Store
from training.pool_scores import ImageScores, PoolScores
from training.regions import RegionId

H, W = 16, 24


@dataclass
class Site:
    home: Path
    store: Store
    ls: FakeLabelStudio
    photos: Path

    @property
    def project(self) -> Project:
        row = self.store.project(4)
        assert row is not None
        return row

    def add(self, *specs: object) -> Any:
        return add_images(
            make_settings(self.home), self.store, self.ls, self.project, [str(s) for s in specs]
        )

    def remove(self, *names: str) -> Any:
        found = find_images(self.store, 4, names, "pool")
        return remove_images(self.store, self.ls, 4, found)

    def ids(self, split: str = "pool", status: str | None = "ready") -> list[str]:
        return [i.image_id for i in self.store.images(4, split=split, status=status)]

    def ask(self, image_id: str, count: int, first_task: int) -> list[Query]:
        """Open questions about the first regions of an image."""
        (image,) = [i for i in self.store.images(4) if i.image_id == image_id]
        rows = [
            Query(0, 4, image_id, r, image.regions_hash, 1, "planned", None, 1.0, 1.0, (), "r0")
            for r in range(count)
        ]
        self.store.plan_queries(rows)
        mine = [q for q in self.store.queries(4, status="planned") if q.image_id == image_id]
        self.store.set_task_ids({q.id: first_task + n for n, q in enumerate(mine)})
        for n in range(count):
            self.ls.server.add_task(4, first_task + n, {})
        return [q for q in self.store.queries(4) if q.image_id == image_id]

    def answer(self, query: Query) -> None:
        assert query.task_id is not None
        note = self.ls.server.annotate(query.task_id, [])
        label = make_label(note["id"], task_id=query.task_id, query_id=query.id)
        self.store.apply_label(replace(label, updated_at=parse_time(note["updated_at"])))

    @property
    def tasks(self) -> set[int]:
        """Those that Label Studio has."""
        return set(self.ls.server.project(4).tasks)

    def scores(self) -> PoolScores:
        """The whole pool scored alike."""
        pool = self.store.images(4, split="pool", status="ready")
        rows = {
            i.image_id: ImageScores(
                np.ones(i.region_count), np.ones(i.region_count, np.float32),
                np.zeros((i.region_count, 0), np.float16),
            )
            for i in pool
        }  # fmt: skip
        return PoolScores(rows, None, "pixbal")

    def plan(self) -> list[Query]:
        """What would be asked next."""
        pool = self.store.images(4, split="pool", status="ready")
        asked = {RegionId(q.image_id, q.region_index) for q in self.store.queries(4)}
        return plan_queries(
            self.project, pool, asked, self.scores(), ["Road"],
            round_number=2, model_version="r0", budget_clicks=1000.0,
        )  # fmt: skip

    def statuses(self, image_id: str) -> list[str]:
        return [q.status for q in self.store.queries(4) if q.image_id == image_id]


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (H, W, 3), np.uint8)
    PILImage.fromarray(pixels).save(path)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    photos = tmp_path / "photos"
    for number in range(3):
        write(photos / f"{number}.png", number)
    home = tmp_path / "home"
    home.mkdir()
    project = make_project(schema=make_schema("Road", "Sky"), method="grid", side_px=8)
    site = Site(home, make_store(home, project), FakeLabelStudio(), photos)
    site.ls.server.add_project(4, project.label_config)
    site.add(photos)
    return site


def test_images_come_later_and_are_asked_about(site: Site) -> None:
    assert len(site.plan()) == 3 * 6
    write(site.photos / "3.png", 3)
    report = site.add(site.photos)
    assert (report.added, report.known) == (1, 3)
    assert len(site.plan()) == 4 * 6
    assert site.add(site.photos).added == 0


def test_nothing_is_asked_about_a_removed_image(site: Site) -> None:
    """Its open questions leave Label Studio, its answers stay and train no longer."""
    gone, *others = site.ids()
    asked = site.ask(gone, 3, first_task=10)
    site.ask(others[0], 1, first_task=20)
    site.answer(asked[0])
    assert len(trainable_labels(site.store, 4)) == 1
    report = site.remove(gone)
    assert (len(report.images), report.withdrawn, report.answers) == (1, 2, 1)
    assert site.statuses(gone) == ["answered", "withdrawn", "withdrawn"]
    assert site.tasks == {10, 20}  # the answered one and that of another image
    assert trainable_labels(site.store, 4) == {}
    assert len(site.store.labels(4)) == 1
    assert {q.image_id for q in site.plan()} == set(others)
    # What the worker decides on counts the same.
    cycle = Cycle(Runtime(make_settings(site.home), site.store, site.ls))
    state = cycle.state(site.project)
    assert (state.trainable, state.new_labels) == (0, 0)
    assert cycle._pool_left(site.project) == 2 * 6 - 1


def test_removing_twice_says_so_and_changes_nothing(site: Site) -> None:
    gone = site.ids()[0]
    site.remove(gone)
    report = site.remove(gone)
    assert (report.images, len(report.before)) == ((), 1)
    assert "was removed before" in report.lines()[0]


def test_an_image_added_again_is_back_with_its_answers(site: Site) -> None:
    gone = site.ids()[0]
    asked = site.ask(gone, 3, first_task=10)
    site.answer(asked[0])
    before = site.store.image(4, gone)
    site.remove(gone)
    report = site.add(site.photos)
    assert (report.added, report.restored, report.known) == (0, 1, 2)
    assert site.store.image(4, gone) == before
    assert len(trainable_labels(site.store, 4)) == 1
    # What was withdrawn can be asked again, what was answered is not.
    assert site.statuses(gone) == ["answered"]
    assert len([q for q in site.plan() if q.image_id == gone]) == 5


def test_what_an_image_is_asked_by_survives_its_absence(site: Site) -> None:
    """Another cut of the same picture must not take the place of the one its answers name."""
    gone = site.ids()[0]
    site.remove(gone)
    before = site.store.images(4, status="removed")
    other = replace(before[0], regions_hash="another", region_count=99, status="ready")
    assert site.store.add_images([other]) == 0
    assert site.store.images(4, status="removed") == before


def test_init_again_does_not_bring_a_removed_image_back(site: Site) -> None:
    from ml_backend.pool import Cut, import_images
    from ml_backend.sources import list_sources

    gone = site.ids()[0]
    site.remove(gone)
    cut = Cut(site.home, "grid", 8, 10**7)
    report = import_images(site.store, site.project, list_sources(str(site.photos)), cut)
    assert (report.removed, report.restored) == (1, 0)
    assert gone not in site.ids()


def test_an_answer_that_came_meanwhile_is_not_deleted(site: Site) -> None:
    """The store has not heard of it yet. Seen failing with annotations() not asked."""
    gone = site.ids()[0]
    site.ask(gone, 2, first_task=10)
    site.ls.server.annotate(10, [])
    report = site.remove(gone)
    assert report.withdrawn == 1
    assert site.tasks == {10}
    assert site.statuses(gone) == ["open", "withdrawn"]


def test_with_label_studio_gone_the_worker_withdraws_later(site: Site) -> None:
    gone = site.ids()[0]
    site.ask(gone, 2, first_task=10)
    site.ls.server.go_away()
    report = site.remove(gone)
    assert report.waiting is not None
    assert any("the worker withdraws" in line for line in report.lines())
    assert gone not in {q.image_id for q in site.plan()}
    assert site.statuses(gone) == ["open", "open"]
    site.ls.server.heal()
    reconcile(site.store, site.ls, 4, at(100))
    assert site.statuses(gone) == ["withdrawn", "withdrawn"]
    assert site.tasks == set()
    assert withdraw_removed(site.store, site.ls, 4) == 0


def test_a_task_that_is_gone_already_is_withdrawn_too(site: Site) -> None:
    gone = site.ids()[0]
    site.ask(gone, 1, first_task=10)
    site.ls.server.delete_tasks(4, [10])
    assert site.remove(gone).withdrawn == 1


def test_questions_planned_meanwhile_are_not_pushed(site: Site) -> None:
    gone = site.ids()[0]
    rows = [q for q in site.plan() if q.image_id == gone]
    site.remove(gone)
    site.store.plan_queries(rows)  # by a worker that had read the pool before
    withdraw_removed(site.store, site.ls, 4)
    assert set(site.statuses(gone)) == {"withdrawn"}


def test_a_pool_of_equal_length_is_not_taken_for_the_one_before(site: Site) -> None:
    """One image went, another came. Seen failing: KeyError of the new image, at every look."""
    runtime = Runtime(make_settings(site.home), site.store, site.ls)
    path = runtime.scores_path(4, "r0")
    path.parent.mkdir(parents=True)
    site.scores().save(path)
    cycle = Cycle(runtime)
    assert cycle._pool_left(site.project) == 3 * 6
    site.remove(site.ids()[0])
    write(site.photos / "new" / "3.png", 3)
    site.add(site.photos / "new")
    assert cycle._pool_left(site.project) == 3 * 6


def test_images_are_found_by_id_name_and_file_name(site: Site) -> None:
    first = site.store.images(4)[0]
    for name in (first.image_id, first.source, Path(first.source).name):
        assert find_images(site.store, 4, [name], "pool") == [first]
    write(site.photos / "more" / Path(first.source).name, 9)
    site.add(site.photos / "more")
    with pytest.raises(Conflict, match="is the name of 2 images"):
        find_images(site.store, 4, [Path(first.source).name], "pool")
    with pytest.raises(NotFound, match="no image 'nowhere'"):
        find_images(site.store, 4, ["nowhere"], "pool")
    with pytest.raises(NotFound, match="to be labelled"):
        find_images(site.store, 4, [first.image_id], "heldout")


def test_a_refused_image_is_not_removed_into_the_pool(site: Site) -> None:
    (site.photos / "broken.png").write_bytes(b"broken")
    assert len(site.add(site.photos).unreadable) == 1
    with pytest.raises(NotFound, match="was refused"):
        site.remove("broken.png")
    write(site.photos / "broken.png", 8)
    assert site.add(site.photos).added == 1
    assert len(site.ids()) == 4


def held(folder: Path, *seeds: int, value: int = 1) -> Path:
    for seed in seeds:
        write(folder / "images" / f"{seed}.png", 100 + seed)
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        mask = np.zeros((H, W), np.uint8)
        mask[:4] = value
        PILImage.fromarray(mask).save(folder / "masks" / f"{seed}.png")
    return folder


def heldout(site: Site, folder: Path, alone: bool = False) -> Any:
    settings = make_settings(site.home)
    return add_heldout(settings, site.store, site.ls, site.project, str(folder), alone=alone)


def test_held_out_images_are_added_replaced_and_removed(site: Site, tmp_path: Path) -> None:
    report, gone = heldout(site, held(tmp_path / "a", 0, 1))
    assert (report.heldout, gone) == (2, ())
    assert heldout(site, tmp_path / "a")[0].known == 2
    report, gone = heldout(site, held(tmp_path / "b", 1, 2), alone=True)
    assert (report.heldout, report.known, len(gone)) == (1, 1, 1)
    assert len(site.ids("heldout")) == 2
    # The first set again: what was removed is back.
    report, gone = heldout(site, tmp_path / "a", alone=True)
    assert (report.restored, report.known, len(gone)) == (1, 1, 1)
    (one, two) = site.store.images(4, split="heldout", status="ready")
    assert remove_heldout(site.store, [one]) == 1
    assert site.ids("heldout") == [two.image_id]
    assert remove_heldout(site.store, find_images(site.store, 4, [one.image_id], "heldout")) == 0
    assert len(site.ids("pool")) == 3


def test_a_bad_set_replaces_nothing(site: Site, tmp_path: Path) -> None:
    heldout(site, held(tmp_path / "a", 0, 1))
    before = site.store.images(4)
    with pytest.raises(BackendError, match="1 of 1 held-out images cannot be used"):
        heldout(site, held(tmp_path / "b", 5, value=77), alone=True)
    write(tmp_path / "c" / "images" / "0.png", 0)  # an image of the pool
    held(tmp_path / "c", 6)
    PILImage.fromarray(np.zeros((H, W), np.uint8)).save(tmp_path / "c" / "masks" / "0.png")
    with pytest.raises(BackendError, match="among the images to label"):
        heldout(site, tmp_path / "c", alone=True)
    assert site.store.images(4) == before


def test_the_warning_counts_the_masks_that_stay(site: Site, tmp_path: Path) -> None:
    heldout(site, held(tmp_path / "a", 0))
    report, _ = heldout(site, held(tmp_path / "b", 1, value=0))
    assert not any("never" in note for note in report.notes)
    report, _ = heldout(site, tmp_path / "b", alone=True)
    assert any("never in a mask, so not measured: Sky" in note for note in report.notes)


def test_a_mask_that_is_replaced_does_not_hide_the_warning(site: Site, tmp_path: Path) -> None:
    """The masks of before were counted beside those that took their place."""
    heldout(site, held(tmp_path / "a", 0))
    report, _ = heldout(site, held(tmp_path / "b", 0, value=255))
    assert report.replaced == 1
    assert any("0 and 255 only" in note for note in report.notes)
    assert any("never in a mask, so not measured: Sky" in note for note in report.notes)


@pytest.fixture
def shell(site: Site, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`pixbal` on the site's home; nobody listens on port 9."""
    monkeypatch.setenv("PIXBAL_HOME", str(site.home))
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    monkeypatch.setattr("ml_backend.label_studio.LabelStudio.of", lambda *_: site.ls)

    def run(*words: object) -> str:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_every_command(site: Site, shell: Any, tmp_path: Path) -> None:
    write(site.photos / "3.png", 3)
    assert "images: 1 added, 3 known, 0 refused" in shell("images", "add", site.photos)
    rows = json.loads(shell("images", "list", "--json"))
    assert [Path(r["name"]).name for r in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert {r["regions"] for r in rows} == {6}
    removed = shell("images", "remove", "0.png")
    assert "removed " in removed
    assert "3 images to label" in removed
    assert "removed" in shell("images", "list").splitlines()[0]
    assert "1 brought back" in shell("images", "add", site.photos)
    added = shell("images", "heldout", "add", held(tmp_path / "a", 0, 1))
    assert "2 held-out added" in added
    assert "4 images to label, 2 held out" in added
    assert len(shell("images", "heldout", "list").splitlines()) == 2
    replaced = shell("images", "heldout", "replace", held(tmp_path / "b", 2))
    assert "2 held out before are removed" in replaced
    assert "1 held-out images removed" in shell("images", "heldout", "remove", "2.png")
    assert "0 held-out images removed" in shell("images", "heldout", "remove", "--all")
    assert image_table(site.store, 4, "heldout")[0]["status"] == "removed"
