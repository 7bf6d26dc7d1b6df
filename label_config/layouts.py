"""The templates: which question is asked, with which controls, on which data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from label_config.errors import LabelConfigError

NOTHING_ALIAS = "none"
UNSURE_ALIAS = "unsure"


@dataclass(frozen=True)
class Layout:
    """One way to ask: its XML file, the control that holds the classes and the data it shows."""

    file: str
    tag: str
    from_name: str
    to_name: str
    value_keys: tuple[str, ...]
    header: str
    choice: str | None = None
    per_region: bool = False

    @property
    def item_tag(self) -> str:
        """Tag of one class inside the control."""
        return "Choice" if self.tag == "Choices" else "Label"


_REGION = ("crop", "locator")

TEMPLATES: Mapping[str, Layout] = MappingProxyType(
    {
        "region_multiclass": Layout(
            file="region.xml",
            tag="Choices",
            from_name="classes",
            to_name="region",
            value_keys=_REGION,
            header="Tick every class inside the outline",
            choice="multiple",
        ),
        "region_dominant": Layout(
            file="region.xml",
            tag="Choices",
            from_name="classes",
            to_name="region",
            value_keys=_REGION,
            header="Tick the class that covers most of the outline",
            choice="single-radio",
        ),
        "image_regions": Layout(
            file="image_regions.xml",
            tag="Choices",
            from_name="classes",
            to_name="image",
            value_keys=("image",),
            header="Tick every class inside the selected outline (Alt+. goes to the next)",
            choice="multiple",
            per_region=True,
        ),
        "image_masks": Layout(
            file="image_masks.xml",
            tag="BrushLabels",
            from_name="mask",
            to_name="image",
            value_keys=("image",),
            header="Paint every pixel of each class",
        ),
    }
)


def layout(template: str) -> Layout:
    """The layout of a template; LabelConfigError names the known ones."""
    try:
        return TEMPLATES[template]
    except KeyError:
        raise LabelConfigError(
            f"No template {template!r}.", hint=f"Templates: {', '.join(TEMPLATES)}."
        ) from None
