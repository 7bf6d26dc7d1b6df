"""The simulated annotators and the labelling screen can say exactly the same things."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from backend_helpers import make_image, make_label, make_project, make_store
from PIL import Image

from label_config import ClassSchema, answer_result, build, read, read_answer
from ml_backend.demo.annotator import Annotator
from ml_backend.ingest import label_from_annotation
from ml_backend.store import Project
from training.oracle_noise import OracleNoise
from training.regions import RegionId, RegionMap
from training.simulate_config import DataConfig, Method
from training.simulate_data import VOID, PoolEntry
from training.simulate_oracle import annotator

NAMES = ("Road", "Sky", "Car")
T = TypeVar("T")
SIDE = 24  # px of a region: three columns a class or void each, far from the borders
QUERY = {"region_multiclass": "multi", "region_dominant": "dominant"}
# What an answer teaches (indices; 3 is "something else") and what it costs in clicks.
Said = tuple[tuple[int, ...], int]
UNSURE: Said = ((), 1)
EVERY = [(template, undefined) for template in QUERY for undefined in (True, False)]


def subsets(items: Sequence[T]) -> list[tuple[T, ...]]:
    return list(chain.from_iterable(combinations(items, n) for n in range(1, len(items) + 1)))


def project_of(template: str, undefined: bool) -> Project:
    return make_project(4, ClassSchema.of(NAMES, undefined=undefined), template=template)


def on_the_screen(project: Project) -> set[Said]:
    """Every way to tick the choices that are there, sent, taken in and given to training."""
    root = ET.fromstring(project.label_config)
    control = root.find(".//Choices")
    assert control is not None
    assert control.get("required") == "true"
    aliases = [str(choice.get("alias")) for choice in control]
    single = control.get("choice") == "single-radio"
    ticks = [(a,) for a in aliases] if single else subsets(aliases)
    said = set()
    for number, ticked in enumerate(ticks, start=1):
        annotation = {
            "id": number, "updated_at": "2026-11-22T15:45:50Z",
            "result": [{"from_name": "classes", "to_name": "region", "type": "choices",
                        "value": {"choices": list(ticked)}}],
        }  # fmt: skip
        label = label_from_annotation(project, 1, 1, annotation, make_label().seen_at)
        taught = [NAMES.index(name) for name in label.classes] + [len(NAMES)] * label.other
        said.add((tuple(taught), label.clicks))
    return said


def truth(folder: Path) -> PoolEntry:
    """A region for every set of classes and void, the first of the set the largest."""
    sets = subsets([0, 1, 2, VOID])
    mask = np.zeros((SIDE, SIDE * len(sets)), np.uint8)
    for number, values in enumerate(sets):
        left = number * SIDE
        mask[:, left : left + SIDE] = values[0]
        for place, value in enumerate(values[1:]):
            mask[8:16, left + 6 + 3 * place : left + 9 + 3 * place] = value
    ids = np.broadcast_to(np.arange(mask.shape[1]) // SIDE, mask.shape).astype(np.int32)
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(folder / "image.png")
    RegionMap(ids, len(sets), "grid", {}).save(folder / "regions.npz")
    return PoolEntry("street", folder / "image.png", folder / "mask.png", "0" * 64)


def by_the_simulation(folder: Path, template: str, undefined: bool) -> set[Said]:
    entry = truth(folder)
    regions = folder / "regions.npz"
    method = Method(query=QUERY[template], stages=1)  # type: ignore[arg-type]
    data = DataConfig(undefined=undefined)
    found = annotator(entry, regions, NAMES, data, method, 0, None)
    labels = found.learn(range(len(found.clicks)))[1]
    return {(labels[i], int(found.clicks[i])) for i in labels}


def by_the_demonstration(folder: Path, project: Project) -> set[Said]:
    """The annotator of `pixbal demo`, through Label Studio's own form of the answer."""
    entry = truth(folder)
    regions = folder / "regions.npz"
    count = RegionMap.load(regions).count
    store = make_store(folder, project)
    image = make_image(
        project.id, source=str(entry.image), regions_path=str(regions), region_count=count
    )
    store.add_images([image])
    one = Annotator("", "", store, project.id, {str(entry.image): entry.mask}, VOID)
    schema = ClassSchema.from_json(project.schema_json)
    alias = read(project.label_config).undefined_alias
    said = set()
    for index in range(count):
        answer = one.answer(RegionId(image.image_id, index), project)
        result = answer_result(answer, schema, project.template, undefined_alias=alias)
        assert read_answer(result, schema, project.template) == answer
        taught = [NAMES.index(name) for name in answer.classes] + [len(NAMES)] * answer.other
        said.add((tuple(taught), answer.clicks))
    return said


@pytest.mark.parametrize(("template", "undefined"), EVERY)
def test_the_simulation_says_what_the_screen_offers(
    template: str, undefined: bool, tmp_path: Path
) -> None:
    """Who sees the truth always knows; "Can't tell" is left only where no choice fits."""
    project = project_of(template, undefined)
    offered = on_the_screen(project)
    assert UNSURE in offered
    assert by_the_simulation(tmp_path, template, undefined) == offered - (
        {UNSURE} if undefined else set()
    )


@pytest.mark.parametrize(("template", "undefined"), EVERY)
def test_the_demonstration_says_what_the_screen_offers(
    template: str, undefined: bool, tmp_path: Path
) -> None:
    project = project_of(template, undefined)
    expected = on_the_screen(project) - ({UNSURE} if undefined else set())
    assert by_the_demonstration(tmp_path, project) == expected


def test_errors_stay_within_what_the_screen_offers(tmp_path: Path) -> None:
    """However often an annotator errs, she presses what is there."""
    offered = on_the_screen(project_of("region_multiclass", undefined=True))
    entry = truth(tmp_path)
    for seed in range(5):
        noise = OracleNoise(missed=0.4, extra=0.4)
        method = Method(query="multi", stages=1, noise=noise)
        regions = tmp_path / "regions.npz"
        found = annotator(entry, regions, NAMES, DataConfig(), method, seed, None)
        labels = found.learn(range(len(found.clicks)))[1]
        assert {(labels[i], int(found.clicks[i])) for i in labels} <= offered


def test_the_demonstration_answers_an_older_setup_as_it_can_be_read(tmp_path: Path) -> None:
    """There, "Nothing listed" hides what is ticked beside it."""
    schema = ClassSchema.of(NAMES)
    old = make_project(4, schema, label_config=build(schema, undefined_alias="none"))
    said = by_the_demonstration(tmp_path, old)
    assert said == {(t, c) for t, c in on_the_screen(old) if t} - {UNSURE}
    assert ((3,), 1) in said
    assert not any(len(taught) > 1 and 3 in taught for taught, _ in said)
