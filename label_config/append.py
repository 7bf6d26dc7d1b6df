"""More classes at the end of a list: index, key and colour of the others never change."""

from __future__ import annotations

from collections.abc import Sequence

from label_config.classes import MAX_CLASSES, ClassInfo, ClassSchema
from label_config.errors import LabelConfigError
from label_config.hotkeys import default_keys


def appended(
    schema: ClassSchema, names: Sequence[str], colors: Sequence[str | None] = ()
) -> ClassSchema:
    """The schema with more classes, with free keys, and distinct colours where none is given.

    Raises: LabelConfigError for names or colours that no class can have, or names in use.
    """
    if colors and len(colors) != len(names):
        raise LabelConfigError(f"Got {len(colors)} colours for {len(names)} classes.")
    used = {info.hotkey for info in schema.classes}
    free = [key for key in default_keys(MAX_CLASSES) if key and key not in used]
    keys = [*free, *[None] * len(names)]
    together = ClassSchema.of(
        [*schema.names, *names],
        [*(info.color for info in schema.classes), *(colors or [None] * len(names))],
        schema.undefined,
    )
    fresh = together.classes[len(schema.classes) :]
    more = (ClassInfo(c.name, c.color, key) for c, key in zip(fresh, keys, strict=False))
    return ClassSchema((*schema.classes, *more), schema.undefined)
