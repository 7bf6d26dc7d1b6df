"""Class lists: presets, files, checks."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

import label_config
from label_config import ClassInfo, ClassSchema, LabelConfigError
from label_config.classes import presets
from label_config.hotkeys import CLASS_KEYS, OTHER_KEY, UNSURE_KEY, default_keys

CAMVID = {
    "Sky": "#808080", "Building": "#800000", "Pole": "#c0c080", "Road": "#804080",
    "Pavement": "#3c28de", "Tree": "#808000", "SignSymbol": "#c08080", "Fence": "#404080",
    "Car": "#400080", "Pedestrian": "#404000", "Bicyclist": "#0080c0",
}  # fmt: skip


def test_camvid_has_its_eleven_classes_in_the_order_of_the_masks():
    schema = ClassSchema.load("camvid")
    assert {c.name: c.color for c in schema.classes} == CAMVID
    assert schema.names == tuple(CAMVID)
    assert "".join(c.hotkey for c in schema.classes) == "asdfgqwrtzc"
    assert schema.num_outputs == 12
    assert [schema.index(name) for name in ("Sky", "Bicyclist")] == [0, 10]


def test_the_file_that_comes_with_camvid_gives_the_same_classes(camvid):
    schema = ClassSchema.load(camvid / "classes.json")
    assert [name.lower() for name in CAMVID] == list(schema.names)
    assert [c.color for c in schema.classes] == list(CAMVID.values())


@pytest.mark.parametrize(
    ("name", "count", "undefined", "first", "last"),
    [
        ("camvid", 11, True, "Sky", "Bicyclist"),
        ("cityscapes", 19, True, "road", "bicycle"),
        ("voc2012", 21, False, "background", "tvmonitor"),  # background is everything else
        ("ade20k", 150, True, "wall", "flag"),
        ("coco_stuff", 171, True, "person", "wood"),
    ],
)
def test_presets_have_the_published_number_of_distinct_classes(name, count, undefined, first, last):
    schema = ClassSchema.load(name)
    assert (len(schema.classes), schema.undefined) == (count, undefined)
    assert (schema.names[0], schema.names[-1]) == (first, last)
    assert len({c.color for c in schema.classes}) == count
    assert schema.num_outputs == count + undefined


def test_every_preset_is_tested():
    assert presets() == ("ade20k", "camvid", "cityscapes", "coco_stuff", "voc2012")


def test_voc_colours_follow_the_bits_of_the_index():
    # aeroplane = 1 = 0b001 -> red 128; bicycle = 2 -> green; boat = 4 -> blue; bird = 3 -> both.
    colors = {c.name: c.color for c in ClassSchema.load("voc2012").classes}
    assert [colors[n] for n in ("background", "aeroplane", "bicycle", "bird", "boat")] == [
        "#000000", "#800000", "#008000", "#808000", "#000080",
    ]  # fmt: skip


def test_keys_are_given_in_order_until_none_is_free():
    schema = ClassSchema.load("ade20k")
    keys = [c.hotkey for c in schema.classes]
    assert keys[: len(CLASS_KEYS)] == list(CLASS_KEYS)
    assert set(keys[len(CLASS_KEYS) :]) == {None}


def test_the_first_keys_are_those_under_the_left_hand():
    """The right one holds the mouse."""
    assert set(CLASS_KEYS[:16]) == set("asdfgqwrtzc12345")
    assert CLASS_KEYS[:5] == "asdfg"


def test_keys_stay_inside_a_project():
    """Stored ones are read as they are; further classes get what is left of them."""
    stored = {
        "classes": [
            {"name": "Road", "color": "#804080", "hotkey": "1"},
            {"name": "Sky", "color": "#808080", "hotkey": "2"},
        ],
        "undefined": True,
    }
    schema = ClassSchema.from_json(stored)
    assert [c.hotkey for c in schema.classes] == ["1", "2"]
    assert schema.to_json() == stored
    assert default_keys(3, taken="as1") == ("d", "f", "g")
    assert default_keys(2, taken=CLASS_KEYS[:-1]) == (CLASS_KEYS[-1], None)


def test_no_key_is_one_of_label_studio_or_of_the_fixed_answers():
    assert len(set(CLASS_KEYS)) == len(CLASS_KEYS)
    assert not set(CLASS_KEYS) & {OTHER_KEY, UNSURE_KEY, *"uhvbep"}
    assert set(CLASS_KEYS) <= set(string.digits + string.ascii_lowercase)


def test_colours_are_filled_in_and_differ():
    schema = ClassSchema.of([f"c{i}" for i in range(200)], ["#e61717", *[None] * 199])
    assert schema.classes[0].color == "#e61717"
    assert len({c.color for c in schema.classes}) == 200


def test_json_forms_agree(tmp_path):
    expected = ClassSchema.of(["a", "b"], ["#010203", "#0a0b0c"], undefined=False)
    forms = [
        {"names": ["a", "b"], "palette": [[1, 2, 3], [10, 11, 12]], "undefined": False},
        {
            "undefined": False,
            "classes": [{"name": "a", "color": "#010203"}, {"name": "b", "color": "#0A0B0C"}],
            "ignore_index": 11,
        },
        expected.to_json(),
    ]
    for number, form in enumerate(forms):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(form), "utf-8")
        assert ClassSchema.load(str(path)) == expected
    assert ClassSchema.from_json(["a", "b"]).names == ("a", "b")
    assert ClassSchema.from_json({"classes": ["a", "b"]}) == ClassSchema.from_json(["a", "b"])


def test_keys_of_a_file_are_kept_even_none():
    entries = [{"name": "a", "hotkey": "k"}, {"name": "b", "hotkey": None}]
    assert [c.hotkey for c in ClassSchema.from_json({"classes": entries}).classes] == ["k", None]


TAKEN = ("nothing listed", "something else", "can't tell")
names = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")),
    min_size=1,
    max_size=100,
).filter(lambda t: t == t.strip() and t.casefold() not in TAKEN)


@given(st.lists(names, min_size=1, max_size=40, unique=True), st.booleans())
def test_to_json_and_back_is_the_same(list_of_names, undefined):
    schema = ClassSchema.of(list_of_names, undefined=undefined)
    assert ClassSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


@pytest.mark.parametrize("name", ["R&D", 'a "b"', "<i>", "👩‍🚒", "it's", "тротуар", "a\u00a0b"])
def test_names_may_hold_any_visible_character(name):
    assert ClassSchema.of([name]).names == (name,)


def one(name="a", color="#000000", hotkey=None):
    return (ClassInfo(name, color, hotkey),)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ((), "1 to 200 classes, got 0"),
        (tuple(ClassInfo(f"c{i}", "#000000") for i in range(201)), "got 201"),
        (one() + one(), "class name 'a' is used more than once"),
        (one("a", hotkey="1") + one("b", hotkey="1"), "hotkey '1' is used more than once"),
        (one(""), "empty"),
        (one(" a"), "blanks"),
        (one("x" * 101), "101 characters"),
        (one("a\nb"), "cannot be shown"),
        (one("a\x00b"), "cannot be shown"),
        (one("a\u202eb"), "cannot be shown"),  # turns the direction of the text after it
        (one("a\ud800"), "cannot be shown"),
        (one("a\ufffe"), "cannot be shown"),
        (one("nothing LISTED"), "taken"),
        (one("Can't tell"), "taken"),
        (one(color="red"), "#rrggbb"),
        (one(color="#12345"), "#rrggbb"),
        (one(color="#ABCDEF"), "lower-case"),
        (one(hotkey="0"), "hotkey '0'"),
        (one(hotkey="u"), "hotkey 'u'"),
        (one(hotkey="ctrl+a"), "hotkey"),
        (one(hotkey="12"), "hotkey"),
    ],
)
def test_unusable_classes_are_refused(classes, words):
    with pytest.raises(LabelConfigError, match=words):
        ClassSchema(classes)


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        (3, "came as int"),
        ({}, "came with the keys"),
        ({"classes": 1}, "not a list"),
        ({"classes": [1]}, "not a list"),
        ({"classes": [{"name": "a", "colour": "#000000"}]}, "unknown keys 'colour'"),
        ({"classes": [{"color": "#000000"}]}, "list of texts"),
        ({"classes": [{"name": "a", "color": 5}]}, "colour 5"),
        ({"classes": ["a"], "undefined": "no"}, "must be true or false"),
        ({"names": "ab"}, "list of texts"),
        ({"names": ["a"], "palette": [[1, 2, 3], [4, 5, 6]]}, "2 colours for 1"),
        ({"names": ["a"], "palette": [[1, 2, 300]]}, r"\[1, 2, 300\]"),
        ({"names": ["a"], "palette": ["#000"]}, "expected .r, g, b."),
    ],
)
def test_unusable_json_is_refused(obj, words):
    with pytest.raises(LabelConfigError, match=words):
        ClassSchema.from_json(obj)


def test_an_unknown_preset_or_a_broken_file_is_refused(tmp_path):
    with pytest.raises(LabelConfigError, match=r"neither a preset nor a file.*camvid, cityscapes"):
        ClassSchema.load("kamvid")
    with pytest.raises(LabelConfigError, match="No preset 'kamvid'"):
        ClassSchema.preset("kamvid")
    (tmp_path / "c.json").write_bytes(b"\xff{")
    with pytest.raises(LabelConfigError, match="not JSON"):
        ClassSchema.load(tmp_path / "c.json")
    (tmp_path / "c.json").write_text("[" * 100_000)
    with pytest.raises(LabelConfigError, match="not JSON"):
        ClassSchema.load(tmp_path / "c.json")
    (tmp_path / "c.json").write_text(" " * 1_000_001)
    with pytest.raises(LabelConfigError, match="larger than"):
        ClassSchema.load(tmp_path / "c.json")


def test_an_unknown_class_is_refused_with_the_known_ones():
    with pytest.raises(LabelConfigError, match="No class 'Lane'; the classes are 'Sky'"):
        ClassSchema.load("camvid").index("Lane")


def test_the_package_exports_few_names():
    assert len(label_config.__all__) <= 12
    assert all(hasattr(label_config, name) for name in label_config.__all__)
