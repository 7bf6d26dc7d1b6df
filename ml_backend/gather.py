"""All that an import is given - photos, tasks of a project, held-out images - looked at first."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from label_config import ClassSchema
from ml_backend.from_project import sources_of_project
from ml_backend.heldout import read_heldout
from ml_backend.label_studio import LabelStudio
from ml_backend.settings import Settings
from ml_backend.sources import Found, Source, find_sources
from ml_backend.store import Image
from training.images import content_id


def gather(
    settings: Settings,
    ls: LabelStudio,
    schema: ClassSchema,
    *,
    images: Sequence[str] = (),
    from_project: int | None = None,
    heldout: str | None = None,
    stored: Sequence[Image] = (),
) -> Found:
    """The images to import, held-out masks read, and what a person should know about them.

    Args:
        images: folders, globs and lists.
        from_project: a Label Studio project of whole images.
        heldout: a folder of images/ and masks/.
        stored: the images that the project has.

    Raises:
        BackendError: nothing there, or held-out images that cannot be used, with the reasons.
    """
    found = [find_sources(spec) for spec in images]
    sources = [source for one in found for source in one.sources]
    notes = [note for one in found for note in one.notes]
    if heldout is not None:
        kept = [i for i in stored if i.split == "heldout" and i.status == "ready"]
        pool = {i.image_id for i in stored if i.split == "pool" and i.status == "ready"}
        held = read_heldout(
            heldout, schema, settings.max_pixels, pool=pool | _contents(sources), others=kept
        )
        notes += held.warnings
    if from_project is not None:
        sources += sources_of_project(settings, ls, from_project, stored)
    if heldout is not None:
        sources += held.sources
    return Found(tuple(sources), tuple(notes))


def _contents(sources: Sequence[Source]) -> set[str]:
    found = set()
    for source in sources:
        with contextlib.suppress(OSError):  # refused at import, with its reason
            found.add(content_id(source.path.read_bytes()))
    return found
