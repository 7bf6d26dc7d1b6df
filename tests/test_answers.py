"""Answers: Label Studio's result JSON and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_builder import schemas

from label_config import Answer, ClassSchema, LabelConfigError, answer_result, read_answer
from label_config.answers import read_region_answers, region_answer_result

CAMVID = ClassSchema.load("camvid")
REGION = ("region_multiclass", "region_dominant")


@st.composite
def questions(draw):
    """A schema, a template and an answer that both allow."""
    schema, template = draw(schemas()), draw(st.sampled_from(REGION))
    kinds = ["classes", "unsure", "empty"] + ["nothing"] * schema.undefined
    kind = draw(st.sampled_from(kinds))
    one = template == "region_dominant"
    some = st.lists(
        st.sampled_from(schema.names), min_size=1, max_size=1 if one else None, unique=True
    )
    if kind != "classes":
        return schema, template, Answer(kind)
    other = schema.undefined and not one and draw(st.booleans())
    return schema, template, Answer("classes", tuple(draw(some)), other)


@given(questions())
def test_reading_what_was_written_gives_the_same_answer(question):
    schema, template, answer = question
    result = json.loads(json.dumps(answer_result(answer, schema, template)))
    assert read_answer(result, schema, template) == answer


def choices(*values, **other):
    item = {"from_name": "classes", "to_name": "region", "type": "choices"}
    return [{**item, "value": {"choices": list(values)}, **other}]


def test_the_result_holds_indices_not_names():
    assert answer_result(Answer("classes", ("Road", "Bicyclist")), CAMVID) == choices("3", "10")
    assert answer_result(Answer("nothing"), CAMVID) == choices("other")
    assert answer_result(Answer("classes", ("Road",), True), CAMVID) == choices("3", "other")
    assert answer_result(Answer("unsure"), CAMVID, "region_dominant") == choices("unsure")
    assert answer_result(Answer("empty"), CAMVID) == []


@pytest.mark.parametrize(
    ("ticked", "answer", "clicks"),
    [
        (["3", "10"], Answer("classes", ("Road", "Bicyclist")), 2),
        (["3", "3"], Answer("classes", ("Road",)), 1),
        (["2", "3", "unsure"], Answer("unsure"), 1),
        (["other"], Answer("nothing"), 1),
        (["other", "3"], Answer("classes", ("Road",), other=True), 2),
        (["3", "10", "other"], Answer("classes", ("Road", "Bicyclist"), other=True), 3),
        (["3", "other", "unsure"], Answer("unsure"), 1),
        # As release 0.1 read its own setups.
        (["none", "unsure"], Answer("unsure"), 1),
        (["2", "none"], Answer("nothing"), 1),
        (["none"], Answer("nothing"), 1),
        ([], Answer("empty"), 0),
    ],
)
def test_something_else_goes_with_classes_and_only_unsure_excludes(ticked, answer, clicks):
    assert read_answer(choices(*ticked), CAMVID) == answer
    assert answer.clicks == clicks


def test_no_result_at_all_is_empty():
    assert read_answer([], CAMVID) == Answer("empty")


def test_what_a_browser_adds_is_ignored():
    note = {"from_name": "note", "to_name": "region", "type": "textarea", "value": {"text": ["?"]}}
    sent = choices("3", id="abc", origin="prediction-changed")
    assert read_answer([note, *sent], CAMVID) == Answer("classes", ("Road",))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (choices("11"), "unknown choices '11'; known are 0 to 10, none, other, unsure"),
        (choices("Road"), "unknown choices 'Road'"),
        (choices("03"), "unknown choices '03'"),
        (choices("3", from_name="cls"), "control 'cls', expected 'classes'"),
        (choices(["3"]), "list of texts"),
        (choices("3", value={}), "list of texts"),
        (choices("3", value=None), "list of texts"),
        ([None], "list of objects"),
        ({}, "list of objects"),
        (None, "list of objects"),
        ("[]", "list of objects"),
    ],
)
def test_other_results_are_refused(result, words):
    with pytest.raises(LabelConfigError, match=words):
        read_answer(result, CAMVID)


def test_something_else_needs_a_schema_that_offers_it():
    listed = ClassSchema.load("voc2012")
    for answer in (Answer("nothing"), Answer("classes", ("boat",), other=True)):
        with pytest.raises(LabelConfigError, match="no answer 'Something else'"):
            answer_result(answer, listed)
    for alias in ("none", "other"):
        with pytest.raises(LabelConfigError, match=f"unknown choices '{alias}'"):
            read_answer(choices(alias), listed)


def test_an_older_setup_gets_what_it_can_show():
    assert answer_result(Answer("nothing"), CAMVID, undefined_alias="none") == choices("none")
    with pytest.raises(LabelConfigError, match="older labelling setup"):
        answer_result(Answer("classes", ("Road",), other=True), CAMVID, undefined_alias="none")


def test_the_dominant_template_takes_one_tick():
    for answer in (Answer("classes", ("Road", "Car")), Answer("classes", ("Road",), other=True)):
        with pytest.raises(LabelConfigError, match="Expected one class"):
            answer_result(answer, CAMVID, "region_dominant")
    for ticked in (("3", "8"), ("3", "other")):
        with pytest.raises(LabelConfigError, match="Expected one class"):
            read_answer(choices(*ticked), CAMVID, "region_dominant")
    assert read_answer(choices("other"), CAMVID, "region_dominant") == Answer("nothing")


def test_a_class_of_another_schema_is_refused():
    with pytest.raises(LabelConfigError, match="No class 'wall'"):
        answer_result(Answer("classes", ("wall",)), CAMVID)


@pytest.mark.parametrize(
    ("kind", "classes", "other"),
    [("classes", (), True), ("nothing", ("a",), True), ("maybe", (), False),
     ("classes", ("a", "a"), False), ("unsure", (), True), ("empty", (), True)],
)  # fmt: skip
def test_impossible_answers_are_refused(kind, classes, other):
    with pytest.raises(LabelConfigError):
        Answer(kind, classes, other)


def test_only_something_else_is_one_answer_however_it_is_written():
    assert Answer("nothing") == Answer("nothing", other=True)
    assert Answer("nothing").other


@pytest.mark.parametrize("template", ["image_regions", "image_masks"])
def test_templates_with_many_answers_have_their_own_reader(template):
    with pytest.raises(LabelConfigError, match="more than one answer"):
        read_answer([], CAMVID, template)
    with pytest.raises(LabelConfigError, match="more than one answer"):
        answer_result(Answer("unsure"), CAMVID, template)


def test_outlines_keep_their_answers():
    answers = {
        "a:1": Answer("classes", ("Road", "Car")),
        "a:2": Answer("nothing"),
        "a:4": Answer("classes", ("Road",), other=True),
        "a:3": Answer("empty"),
    }
    corners = [(0.0, 0.0), (50.0, 0.0), (50.0, 25.5)]
    result = [
        item
        for key, answer in answers.items()
        for item in region_answer_result(key, corners, (480, 360), answer, CAMVID)
    ]
    assert read_region_answers(json.loads(json.dumps(result)), CAMVID) == answers
    assert result[0]["type"] == "polygonlabels"
    assert result[0]["readonly"] is True
    assert result[0]["value"]["points"] == [[0.0, 0.0], [50.0, 0.0], [50.0, 25.5]]
    with pytest.raises(LabelConfigError, match="without the id"):
        read_region_answers(choices("3"), CAMVID)
