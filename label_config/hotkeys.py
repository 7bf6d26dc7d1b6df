"""Keys a labeller presses for a class: those that Label Studio 1.23 leaves free.

Label Studio binds single letters itself: u (unselect a region), h (pan) and v (move) on every image
screen, b (brush) and e (eraser) with a brush, p with a polygon. They stay out of every template, so
that a class keeps its key when the template changes; a class without a key may get one of them from
Label Studio, on the screen only. Two keys are the same in every project: 0 for "Something else" and
x for "Can't tell". Classes beyond the free keys are found by name: Shift+F goes to a field for it.

The keys of a project are stored with its classes: another order here changes none of them.
"""

from __future__ import annotations

from collections.abc import Collection

from label_config.errors import LabelConfigError

OTHER_KEY = "0"
UNSURE_KEY = "x"
FILTER_KEY = "shift+f"
# From the left hand's rest outwards, for the right one stays on the mouse: its own row, the rows
# above and below, the digits above; then what it reaches only by leaving its place.
CLASS_KEYS = "asdfgqwrtzc12345y6nj7mki8l9o"


def default_keys(count: int, taken: Collection[str] = ()) -> tuple[str | None, ...]:
    """Keys for `count` further classes in order, none of them `taken`; None beyond the free."""
    free = [key for key in CLASS_KEYS if key not in taken][:count]
    return (*free, *([None] * (count - len(free))))


def check_key(key: object, owner: str) -> None:
    """Raise LabelConfigError unless `key` is None or one of CLASS_KEYS."""
    if key is None or (isinstance(key, str) and len(key) == 1 and key in CLASS_KEYS):
        return
    raise LabelConfigError(
        f"Class {owner!r} has the hotkey {key!r}; expected one of {CLASS_KEYS} or none.",
        hint="The other keys belong to Label Studio or to 'Something else' (0) and 'Can't tell' "
        "(x). Leave the hotkeys out to have them assigned.",
    )
