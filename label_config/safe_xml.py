"""Labelling XML that anybody may have written, parsed within bounds."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from label_config.errors import LabelConfigError

MAX_CHARACTERS = 1_000_000
MAX_TAGS = 5_000


def parse(xml: str, hint: str) -> ET.Element:
    """Root of a labelling configuration; `hint` is what to do where it is not XML at all.

    Raises: LabelConfigError on other than text, on too much of it, on document types, entities and
    broken XML.
    """
    if not isinstance(xml, str):
        raise LabelConfigError(f"Expected a labelling configuration as text, got {type(xml)}.")
    if len(xml) > MAX_CHARACTERS or xml.count("<") > 2 * MAX_TAGS:
        raise LabelConfigError(
            f"The labelling configuration has {len(xml)} characters and {xml.count('<')} tags; "
            f"at most {MAX_CHARACTERS} and {2 * MAX_TAGS} are read.",
            hint="Lists longer than 200 classes are not supported.",
        )
    # Refused before any parser sees them: entities can grow without end or name files.
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", xml, re.IGNORECASE):
        raise LabelConfigError(
            "The labelling configuration declares a document type or an entity.",
            hint="Remove <!DOCTYPE ...> and <!ENTITY ...>.",
        )
    try:
        return ET.fromstring(xml)
    except (ET.ParseError, ValueError) as error:
        raise LabelConfigError(
            f"The labelling configuration is not XML: {error}.", hint=hint
        ) from error
