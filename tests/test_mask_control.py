"""The brush or polygon control in labelling setups of anybody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_classes import names

from label_config import TEMPLATES, ClassSchema, LabelConfigError, build
from label_config.mask_control import read_mask_control, template_control

SCHEMA = ClassSchema.of(["Road", "Sky", "Car"])
IMAGE = '<Image name="img" value="$photo"/>'


def setup(labels, tag="BrushLabels", image=IMAGE, more=""):
    """A setup with one control; `labels` as (value, alias or None)."""
    items = "".join(
        f'<Label value="{value}"' + (f' alias="{alias}"/>' if alias else "/>")
        for value, alias in labels
    )
    control = f'<{tag} name="seg" toName="img">{items}</{tag}>'
    return f"<View>{image}<View>{control}</View>{more}</View>"


@pytest.mark.parametrize(("tag", "kind"), [("BrushLabels", "brush"), ("PolygonLabels", "polygon")])
def test_names_keys_and_values_are_those_of_the_setup(tag, kind):
    control = read_mask_control(
        setup([("Car", None), ("Lorry", None), ("Road", "street")], tag), SCHEMA
    )
    assert control.kind == kind
    assert (control.from_name, control.to_name, control.value_key) == ("seg", "img", "photo")
    assert dict(control.stored) == {"Road": "street", "Car": "Car"}
    assert list(control.stored) == ["Road", "Car"]
    assert control.missing == ("Sky",)


@pytest.mark.parametrize(
    ("labels", "stored"),
    [
        ([("road", None), ("SKY", None)], {"Road": "road", "Sky": "SKY"}),
        ([(" Road ", None)], {"Road": " Road "}),
        # An exact value wins over one of other case, a value over an alias.
        ([("ROAD", None), ("Road", None)], {"Road": "Road"}),
        ([("Strasse", "Road"), ("Road", "r")], {"Road": "r"}),
        ([("Strasse", "Road"), ("Himmel", "sky")], {"Road": "Road", "Sky": "sky"}),
        # Two that fit equally well: neither.
        ([("ROAD", None), ("road", None), ("Car", None)], {"Car": "Car"}),
        ([("Road", "a"), ("Road", "b"), ("Car", None)], {"Car": "Car"}),
    ],
)
def test_labels_are_matched_by_value_then_alias_then_without_case(labels, stored):
    assert dict(read_mask_control(setup(labels), SCHEMA).stored) == stored


def test_classes_that_differ_in_case_only_are_matched_exactly():
    schema = ClassSchema.of(["car", "Car"])
    assert dict(read_mask_control(setup([("Car", None), ("CAR", None)]), schema).stored) == {
        "Car": "Car", "car": "CAR",
    }  # fmt: skip
    with pytest.raises(LabelConfigError, match="No label"):
        read_mask_control(setup([("CAR", None)]), schema)


@given(st.lists(names, min_size=1, max_size=12, unique=True))
def test_our_own_template_stores_the_indices(chosen):
    control = template_control(ClassSchema.of(chosen))
    plan = TEMPLATES["image_masks"]
    assert control.kind == "brush"
    assert (control.from_name, control.to_name) == (plan.from_name, plan.to_name)
    assert control.value_key == "image"
    assert dict(control.stored) == {name: str(i) for i, name in enumerate(chosen)}
    assert control.missing == ()


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (setup([("Lorry", None)]), "offers 'Lorry'; the classes are 'Road', 'Sky', 'Car'"),
        (setup([]), "offers no label"),
        (
            setup([("Road", None)], "RectangleLabels"),
            r"found 0 \(of no such control; images: 'img'",
        ),
        (setup([("Road", None)], image=""), r"found 0 \(of <BrushLabels name='seg'.*images: none"),
        (setup([("Road", None)], image='<Image name="img" valueList="$p"/>'), "value='', which"),
        (setup([("Road", None)], image='<Image name="img" value="$"/>'), r"value='\$', which"),
        (
            setup([("Road", None)], more='<PolygonLabels name="p" toName="img"/>'),
            "found 2 .*'seg'.*<PolygonLabels name='p'",
        ),
        (build(SCHEMA), "found 0"),
        (build(SCHEMA, "image_regions"), "offers 'region'"),
        ("<View>", "not XML"),
        ("<!DOCTYPE v><View/>", "document type"),
    ],
)
def test_other_setups_are_refused_with_what_was_found(xml, words):
    with pytest.raises(LabelConfigError, match=words) as caught:
        read_mask_control(xml, SCHEMA)
    assert caught.value.hint


def test_a_control_of_a_text_does_not_count():
    text = '<Text name="t" value="$t"/><PolygonLabels name="p" toName="t"/>'
    assert read_mask_control(setup([("Road", None)], more=text), SCHEMA).from_name == "seg"
