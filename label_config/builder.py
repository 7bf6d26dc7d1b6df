"""Classes and a template -> Label Studio's labelling XML, and back."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from importlib import resources
from xml.etree import ElementTree as ET

from label_config.classes import (
    NOTHING_TEXT,
    OTHER_TEXT,
    UNSURE_TEXT,
    ClassInfo,
    ClassSchema,
    shorten,
)
from label_config.errors import LabelConfigError
from label_config.hotkeys import FILTER_KEY, OTHER_KEY, UNSURE_KEY
from label_config.layouts import (
    NOTHING_ALIAS,
    OTHER_ALIAS,
    TEMPLATES,
    UNDEFINED_ALIASES,
    UNSURE_ALIAS,
    Layout,
    header,
    layout,
)
from label_config.safe_xml import parse
from label_config.style import style

# Of the choice for what no class names: in new setups it combines with classes, "none" never did.
_UNDEFINED_TEXTS = {OTHER_ALIAS: OTHER_TEXT, NOTHING_ALIAS: NOTHING_TEXT}
_REINSTALL = "Put the template back with `pixbal init`, or undo the change in Label Studio."


@dataclass(frozen=True)
class ParsedConfig:
    """What a project's XML asks: template, classes, control, object and the data keys it shows.

    `undefined_alias`: what is stored where no class fits; "none" in setups made by 0.1, where it
    excludes the classes, else "other", which combines with them.
    """

    template: str
    schema: ClassSchema
    from_name: str
    to_name: str
    value_keys: tuple[str, ...]
    undefined_alias: str = OTHER_ALIAS


def build(
    schema: ClassSchema,
    template: str = "region_multiclass",
    *,
    undefined_alias: str = OTHER_ALIAS,
    smallest_share: float = 0.0,
) -> str:
    """Labelling XML of a template for these classes; `read` is the inverse.

    The value stored for a class is its index as text ("0", "1", ...), so that a class can be
    renamed; "other" stands for "Something else", "unsure" for "Can't tell".

    Args:
        undefined_alias: "none" for the setup of a project that was made with "Nothing listed".
        smallest_share: the header says to leave out classes under this share of the outline.

    Raises: LabelConfigError for an unknown template, a share outside 0..1, or a class named like
    one of the further choices.
    """
    plan = layout(template)
    root = ET.fromstring(
        (resources.files("label_config") / "templates" / plan.file).read_text("utf-8")
    )
    _only(root, "Header", None).set("value", header(template, smallest_share))
    control = _only(root, plan.tag, plan.from_name)
    if plan.choice:
        _only(root, "Style", None).text = style_of(schema)
        control.set("choice", plan.choice)
        what = "a class" if plan.choice == "single-radio" else "at least one class"
        rest = f"'{_undefined_text(undefined_alias)}' or " if schema.undefined else ""
        control.set("requiredMessage", f"Tick {what}, {rest}'{UNSURE_TEXT}'.")
    for index, info in enumerate(schema.classes):
        control.append(_item(plan, index, info))
    if plan.choice and schema.undefined:
        _check_free(schema, _undefined_text(undefined_alias))
        control.append(_extra(_undefined_text(undefined_alias), undefined_alias, OTHER_KEY))
    if plan.choice:
        control.append(_extra(UNSURE_TEXT, UNSURE_ALIAS, UNSURE_KEY))
        add_search(root, plan, schema)
    elif not schema.undefined:
        # A mask needs no answer "Something else"; the choice must survive reading all the same.
        root.set("className", "pixbal-all-listed")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def read(xml: str) -> ParsedConfig:
    """Template and classes of a project's labelling XML, the inverse of `build`.

    Changes of style, texts and order are fine; the controls, their names and the stored values of
    the choices must be those that `build` wrote.

    Raises: LabelConfigError on other XML, a missing or renamed control, an added or missing
    choice, document types or entities, more than 1,000,000 characters.
    """
    root = parse(xml, _REINSTALL)
    template = _recognise(root)
    plan = TEMPLATES[template]
    control = _only(root, plan.tag, plan.from_name)
    _check_objects(root, control, plan)
    items = list(control.iter(plan.item_tag))
    by_alias = {item.get("alias"): item for item in items}
    # A setup with both has one choice too many: which of them is meant could not be told.
    found = [alias for alias in UNDEFINED_ALIASES if alias in by_alias][:1]
    extras = [UNSURE_ALIAS, *found] if plan.choice else found
    count = len(items) - len(extras)
    wanted = [*map(str, range(max(count, 1))), *extras]
    if len(by_alias) != len(items) or set(by_alias) != set(wanted):
        there = [f"{item.get('value')!r} alias {item.get('alias')!r}" for item in items]
        raise LabelConfigError(
            f"The choices of {plan.from_name!r} do not fit: expected the aliases "
            f"{shorten(wanted)}, each once; found {', '.join(there[:30]) or 'none'}.",
            hint=_REINSTALL,
        )
    undefined = bool(found) if plan.choice else root.get("className") != "pixbal-all-listed"
    classes = tuple(_read_item(plan, by_alias[str(index)]) for index in range(count))
    return ParsedConfig(
        template,
        ClassSchema(classes, undefined),
        plan.from_name,
        plan.to_name,
        plan.value_keys,
        found[0] if found else OTHER_ALIAS,
    )


def _undefined_text(alias: str) -> str:
    try:
        return _UNDEFINED_TEXTS[alias]
    except KeyError:
        raise LabelConfigError(
            f"No choice is stored as {alias!r}.", hint=f"Known: {', '.join(_UNDEFINED_TEXTS)}."
        ) from None


def _check_free(schema: ClassSchema, text: str) -> None:
    """A class of that name would be a second choice of the same text."""
    taken = [name for name in schema.names if name.casefold() == text.casefold()]
    if taken:
        raise LabelConfigError(
            f"The class name {taken[0]!r} is taken: the setup offers that answer already.",
            hint='Leave it out of the classes, or set "undefined" to false.',
        )


def style_of(schema: ClassSchema) -> str:
    """The CSS that `build` gives a setup of these classes."""
    return style(len(schema.classes), schema.undefined, _searched(schema))


def _searched(schema: ClassSchema) -> bool:
    return any(info.hotkey is None for info in schema.classes)


def add_search(root: ET.Element, plan: Layout, schema: ClassSchema) -> None:
    """Where a class has no key: a field that finds it by a part of its name; Enter ticks it.

    Label Studio keeps the cursor in the field and takes no other key there. It stands after the
    choices, so that Tab leaves it for a button, where keys count again, and not for one of the
    choices, where they do not; the style shows it above them. A setup that has one is left alone.
    """
    if not _searched(schema) or root.find(".//Filter") is not None:
        return
    control = _only(root, plan.tag, plan.from_name)
    # Enter in the empty field ticks the first choice. That must be no class: whoever presses it by
    # mistake would teach one that is not there.
    unsure = next(item for item in control if item.get("alias") == UNSURE_ALIAS)
    control.remove(unsure)
    control.insert(0, unsure)
    parent = next(tag for tag in root.iter() if control in tag)
    field = ET.Element(
        "Filter",
        name="find",
        toName=plan.from_name,
        hotkey=FILTER_KEY,
        minlength="1",
        placeholder="Shift+F, a part of a name, Enter, Tab",
    )
    parent.insert(list(parent).index(control) + 1, field)


def _item(plan: Layout, index: int, info: ClassInfo) -> ET.Element:
    item = ET.Element(plan.item_tag, value=info.name, alias=str(index))
    if info.hotkey:
        item.set("hotkey", info.hotkey)
    # html= is shown instead of value=, in which Label Studio would replace $words by task data.
    text = html.escape(info.name)
    if plan.choice:
        item.set("color", info.color)
        text = f'<span class="pixbal-swatch" style="background:{info.color}"></span>{text}'
    else:
        item.set("background", info.color)
    item.set("html", f"<span>{text}</span>")
    return item


def _extra(text: str, alias: str, hotkey: str) -> ET.Element:
    return ET.Element("Choice", value=text, alias=alias, hotkey=hotkey)


def _read_item(plan: Layout, item: ET.Element) -> ClassInfo:
    color = item.get("color" if plan.choice else "background", "")
    return ClassInfo(item.get("value", ""), color.lower(), item.get("hotkey"))


def _recognise(root: ET.Element) -> str:
    for template, plan in TEMPLATES.items():
        controls = [c for c in root.iter(plan.tag) if c.get("name") == plan.from_name]
        if any(_fits(control, plan) for control in controls):
            return template
    found = [
        f"<{tag.tag} {' '.join(f'{k}={v!r}' for k, v in tag.attrib.items() if len(v) < 40)}>"
        for tag in root.iter()
        if tag.get("toName")
    ]
    raise LabelConfigError(
        "No control of this product in the labelling configuration: expected <Choices "
        "name='classes' toName='region' choice='multiple' or 'single-radio'>, the same with "
        "toName='image' perRegion='true', or <BrushLabels name='mask' toName='image'>; "
        f"found {', '.join(found[:5]) or 'no control'}.",
        hint=_REINSTALL,
    )


def _fits(control: ET.Element, plan: Layout) -> bool:
    return (
        control.get("toName") == plan.to_name
        and control.get("choice") == plan.choice
        and (control.get("perRegion", "false").lower() == "true") == plan.per_region
    )


def _check_objects(root: ET.Element, control: ET.Element, plan: Layout) -> None:
    images = {image.get("name"): image.get("value") for image in root.iter("Image")}
    names = (plan.to_name, *plan.value_keys[1:])
    wanted = {name: f"${key}" for name, key in zip(names, plan.value_keys, strict=True)}
    if images != wanted:
        raise LabelConfigError(
            f"Expected the images {wanted} (name: value), found {images}.", hint=_REINSTALL
        )
    if plan.per_region and not any(
        tag.get("name") == control.get("whenTagName") for tag in root.iter("PolygonLabels")
    ):
        raise LabelConfigError(
            f"Expected <PolygonLabels name='outline'>, to which {plan.from_name!r} refers by "
            f"whenTagName; found whenTagName={control.get('whenTagName')!r}.",
            hint=_REINSTALL,
        )


def _only(root: ET.Element, tag: str, name: str | None) -> ET.Element:
    found = [e for e in root.iter(tag) if name is None or e.get("name") == name]
    if len(found) != 1:
        raise LabelConfigError(
            f"Expected one <{tag}> named {name!r}, found {len(found)}.", hint=_REINSTALL
        )
    return found[0]


def with_share(xml: str, smallest_share: float) -> str:
    """A project's labelling XML with a header that names another smallest share.

    A header with words of somebody's own, and everything else, stays as it is. Raises:
    LabelConfigError for a share outside 0..1, and as `read`.
    """
    template = read(xml).template
    wanted = header(template, smallest_share)
    # Of the words " inside " in the header of the template, or what stands for them with a share.
    before, _, after = map(re.escape, layout(template).header.partition(" inside "))
    ours = re.compile(rf"{before}( inside | that covers at least \S+ % of ){after}")
    root = parse(xml, _REINSTALL)
    for tag in root.iter("Header"):
        if ours.fullmatch(tag.get("value") or ""):
            tag.set("value", wanted)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def append_to_setup(xml: str, schema: ClassSchema) -> str:
    """A project's labelling XML with the classes of `schema` that it lacks; the rest as it is.

    Raises: LabelConfigError where the XML is none of ours, or its classes are not the first ones
    of the schema.
    """
    parsed = read(xml)
    have = len(parsed.schema.classes)
    if parsed.schema.names != schema.names[:have]:
        raise LabelConfigError(
            "The labelling setup has other classes than the project.",
            hint="Put it back with `pixbal init`.",
        )
    root = parse(xml, "")
    plan = TEMPLATES[parsed.template]
    if plan.choice and schema.undefined:
        _check_free(schema, _undefined_text(parsed.undefined_alias))
    control = _only(root, plan.tag, plan.from_name)
    items = list(control)
    place = 1 + max(i for i, item in enumerate(items) if item.get("alias") == str(have - 1))
    for index, info in enumerate(schema.classes[have:], start=have):
        control.insert(place + index - have, _item(plan, index, info))
    for tag in root.iter("Style"):
        if (tag.text or "").split() == style_of(parsed.schema).split():
            tag.text = style_of(schema)
    if plan.choice:
        add_search(root, plan, schema)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")
