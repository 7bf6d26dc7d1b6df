"""The control of any labelling setup in which people paint or outline the classes on an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal
from xml.etree import ElementTree as ET

from label_config.builder import build
from label_config.classes import ClassSchema, shorten
from label_config.errors import LabelConfigError
from label_config.safe_xml import parse

Kind = Literal["brush", "polygon"]

_KINDS: Mapping[str, Kind] = MappingProxyType({"BrushLabels": "brush", "PolygonLabels": "polygon"})
_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("value", str),
    ("alias", str),
    ("value", lambda text: text.strip().casefold()),
    ("alias", lambda text: text.strip().casefold()),
)
_WANTED = (
    "The setup needs one <BrushLabels> or <PolygonLabels> with a name, whose toName is an "
    "<Image value='$key'>."
)


@dataclass(frozen=True)
class MaskControl:
    """Where the masks of a project go.

    Attributes:
        from_name: the control.
        to_name: the image.
        value_key: the task data key that holds the image.
        stored: by class name, what Label Studio stores for it: the label's alias or value.
        missing: class names that the setup offers no label for.
    """

    kind: Kind
    from_name: str
    to_name: str
    value_key: str
    stored: Mapping[str, str]
    missing: tuple[str, ...] = ()


def read_mask_control(xml: str, schema: ClassSchema) -> MaskControl:
    """The one BrushLabels or PolygonLabels on an image in a labelling setup of anybody.

    A label stands for the class its value names; where none does, for the class its alias names;
    then the same without regard to case and blanks around. A class or label that fits several of
    the other kind in one of these steps is left alone by it.

    Raises: LabelConfigError where there is no such control or several, the image has no plain
    `$key`, or no label is a class; as `read` on XML that cannot be read.
    """
    root = parse(xml, "Save a valid labelling setup in Label Studio.")
    control, image = _control(root)
    labels = [label for label in control.iter("Label") if label.get("value")]
    stored = _match(labels, schema.names)
    name = f"<{control.tag} name={control.get('name')!r}>"
    if not stored:
        found = shorten(label.get("value") for label in labels) or "no label"
        raise LabelConfigError(
            f"No label of {name} is a class: it offers {found}; the classes are "
            f"{shorten(schema.names)}.",
            hint="Give the labels the names of the classes; case does not matter.",
        )
    key = image.get("value", "")
    if not key.startswith("$") or len(key) < 2:
        raise LabelConfigError(
            f"The image of {name} has value={key!r}, which names no task data.", hint=_WANTED
        )
    return MaskControl(
        kind=_KINDS[control.tag],
        from_name=control.get("name", ""),
        to_name=control.get("toName", ""),
        value_key=key[1:],
        stored=MappingProxyType({n: stored[n] for n in schema.names if n in stored}),
        missing=tuple(n for n in schema.names if n not in stored),
    )


def template_control(schema: ClassSchema) -> MaskControl:
    """The control of our own template `image_masks`."""
    return read_mask_control(build(schema, "image_masks"), schema)


def _control(root: ET.Element) -> tuple[ET.Element, ET.Element]:
    images = {image.get("name"): image for image in root.iter("Image") if image.get("name")}
    masks = [tag for tag in root.iter() if tag.tag in _KINDS]
    usable = [tag for tag in masks if tag.get("name") and tag.get("toName") in images]
    if len(usable) == 1:
        return usable[0], images[usable[0].get("toName")]
    shown = [f"<{t.tag} name={t.get('name')!r} toName={t.get('toName')!r}>" for t in masks[:5]]
    raise LabelConfigError(
        f"Expected one brush or polygon control on an image, found {len(usable)} "
        f"(of {', '.join(shown) or 'no such control'}; images: {shorten(images) or 'none'}).",
        hint=_WANTED,
    )


def _match(labels: Sequence[ET.Element], names: Sequence[str]) -> dict[str, str]:
    """What is stored for each class that a label stands for."""
    stored: dict[str, str] = {}
    used: list[ET.Element] = []
    for attribute, fold in _STEPS:
        free = [label for label in labels if label not in used]
        texts = [fold(label.get(attribute, "")) for label in free]
        open_names = [name for name in names if name not in stored]
        fits, wanted = Counter(texts), Counter(map(fold, open_names))
        for name in open_names:
            if fits[fold(name)] == wanted[fold(name)] == 1:
                label = free[texts.index(fold(name))]
                used.append(label)
                stored[name] = label.get("alias", "") or label.get("value", "")
    return stored
