"""Keys a labeller presses for a class: those that Label Studio 1.23 leaves free.

Label Studio binds single letters itself: u (unselect a region), h (pan) and v (move) on every image
screen, b (brush) and e (eraser) with a brush, p with a polygon. They stay out of every template, so
that a class keeps its key when the template changes; a class without a key may get one of them from
Label Studio, on the screen only. Two keys are the same in every project: 0 for "Nothing listed" and
x for "Can't tell".
"""

from __future__ import annotations

from label_config.errors import LabelConfigError

NOTHING_KEY = "0"
UNSURE_KEY = "x"
# Digits first; then rows near the left hand, for the right one stays on the mouse.
CLASS_KEYS = "123456789qwrtasdfgzcyiojklnm"


def default_keys(count: int) -> tuple[str | None, ...]:
    """Keys of the first `count` classes in order; None beyond the free ones."""
    spare = max(0, count - len(CLASS_KEYS))
    return (*CLASS_KEYS[:count], *([None] * spare))


def check_key(key: object, owner: str) -> None:
    """Raise LabelConfigError unless `key` is None or one of CLASS_KEYS."""
    if key is None or (isinstance(key, str) and len(key) == 1 and key in CLASS_KEYS):
        return
    raise LabelConfigError(
        f"Class {owner!r} has the hotkey {key!r}; expected one of {CLASS_KEYS} or none.",
        hint="The other keys belong to Label Studio or to 'Nothing listed' (0) and 'Can't tell' "
        "(x). Leave the hotkeys out to have them assigned.",
    )
