"""Labelling XML: building, reading, hand edits and attacks."""

from __future__ import annotations

import html
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_classes import names

from label_config import TEMPLATES, ClassInfo, ClassSchema, LabelConfigError, build, read
from label_config.builder import with_share

CAMVID = ClassSchema.load("camvid")
RECORDED = Path(__file__).parent / "recorded"
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
        ("Sky", "0", "a"), ("Building", "1", "s"), ("Pole", "2", "d"), ("Road", "3", "f"),
        ("Pavement", "4", "g"), ("Tree", "5", "q"), ("SignSymbol", "6", "w"), ("Fence", "7", "r"),
        ("Car", "8", "t"), ("Pedestrian", "9", "z"), ("Bicyclist", "10", "c"),
        ("Something else", "other", "0"), ("Can't tell", "unsure", "x"),
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
def test_without_undefined_there_is_no_something_else(template):
    root = ET.fromstring(build(ClassSchema(CAMVID.classes, undefined=False), template))
    assert [c.get("alias") for c in root.iter("Choice")][-2:] == ["10", "unsure"]


@pytest.mark.parametrize("template", CHOICES)
def test_setups_with_nothing_listed_are_read_as_before(template):
    old = build(CAMVID, template, undefined_alias="none")
    choice = ET.fromstring(old).findall(".//Choice")[-2]
    assert (choice.get("value"), choice.get("alias")) == ("Nothing listed", "none")
    config = read(old)
    assert (config.schema, config.undefined_alias) == (CAMVID, "none")
    assert build(config.schema, template, undefined_alias=config.undefined_alias) == old
    assert read(build(CAMVID, template)).undefined_alias == "other"


def test_a_setup_saved_by_release_0_1_is_read_as_before():
    """Keys, colours and choices of the file in tests/recorded stay what they are."""
    text = (RECORDED / "region_multiclass_0.1.0.xml").read_text("utf-8")
    config = read(text)
    assert config.undefined_alias == "none"
    assert config.schema.names == CAMVID.names
    assert "".join(c.hotkey for c in config.schema.classes) == "123456789qw"


def test_a_class_named_like_a_choice_is_refused_where_both_would_be_offered():
    own = ClassSchema.of(["Road", "something else"])
    with pytest.raises(LabelConfigError, match="'something else' is taken"):
        build(own)
    assert read(build(own, undefined_alias="none")).schema == own  # a project made before
    listed = ClassSchema.of(["Road", "Something else"], undefined=False)
    assert read(build(listed)).schema == listed
    with pytest.raises(LabelConfigError, match="No choice is stored as 'rest'"):
        build(CAMVID, undefined_alias="rest")


@pytest.mark.parametrize(
    ("template", "share", "text"),
    [
        ("region_multiclass", 0.0, "Tick every class inside the outline"),
        ("region_multiclass", 0.2, "Tick every class that covers at least 20 % of the outline"),
        ("image_regions", 0.125, "Tick every class that covers at least 12.5 % of the selected"
         " outline (Alt+. goes to the next)"),
        ("region_dominant", 0.2, "Tick the class that covers most of the outline"),
    ],
)  # fmt: skip
def test_the_header_says_which_shares_are_left_out(template, share, text):
    xml = build(CAMVID, template, smallest_share=share)
    assert ET.fromstring(xml).find(".//Header").get("value") == text
    assert read(xml).schema == CAMVID


@pytest.mark.parametrize("template", CHOICES)
@pytest.mark.parametrize("alias", ["other", "none"])
def test_another_share_changes_the_header_alone(template, alias):
    setups = [
        build(CAMVID, template, undefined_alias=alias, smallest_share=s) for s in (0, 0.2, 0.125)
    ]
    for before in setups:
        for share, after in zip((0, 0.2, 0.125), setups, strict=True):
            assert with_share(before, share) == after
    own = setups[0].replace("Tick ", "Kreuze an: ")
    assert with_share(own, 0.3) == own


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(LabelConfigError, match=r"0\.\.1"):
        build(CAMVID, smallest_share=share)


@pytest.mark.parametrize("template", CHOICES)
def test_classes_without_a_key_can_be_found_by_name(template):
    fit, more = (ClassSchema.of([f"class {i}" for i in range(n)]) for n in (28, 29))
    assert ET.fromstring(build(fit, template)).find(".//Filter") is None
    xml = build(more, template)
    field = ET.fromstring(xml).find(".//Filter")
    assert (field.get("toName"), field.get("hotkey")) == ("classes", "shift+f")
    aliases = [choice.get("alias") for choice in ET.fromstring(xml).iter("Choice")]
    # Enter in the empty field ticks the first choice: a class there would be taught by mistake.
    assert (aliases[0], aliases[1], aliases[-1]) == ("unsure", "0", "other")
    assert ET.fromstring(build(fit, template)).find(".//Choice").get("alias") == "0"
    assert read(xml).schema == more


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
    assert ".lsf-choice:first-child, .pixbal-side .lsf-choice:last-child { order: -2; }" in long
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
        (edited('hotkey="s"', 'hotkey="a"'), "'a' is used more than once"),
        (edited("</Choices>", '<Choice value="N" alias="none"/></Choices>'), "'N' alias 'none'"),
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
