"""Pictures of queried regions and pseudo labels, embedded in the report at a bounded size."""

from __future__ import annotations

import io
from itertools import groupby
from pathlib import Path

from PIL import Image

from training.errors import ImageError
from training.images import read_image
from training.report_html import Html, data_uri, join, tag
from training.results import GalleryItem, Results, ResultsError

MAX_SIDE_PX = 480
MAX_BYTES = 8_000_000  # of all pictures of a report together


def gallery(results: Results, folder: Path, max_bytes: int = MAX_BYTES) -> Html:
    """The pictures of every run by method, seed and round; empty without any.

    Each is scaled to at most MAX_SIDE_PX; what does not fit into `max_bytes` is counted, not shown.

    Raises: ResultsError naming a picture that is missing, unreadable or outside `folder`.
    """
    left = max_bytes
    parts: list[Html] = []
    omitted = 0
    for run in results.runs:
        ordered = sorted(run.gallery, key=lambda item: item.round)
        for number, items in groupby(ordered, key=lambda item: item.round):
            figures = []
            for item in items:
                data = _thumbnail(folder, item)
                if len(data) > left:
                    omitted += 1
                    continue
                left -= len(data)
                figures.append(_figure(item, data))
            summary = tag("summary", f"{run.method}, seed {run.seed}, round {number}")
            shown = tag("div", *figures, class_="gallery")
            parts.append(tag("details", summary, shown, open="open" if not parts else None))
    if omitted:
        text = f"{omitted} pictures are left out: the report holds {max_bytes:,} bytes of them at "
        parts.append(tag("p", f"{text}most. All lie beside the results.", class_="bad"))
    return join(parts)


def _figure(item: GalleryItem, data: bytes) -> Html:
    picture = tag("img", src=data_uri(data, "image/jpeg"), alt=item.caption)
    return tag("figure", picture, tag("figcaption", item.caption))


def _thumbnail(folder: Path, item: GalleryItem) -> bytes:
    """JPEG of at most MAX_SIDE_PX a side."""
    path = folder / item.image
    # A link may lead out of the folder although the name does not.
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ResultsError(f"The picture {item.image} lies outside {folder}.")
    try:
        picture = Image.fromarray(read_image(path))
    except ImageError as error:
        raise ResultsError(
            f"The gallery lacks a picture: {error.message}", hint="Run the experiment again."
        ) from error
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
