"""Texts from outside: whatever they hold, a named error or a value; never another exception."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import make_schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from label_config import Answer, ClassSchema, LabelConfigError, answer_result, build, read
from label_config.answers import read_answer, read_region_answers
from label_config.brush import read_masks
from label_config.mask_control import read_mask_control
from training.class_lists import ClassList, read_class_list
from training.errors import DataError, RegionMapError
from training.regions import RegionId

SCHEMA = make_schema()
CONTROL = read_mask_control(build(SCHEMA, "image_masks"), SCHEMA)
TEMPLATES = ("region_multiclass", "region_dominant", "image_regions", "image_masks")
# Derandomised: the same inputs at every run, so that CI fails only for a change of the code.
steady = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=250,
    suppress_health_check=list(HealthCheck),
)
TEXTS = st.sampled_from(
    ["choices", "classes", "answer", "image", "0", "1", "2", "nothing", "unsure", "٣", "-1", "",
     "region", "brushlabels", "rle", "value", "9" * 30, "\x00", "\ud800", "a" * 300]
) | st.text(max_size=20)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=4)
KEYS = st.sampled_from(
    ["type", "from_name", "to_name", "value", "choices", "id", "format", "rle", "brushlabels",
     "original_width", "original_height", "labels", "points", "polygonlabels"]
) | TEXTS  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
ANSWERS = st.sampled_from(
    [Answer("nothing"), Answer("unsure"), Answer("classes", ("Road",)), Answer("classes", ("Car",)),
     Answer("classes", ("Sky", "Road")), Answer("classes", ("Car",), other=True)]
)  # fmt: skip


def mutated(value: Any, draw: Any) -> Any:
    """A copy of a JSON value in which one place holds something else, or nothing."""
    copy = json.loads(json.dumps(value))
    here: Any = copy
    for _ in range(draw(st.integers(0, 4))):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if not isinstance(here[key], dict | list) or not here[key]:
            if draw(st.booleans()):
                del here[key]
            else:
                here[key] = draw(TREES)
            return copy
        here = here[key]
    if isinstance(here, dict):
        here[draw(KEYS)] = draw(TREES)
    else:
        here.append(draw(TREES))
    return copy


@st.composite
def results(draw: Any) -> Any:
    """Any tree, or an answer with one place changed."""
    if draw(st.integers(0, 3)) == 0:
        return draw(TREES)
    return mutated(answer_result(draw(ANSWERS), SCHEMA), draw)


@pytest.mark.guarantee(20)
@steady
@given(results(), st.sampled_from([*TEMPLATES, "nonsense"]))
def test_answers(result: Any, template: str) -> None:
    """An answer that is read is one of the schema, and written and read again it is the same."""
    try:
        answer = read_answer(result, SCHEMA, template)
    except LabelConfigError:
        return
    assert set(answer.classes) <= set(SCHEMA.names)
    assert read_answer(answer_result(answer, SCHEMA, template), SCHEMA, template) == answer


@steady
@given(results())
def test_answers_of_outlines_and_masks(result: Any) -> None:
    with contextlib.suppress(LabelConfigError):
        answers = read_region_answers(result, SCHEMA)
        assert {name for a in answers.values() for name in a.classes} <= set(SCHEMA.names)
    with contextlib.suppress(LabelConfigError):
        assert set(read_masks(result, CONTROL)) <= set(SCHEMA.names)


CONFIGS = st.sampled_from([build(SCHEMA, template) for template in TEMPLATES])
SNIPPETS = st.sampled_from(
    ["<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "&#0;", "&#xD800;", "<View>", "</View>", "<!--",
     "<![CDATA[", "]]>", "\x00", '"', "'", "<Choice value='Road'/>", "alias='0'", "xmlns:a='b'",
     "<?xml version='1.0' encoding='utf-16'?>", "<a:b/>", "\ufeff", "😀", "\ud800", "%", "&amp;"]
) | st.text(max_size=8)  # fmt: skip


@st.composite
def configs(draw: Any) -> str:
    """A config of ours with parts cut out, doubled or put in; or any text."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.text(max_size=200))
    text = draw(CONFIGS)
    for _ in range(draw(st.integers(0, 3))):
        one, other = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            text = text[:one] + draw(SNIPPETS) + text[one:]
        elif kind == 1:
            text = text[:one] + text[min(other, one + 30) :]
        elif kind == 2:
            text = text[:other]
        else:
            text = text[:one] + text[one : one + 60] * 2 + text[one + 60 :]
    return text


@pytest.mark.guarantee(20)
@steady
@given(configs())
def test_label_configs(text: str) -> None:
    """What is read builds a config that reads the same."""
    with contextlib.suppress(LabelConfigError):
        found = read(text)
        again = read(build(found.schema, found.template))
        assert (again.template, again.schema.names) == (found.template, found.schema.names)
    with contextlib.suppress(LabelConfigError):
        assert set(read_mask_control(text, SCHEMA).stored) <= set(SCHEMA.names)


@pytest.mark.guarantee(20)
def test_entities_do_not_grow() -> None:
    """A billion laughs, and a file named by an entity."""
    laughs = "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 10))
    for text in (
        f"<!DOCTYPE a [<!ENTITY l0 'ha'>{laughs}]><View>&l9;</View>",
        "<!DOCTYPE a [<!ENTITY f SYSTEM 'file:///etc/passwd'>]><View>&f;</View>",
        "<! DOCTYPE a><View/>",
        "<View>" * 6000 + "</View>" * 6000,
        "<View " + " ".join(f"a{i}='{'x' * 90}'" for i in range(12_000)) + "/>",
    ):
        with pytest.raises(LabelConfigError):
            read(text)


CLASS_FILES = st.sampled_from(
    [SCHEMA.to_json(), {"names": ["Road", "Sky"], "palette": [[1, 2, 3], [4, 5, 6]], "void": 7},
     ["Road", "Sky"], {"classes": ["a", "b"], "undefined": False},
     {"classes": [{"name": "Road", "color": "#AABBCC"}], "ignore_index": 255}]
)  # fmt: skip


@st.composite
def class_files(draw: Any) -> bytes:
    """A class list with one place changed, cut, or with flipped bits; or any bytes."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.binary(max_size=60))
    value = mutated(draw(CLASS_FILES), _plain_trees(draw)) if kind > 2 else draw(CLASS_FILES)
    data = bytearray(json.dumps(value).encode())
    if kind in (2, 5):
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(data[: draw(st.integers(0, len(data)))] if kind == 1 else data)


def _plain_trees(draw: Any) -> Any:
    """`draw`, with values that JSON cannot hold replaced by their text."""

    def plain(strategy: Any) -> Any:
        found = draw(strategy)
        return found if strategy is not TREES else json.loads(json.dumps(found, default=repr))

    return plain


@steady
@given(class_files())
def test_class_lists(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Read, it is a schema that its own JSON gives again, or a list of distinct names."""
    path = tmp_path_factory.getbasetemp() / "classes.json"
    path.write_bytes(data)
    with contextlib.suppress(LabelConfigError):
        schema = ClassSchema.load(path)
        assert ClassSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    with contextlib.suppress(DataError):
        found = read_class_list(path)
        assert ClassList(found.names, found.void) == found


def test_deep_and_long_class_lists(tmp_path: Path) -> None:
    """Seen failing: 5000 names were given distinct colours, without end, before being counted."""
    path = tmp_path / "classes.json"
    many = json.dumps([f"c{i}" for i in range(5000)])
    for text in ("[" * 100_000, '{"classes":' * 50_000, many, '{"names": [' + "9" * 5000 + "]}"):
        path.write_text(text)
        with pytest.raises(LabelConfigError):
            ClassSchema.load(path)
        with pytest.raises(DataError):
            read_class_list(path)
    path.write_text(json.dumps(["a" * 2_000_000]))
    with pytest.raises(LabelConfigError):
        ClassSchema.load(path)


@pytest.mark.guarantee(20)
def test_a_screen_of_five_thousand_classes_is_refused_at_once() -> None:
    """It comes with every /predict."""
    choices = "".join(f'<Choice value="c{i}" alias="{i}"/>' for i in range(4900))
    text = build(SCHEMA, "region_multiclass")
    start, end = text.index("<Choice "), text.rindex("</Choices>")
    with pytest.raises(LabelConfigError):
        read(text[:start] + choices + text[end:])


@steady
@given(st.text(max_size=40) | st.from_regex(r"\A[a-z:]{0,5}:?[0-9٣²]{0,30}\Z"))
def test_region_names(text: str) -> None:
    with contextlib.suppress(RegionMapError):
        region = RegionId.parse(text)
        assert RegionId.parse(str(region)) == region
