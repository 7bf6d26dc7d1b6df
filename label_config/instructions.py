"""The text that annotators read before they begin, as HTML for Label Studio's instructions field.

Label Studio 1.23 cleans the field: `<img src>`, lists and `<kbd>` stay, inline styles go. What is
written here passes unchanged, so that a text that is there can be compared with a new one.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from label_config.classes import NOTHING_TEXT, OTHER_TEXT, UNSURE_TEXT, ClassSchema
from label_config.hotkeys import OTHER_KEY, UNSURE_KEY
from label_config.layouts import NOTHING_ALIAS, OTHER_ALIAS, layout, percent

# The last line. Where it is gone, somebody has made the text their own, and it is left alone.
RENEWED = "Delete this line to keep a text of your own."

PICTURE_WIDTH = 192  # px; three fit beside each other in Label Studio's window


def instructions(
    schema: ClassSchema,
    template: str = "region_multiclass",
    *,
    pictures: Sequence[str] = (),
    smallest_share: float = 0.0,
    undefined_alias: str = OTHER_ALIAS,
) -> str:
    """What a region is, which classes count, the other answers and the keys.

    Args:
        pictures: addresses of crops of the project's own regions.
        smallest_share: classes under this share of the region are to be left out.
        undefined_alias: `ParsedConfig.undefined_alias` of the project's setup.
    """
    one = layout(template).choice == "single-radio"
    old = undefined_alias == NOTHING_ALIAS
    parts = [
        "<h3>What is asked</h3>\n<p>Each question is about one <b>region</b>: the part of a photo "
        "inside the bright outline. The small picture shows where it lies in the photo. What is "
        "outside the outline, or only touches it, does not count.</p>",
        _pictures(pictures),
        f"<p>{_question(one, smallest_share)}</p>",
        f"<ul>{''.join(_further_answers(schema, one, old))}</ul>",
        "<p>Some ticks may be there when a question opens: a model set them. Look first, then "
        "correct them.</p>",
        f"<h3>Keys</h3>\n<p>{_keys(schema, old)}</p>",
        "<p><small>Written by PixBal, which renews it each time the project is set up. "
        f"{RENEWED}</small></p>",
    ]
    # Label Studio's page leaves no room between paragraphs.
    return "\n<br>\n".join(part for part in parts if part)


def _pictures(addresses: Sequence[str]) -> str:
    cells = [
        f'<td><img src="{html.escape(address)}" alt="A region of this project" '
        f'width="{PICTURE_WIDTH}"></td>'
        for address in addresses
    ]
    # A table: Label Studio's page puts pictures that follow each other below each other.
    return f"<table><tbody><tr>{''.join(cells)}</tr></tbody></table>" if cells else ""


def _question(one: bool, share: float) -> str:
    if one:
        return "Tick <b>the one class that covers most</b> of the region."
    if not share:
        return (
            "Tick <b>every class</b> that is inside the outline, however little of the region it "
            "covers."
        )
    part = " (a fifth)" if share == 0.2 else ""
    return (
        f"Tick <b>every class that covers at least {percent(share)}{part}</b> of the region. "
        "Leave out what covers less: a thin strip, a corner, a pole far away. Where nothing covers "
        "that much, tick what covers most."
    )


def _further_answers(schema: ClassSchema, one: bool, old: bool) -> list[str]:
    found = []
    if schema.undefined and old:
        found.append(
            f"<b>{NOTHING_TEXT}</b>: none of the classes is inside. Tick it alone; classes beside "
            "it do not count."
        )
    elif schema.undefined and one:
        found.append(f"<b>{OTHER_TEXT}</b>: something that no class names covers most.")
    elif schema.undefined:
        found.append(
            f"<b>{OTHER_TEXT}</b>: something is inside that no class names. It is a tick like any "
            "other: beside the classes that are there too, or alone."
        )
    found.append(
        f"<b>{UNSURE_TEXT}</b>: you cannot see what it is. It stands alone; ticks beside it do not "
        "count."
    )
    return [f"<li>{text}</li>" for text in found]


def _keys(schema: ClassSchema, old: bool) -> str:
    named = [(info.hotkey, html.escape(info.name, quote=False)) for info in schema.classes]
    rows = [(key, name) for key, name in named if key]
    if schema.undefined:
        rows.append((OTHER_KEY, NOTHING_TEXT if old else OTHER_TEXT))
    rows.append((UNSURE_KEY, UNSURE_TEXT))
    text = ", ".join(f"<kbd>{key}</kbd> {name}" for key, name in rows)
    if len(named) > len([key for key, _ in named if key]):
        text += (
            ". For the other classes: <kbd>Shift</kbd>+<kbd>F</kbd>, a part of the name, "
            "<kbd>Enter</kbd> ticks the first one found, <kbd>Tab</kbd> leaves the field"
        )
    return (
        f"{text}. <kbd>Ctrl</kbd>+<kbd>Enter</kbd> sends the answer, "
        "<kbd>Ctrl</kbd>+<kbd>Space</kbd> skips the question, <kbd>Esc</kbd> closes this window."
    )
