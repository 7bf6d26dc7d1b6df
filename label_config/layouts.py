"""The templates: which question is asked, with which controls, on which data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from label_config.errors import LabelConfigError

OTHER_ALIAS = "other"
# What setups made by 0.1 offer instead: "Nothing listed", which hides every other tick.
NOTHING_ALIAS = "none"
UNSURE_ALIAS = "unsure"
UNDEFINED_ALIASES = (OTHER_ALIAS, NOTHING_ALIAS)


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


def header(template: str, smallest_share: float = 0.0) -> str:
    """The question over the choices; it names the share under which a class is left out.

    Raises: LabelConfigError for a share outside 0..1.
    """
    if not 0.0 <= smallest_share <= 1.0:
        raise LabelConfigError(
            f"The smallest share must lie in 0..1, got {smallest_share!r}.",
            hint="0.2 leaves out classes under a fifth of the outline, 0 none.",
        )
    plan = layout(template)
    if plan.choice != "multiple" or not smallest_share:
        return plan.header
    return plan.header.replace(" inside ", f" that covers at least {percent(smallest_share)} of ")


def percent(share: float) -> str:
    """0.2 -> "20 %"."""
    return f"{100 * share:.3g} %"
