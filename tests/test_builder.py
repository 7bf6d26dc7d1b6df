"""Labelling XML: building, reading, hand edits and attacks."""

from __future__ import annotations

import html
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_classes import names

from label_config import TEMPLATES, ClassInfo, ClassSchema, LabelConfigError, build, read

CAMVID = ClassSchema.load("camvid")
CHOICES = [name for name, plan in TEMPLATES.items() if plan.choice]


@st.composite
def schemas(draw):
    chosen = draw(st.lists(names, min_size=1, max_size=12, unique=True))
    keys = draw(st.permutations("123456789qwrtasdfgzcyiojklnm"))
    classes = []
    for name, key in zip(chosen, keys, strict=False):
        color = f"#{draw(st.integers(0, 0xFFFFFF)):06x}"
        classes.append(ClassInfo(name, color, draw(st.sampled_from([key, None]))))
    return ClassSchema(tuple(classes), draw(st.booleans()))


@given(schemas(), st.sampled_from(list(TEMPLATES)))
def test_reading_what_was_built_gives_the_same_classes(schema, template):
    config = read(build(schema, template))
    plan = TEMPLATES[template]
    assert (config.template, config.schema) == (template, schema)
    assert (config.from_name, config.to_name) == (plan.from_name, plan.to_name)
    assert config.value_keys == plan.value_keys


@pytest.mark.parametrize("template", list(TEMPLATES))
@pytest.mark.parametrize("preset", ["ade20k", "coco_stuff"])
def test_long_lists_survive(preset, template):
    schema = ClassSchema.load(preset)
    assert read(build(schema, template)).schema == schema


def test_the_default_is_one_tick_list_for_the_crop_with_the_locator_beside_it():
    root = ET.fromstring(build(CAMVID))
    assert [(i.get("name"), i.get("value")) for i in root.iter("Image")] == [
        ("region", "$crop"), ("locator", "$locator"),
    ]  # fmt: skip
    (control,) = root.iter("Choices")
    assert control.get("name") == "classes"
    assert control.get("toName") == "region"
    assert control.get("choice") == "multiple"
    assert control.get("required") == "true"
    assert [(c.get("value"), c.get("alias"), c.get("hotkey")) for c in control] == [
        ("Sky", "0", "1"), ("Building", "1", "2"), ("Pole", "2", "3"), ("Road", "3", "4"),
        ("Pavement", "4", "5"), ("Tree", "5", "6"), ("SignSymbol", "6", "7"), ("Fence", "7", "8"),
        ("Car", "8", "9"), ("Pedestrian", "9", "q"), ("Bicyclist", "10", "w"),
        ("Nothing listed", "none", "0"), ("Can't tell", "unsure", "x"),
    ]  # fmt: skip
    assert "background:#808080" in control[0].get("html")


def test_the_dominant_template_takes_one_tick():
    root = ET.fromstring(build(CAMVID, "region_dominant"))
    assert root.find(".//Choices").get("choice") == "single-radio"
    assert root.find(".//Header").get("value") == "Tick the class that covers most of the outline"


def test_masks_are_painted_with_one_label_per_class():
    root = ET.fromstring(build(CAMVID, "image_masks"))
    (control,) = root.iter("BrushLabels")
    assert (control.get("name"), control.get("toName")) == ("mask", "image")
    assert [(x.get("alias"), x.get("background")) for x in control][:2] == [
        ("0", "#808080"), ("1", "#800000"),
    ]  # fmt: skip
    assert len(control) == 11


@pytest.mark.parametrize("template", CHOICES)
def test_without_undefined_there_is_no_nothing_listed(template):
    root = ET.fromstring(build(ClassSchema(CAMVID.classes, undefined=False), template))
    assert [c.get("alias") for c in root.iter("Choice")][-2:] == ["10", "unsure"]


@pytest.mark.guarantee(20)
def test_names_are_shown_as_they_are_never_as_markup_or_task_data():
    name = """<img src=x onerror="alert(1)"> & $crop's"""
    item = ET.fromstring(build(ClassSchema.of([name]))).find(".//Choice")
    shown = ET.fromstring(item.get("html"))  # valid markup: one swatch, then the name as text
    assert "".join(shown.itertext()) == name
    assert [e.tag for e in shown.iter()] == ["span", "span"]
    assert html.escape(name) in item.get("html")


def test_long_lists_scroll_with_the_ticked_choices_on_top():
    long, short = (
        ET.fromstring(build(ClassSchema.load(name))).find(".//Style").text
        for name in ("ade20k", "cityscapes")
    )
    assert "overflow-y: auto" in long
    assert ":has(input:checked) { order: -1; }" in long
    assert "overflow-y" not in short
    assert ":has" not in short
    assert "@" not in long + short


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_harmless_edits_are_read(template):
    root = ET.fromstring(build(CAMVID, template))
    control = next(root.iter(TEMPLATES[template].tag if template != "image_regions" else "Choices"))
    control[:] = reversed(list(control))
    root.find(".//Header").set("value", "Welche Klassen?")
    for style in root.iter("Style"):
        style.text = ".a { color: red; }"
    root.append(ET.Element("TextArea", name="note", toName=TEMPLATES[template].to_name))
    text = "<?xml version='1.0'?>\n<!-- ours -->" + ET.tostring(root, encoding="unicode")
    assert read(text).schema == CAMVID


def edited(old, new, template="region_multiclass"):
    text = build(CAMVID, template)
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (edited('name="classes"', 'name="labels"'), "found <Choices name='labels'"),
        (edited('choice="multiple"', 'choice="single"'), "choice='single'"),
        (edited('name="region"', 'name="area"'), r"found \{'area': '\$crop'"),
        (edited('value="$crop"', 'value="$image"'), r"found \{'region': '\$image'"),
        (edited("</Choices>", '<Choice value="Lane"/></Choices>'), "found .*'Lane' alias None"),
        (edited("</Choices>", '<Choice value="L" alias="lane"/></Choices>'), "'L' alias 'lane'"),
        (edited('alias="4"', 'alias="3"'), "each once"),
        (edited('alias="unsure"', 'alias="12"'), "expected the aliases .*'unsure'"),
        (edited('value="Sky"', 'value=""'), "empty"),
        (edited('color="#808080"', 'color="grey"'), "'grey'"),
        (edited('value="Sky"', 'value="Road"'), "'Road' is used more than once"),
        (edited('hotkey="2"', 'hotkey="1"'), "'1' is used more than once"),
        (edited('whenTagName="outline"', "", "image_regions"), "PolygonLabels"),
        (edited('name="mask"', 'name="brush"', "image_masks"), "<BrushLabels name='brush'"),
        ("<View/>", "found no control"),
        ('<View><Text name="t" value="$t"/></View>', "found no control"),
        ("", "not XML"),
        ("<View>", "not XML"),
        ("hello", "not XML"),
        ("<View>\x00</View>", "not XML"),
        ("<View>\ud800</View>", "not XML"),
        ("<View>" + "<a/>" * 10_001 + "</View>", "tags"),
        ("<View>" + " " * 1_000_000 + "</View>", "1000013 characters"),
    ],
)
def test_other_xml_is_refused_with_what_was_found(xml, words):
    with pytest.raises(LabelConfigError, match=words):
        read(xml)


@pytest.mark.guarantee(20)
@pytest.mark.parametrize("keyword", ["DOCTYPE", "doctype", " DOCTYPE", "ENTITY"])
def test_document_types_and_entities_are_refused_before_parsing(keyword, monkeypatch):
    def parse(*_):
        pytest.fail("parsed")

    monkeypatch.setattr("label_config.builder.ET.fromstring", parse)
    bomb = f'<!{keyword} v [<!ENTITY a "&b;&b;">]><View>&a;</View>'
    with pytest.raises(LabelConfigError, match="document type or an entity"):
        read(bomb)


@pytest.mark.guarantee(20)
def test_deep_nesting_is_survived():
    depth = 4_900
    with pytest.raises(LabelConfigError, match="No control"):
        read("<a>" * depth + "</a>" * depth)


def test_only_text_is_read():
    with pytest.raises(LabelConfigError, match="as text, got"):
        read(b"<View/>")


def test_an_unknown_template_is_refused_with_the_known_ones():
    with pytest.raises(LabelConfigError, match=r"No template 'mask'.*region_multiclass"):
        build(CAMVID, "mask")
