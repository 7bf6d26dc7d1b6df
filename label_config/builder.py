"""Classes and a template -> Label Studio's labelling XML, and back."""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib import resources
from xml.etree import ElementTree as ET

from label_config.classes import NOTHING_TEXT, UNSURE_TEXT, ClassInfo, ClassSchema, shorten
from label_config.errors import LabelConfigError
from label_config.hotkeys import NOTHING_KEY, UNSURE_KEY
from label_config.layouts import NOTHING_ALIAS, TEMPLATES, UNSURE_ALIAS, Layout, layout
from label_config.safe_xml import parse
from label_config.style import style

_REINSTALL = "Put the template back with `pixbal init`, or undo the change in Label Studio."


@dataclass(frozen=True)
class ParsedConfig:
    """What a project's XML asks: template, classes, control, object and the data keys it shows."""

    template: str
    schema: ClassSchema
    from_name: str
    to_name: str
    value_keys: tuple[str, ...]


def build(schema: ClassSchema, template: str = "region_multiclass") -> str:
    """Labelling XML of a template for these classes; `read` is the inverse.

    The value stored for a class is its index as text ("0", "1", ...), so that a class can be
    renamed; "none" stands for "Nothing listed", "unsure" for "Can't tell".

    Raises: LabelConfigError for an unknown template.
    """
    plan = layout(template)
    root = ET.fromstring(
        (resources.files("label_config") / "templates" / plan.file).read_text("utf-8")
    )
    _only(root, "Header", None).set("value", plan.header)
    control = _only(root, plan.tag, plan.from_name)
    if plan.choice:
        _only(root, "Style", None).text = style(len(schema.classes), 1 + schema.undefined)
        control.set("choice", plan.choice)
        what = "a class" if plan.choice == "single-radio" else "at least one class"
        nothing = f"'{NOTHING_TEXT}' or " if schema.undefined else ""
        control.set("requiredMessage", f"Tick {what}, {nothing}'{UNSURE_TEXT}'.")
    for index, info in enumerate(schema.classes):
        control.append(_item(plan, index, info))
    if plan.choice and schema.undefined:
        control.append(_extra(NOTHING_TEXT, NOTHING_ALIAS, NOTHING_KEY))
    if plan.choice:
        control.append(_extra(UNSURE_TEXT, UNSURE_ALIAS, UNSURE_KEY))
    elif not schema.undefined:
        # A mask needs no answer "Nothing listed"; the choice must survive reading all the same.
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
    undefined = NOTHING_ALIAS in by_alias
    extras = [UNSURE_ALIAS] if plan.choice else []
    if undefined:
        extras.append(NOTHING_ALIAS)
    count = len(items) - len(extras)
    wanted = [*map(str, range(max(count, 1))), *extras]
    if len(by_alias) != len(items) or set(by_alias) != set(wanted):
        found = [f"{item.get('value')!r} alias {item.get('alias')!r}" for item in items]
        raise LabelConfigError(
            f"The choices of {plan.from_name!r} do not fit: expected the aliases "
            f"{shorten(wanted)}, each once; found {', '.join(found[:30]) or 'none'}.",
            hint=_REINSTALL,
        )
    if not plan.choice:
        undefined = root.get("className") != "pixbal-all-listed"
    classes = tuple(_read_item(plan, by_alias[str(index)]) for index in range(count))
    schema = ClassSchema(classes, undefined)
    return ParsedConfig(template, schema, plan.from_name, plan.to_name, plan.value_keys)


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
    control = _only(root, plan.tag, plan.from_name)
    items = list(control)
    place = 1 + max(i for i, item in enumerate(items) if item.get("alias") == str(have - 1))
    for index, info in enumerate(schema.classes[have:], start=have):
        control.insert(place + index - have, _item(plan, index, info))
    for tag in root.iter("Style"):
        if (tag.text or "").split() == style(have, 1 + schema.undefined).split():
            tag.text = style(len(schema.classes), 1 + schema.undefined)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")
