"""Do ticks in advance save keys? Counted by hand, decided by what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import make_label, make_project, make_query, make_settings
from round_site import PROJECT, Site, round_site

from ml_backend.agreement import (
    CONTROL_SHARE,
    FEWEST_CONTROLS,
    Saving,
    controls_change,
    decide,
    drawn_as_control,
    keys_saved,
    measured,
    saving,
)
from ml_backend.status import project_status, status_tables
from training.regions import RegionId

RIGHT, WRONG = (1, True), (-1, False)  # a question with one class and one tick
VERSIONS = ("r1", "r2", "r3", "r4")


@pytest.mark.parametrize(
    ("ticks", "answer", "saved"),
    [
        ((), {"classes": ("Road",)}, 0),
        (("Road",), {"classes": ("Road",)}, 1),  # 2 keys, or 1
        (("Road", "Sky"), {"classes": ("Road", "Sky")}, 2),  # 3 keys, or 1
        (("Road",), {"classes": ("Road", "Sky")}, 1),  # 3 keys, or 2
        (("Road", "Sky"), {"classes": ("Road",)}, 0),  # 2 keys, or 2
        (("Sky",), {"classes": ("Road",)}, -1),  # 2 keys, or 3
        (("Sky", "Car"), {"classes": ("Road",)}, -2),  # 2 keys, or 4
        (("Sky",), {"kind": "nothing", "classes": ()}, -1),  # 2 keys, or 3
        (("Road",), {"classes": ("Road",), "other": True}, 1),  # 3 keys, or 2
        (("Road",), {"kind": "unsure", "classes": ()}, 0),  # "Can't tell" excludes the rest
    ],
)
def test_keys_are_counted(ticks: tuple[str, ...], answer: dict[str, Any], saved: int) -> None:
    assert keys_saved(ticks, make_label(**answer), "region_multiclass") == saved


@pytest.mark.parametrize(
    ("ticks", "classes", "saved"), [(("Road",), ("Road",), 1), (("Sky",), ("Road",), 0),
                                    ((), ("Road",), 0)],
)  # fmt: skip
def test_with_one_choice_another_one_replaces_it(
    ticks: tuple[str, ...], classes: tuple[str, ...], saved: int
) -> None:
    assert keys_saved(ticks, make_label(classes=classes), "region_dominant") == saved


def test_mean_and_error() -> None:
    assert saving([1, -1, 1, 1]) == Saving(0.5, 0.5, 4)  # variance 1, divided by 4
    assert saving([1]) is None


def test_only_answered_control_questions_of_a_model_are_measured() -> None:
    queries = [
        make_query(4, 0, id=1, control=True, preticks=("Road",), model_version="r1"),
        make_query(4, 1, id=2, control=False, preticks=("Road",), model_version="r1"),  # shown
        make_query(4, 2, id=3, control=True, model_version="r0"),  # no model
        make_query(4, 3, id=4, control=True, preticks=("Sky",), model_version="r2"),
        make_query(4, 4, id=5, control=True, preticks=("Sky",), model_version="r2"),  # skipped
        make_query(4, 5, id=6, control=True, preticks=("Sky",), model_version="r2"),  # open
    ]
    labels = {i: make_label(i, query_id=i) for i in range(1, 5)}
    labels[5] = make_label(5, query_id=5, kind="skipped", classes=())
    found = measured(make_project(), queries, labels)
    assert found == {"r1": [(1, True)], "r2": [(-1, False)]}


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ({}, False),
        ({"r1": [RIGHT] * (FEWEST_CONTROLS - 1)}, False),  # too few to know
        ({"r1": [RIGHT] * FEWEST_CONTROLS}, True),
        # 12 of 20: mean .2, error .22; chance alone could do that.
        ({"r1": [RIGHT] * 12 + [WRONG] * 8}, False),
        ({"r1": [RIGHT] * 17 + [WRONG] * 3}, True),
        # The first model's faults are not held against the second.
        ({"r1": [WRONG] * 60, "r2": [RIGHT] * 20}, True),
        # With few controls of its own a version is judged with those just before it.
        ({"r1": [RIGHT] * 20, "r2": [RIGHT] * 3, "r3": [WRONG] * 4}, True),
        # Once shown, they go where they save nothing any more, not where it is uncertain.
        ({"r1": [RIGHT] * 20, "r2": [RIGHT] * 12 + [WRONG] * 8}, True),
        ({"r1": [RIGHT] * 20, "r2": [RIGHT] * 10 + [WRONG] * 10}, False),
        # ... and come back when it is certain again.
        ({"r1": [RIGHT] * 20, "r2": [WRONG] * 20, "r3": [RIGHT] * 20}, True),
    ],
)
def test_auto_shows_ticks_where_they_are_seen_to_save_keys(found: Any, shown: bool) -> None:
    decision = decide("auto", found, VERSIONS)
    assert decision.shown is shown
    assert decide("always", found, VERSIONS).shown
    assert not decide("never", found, VERSIONS).shown


def test_versions_are_compared_by_their_own_control_questions() -> None:
    """19 of 20 exactly right, then 10 of 20: .45 less, error sqrt(.0025 + .01316) = .125."""
    before, after = [RIGHT] * 19 + [WRONG], [RIGHT] * 10 + [WRONG] * 10
    found = controls_change(before, after)
    assert found is not None
    assert (found.difference, found.error) == pytest.approx((-0.45, 0.1251), abs=1e-4)
    assert found.fell
    assert controls_change(before[:-1], after) is None
    same = controls_change(before, before)
    assert same is not None
    assert not same.fell


def test_controls_are_a_tenth_and_the_same_every_time() -> None:
    regions = [RegionId(f"image{i % 50}", i) for i in range(5000)]
    drawn = [drawn_as_control(0, region, 1) for region in regions]
    assert drawn == [drawn_as_control(0, region, 1) for region in regions]
    assert sum(drawn) / len(drawn) == pytest.approx(CONTROL_SHARE, abs=0.015)
    others = ([drawn_as_control(1, r, 1) for r in regions],
              [drawn_as_control(0, r, 2) for r in regions])  # fmt: skip
    for other in others:  # another seed, another asking: another draw
        both = sum(a and b for a, b in zip(drawn, other, strict=True)) / len(drawn)
        assert both == pytest.approx(CONTROL_SHARE**2, abs=0.008)


@pytest.fixture(params=["region_multiclass", "region_dominant"])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """Batches of 30; no held-out image."""
    with round_site(
        tmp_path, monkeypatch, template=request.param, budget_clicks=29.0, per_image=0
    ) as made:
        yield made


def ticks_seen(site: Site) -> Counter[bool]:
    """Open questions by whether Label Studio shows ticks; their rows say the same."""
    for query in site.open():
        version, ticks = site.shown(query)
        assert version == query.model_version
        assert ticks == ([] if query.control else list(query.preticks))
    return Counter(bool(site.shown(query)[1]) for query in site.open())


def status(site: Site) -> dict[str, Any]:
    return project_status(make_settings(Path("/nowhere")), site.store, PROJECT)


def test_ticks_come_with_the_first_version_that_is_seen_to_save_keys(site: Site) -> None:
    """Four of five small projects lost keys to ticks that were shown from the first version on.

    Seen failing on the release before: the ticks of r1 were shown, right or wrong.
    """
    site.round("Brick")
    assert ticks_seen(site) == {False: 30}, "r1 sees grass everywhere: not known to be right"
    assert all(query.preticks == ("Grass",) for query in site.open())
    assert status(site)["ticks"]["says"] == (
        "not shown: 0 of the 20 answers without ticks that it takes to measure"
    )
    site.round("Brick")
    assert ticks_seen(site) == {False: 30}, "it was wrong"
    found = status(site)["ticks"]
    assert (found["shown"], found["exactly_right"]) == (False, 0.0)
    cost = 0.0 if site.project.template == "region_dominant" else -1.0
    assert found["saving"] == {"mean": cost, "error": 0.0, "count": 30}
    site.round("Grass")
    shown = ticks_seen(site)
    assert shown[True] > shown[False] > 0, "right under r2: shown, but for the controls"
    for query in site.open():
        region = RegionId(query.image_id, query.region_index)
        assert query.control == drawn_as_control(0, region, 1)
    found = status(site)["ticks"]
    assert found["says"] == (
        "shown: they save keys; on 30 questions without ticks +1.00 keys saved a question "
        "(error 0.00), 100% of the ticks exactly right"
    )
    assert len(status_tables(status(site))) >= 2


def test_always_and_never_are_as_set_and_are_measured_too(site: Site) -> None:
    site.store.update_project(PROJECT, preticks="always")
    site.round("Grass")
    assert ticks_seen(site)[True] > 20
    controls = sum(query.control for query in site.open())
    site.store.update_project(PROJECT, preticks="never")
    site.round("Grass")
    assert ticks_seen(site) == {False: 30}
    assert status(site)["ticks"]["saving"]["count"] == controls
    assert status(site)["ticks"]["why"] == "preticks is set to never"


def test_without_masks_a_fall_is_seen_on_the_control_questions(site: Site) -> None:
    site.store.update_project(PROJECT, preticks="never")
    site.round("Grass")
    site.round("Grass")
    assert status(site)["version_warning"] is None, "r2 has no answers yet"
    site.answer_all("Brick")
    site.store.update_project(PROJECT, state="paused")
    site.look()
    said = status(site)["version_warning"]
    assert said.startswith("p4-r2 is worse than p4-r1, which was in use before it: exactly right "
                           "ticks -100.0 points, error 0.0, on 30 questions")  # fmt: skip
    assert said.endswith("pixbal version activate p4-r1 --project 4")


def test_the_same_input_gives_the_same_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = []
    for name in ("one", "two"):
        with round_site(
            tmp_path / name, monkeypatch, preticks="always", budget_clicks=60, per_image=0
        ) as made:
            made.round()
            queues.append([(q.image_id, q.region_index, q.control) for q in made.open()])
    assert queues[0] == queues[1]
    assert {control for _, _, control in queues[0]} == {True, False}
