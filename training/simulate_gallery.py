"""Pictures of a round: what was asked, what is there, and the pseudo labels it led to."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.atomic import write_atomically
from training.images import read_image, read_mask
from training.regions import RegionId, RegionMap
from training.simulate_data import PoolEntry, SimulationData
from training.transforms import resize_nearest

HEIGHT_PX = 180  # of each panel
GREY = 40  # of a pixel without a label
NEW, OLD = (255, 230, 0), (255, 255, 255)  # borders of regions asked about now, and before

Pixels = NDArray[np.uint8]


def draw_gallery(
    data: SimulationData,
    regions: Mapping[str, Path],
    asked: Sequence[Sequence[RegionId]],
    labels: Path,
    folder: Path,
    number: int,
) -> list[dict[str, Any]]:
    """JPEGs of the `number` images that the last round asked most about; records for the report.

    Panels: regions asked about, their true classes, pseudo labels inside them, all pseudo labels.
    The last two only where `labels`/<image id>.png is there.
    """
    if number == 0:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    entries = {entry.image_id: entry for entry in data.pool}
    counts = Counter(region.image_id for region in asked[-1])
    records = []
    for image_id, questions in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:number]:
        path = folder / f"round-{len(asked)}-{image_id}.jpg"
        panels = _panels(entries[image_id], regions[image_id], asked, labels, len(data.classes))
        picture = Image.fromarray(panels)
        write_atomically(path, lambda file, p=picture: p.save(file, "JPEG", quality=85))  # type: ignore[misc]
        shown = "asked (new in yellow), true classes"
        if (labels / f"{image_id}.png").is_file():
            shown += ", pseudo labels inside the regions, pseudo labels after expansion"
        caption = f"{image_id}, {questions} new questions: {shown}"
        records.append({"round": len(asked), "image": path.name, "caption": caption})
    return records


def _panels(
    entry: PoolEntry,
    regions: Path,
    asked: Sequence[Sequence[RegionId]],
    labels: Path,
    classes: int,
) -> Pixels:
    image = read_image(entry.image)
    size = (HEIGHT_PX, max(1, round(HEIGHT_PX * image.shape[1] / image.shape[0])))
    small = np.asarray(Image.fromarray(image).resize((size[1], size[0])))
    ids = resize_nearest(RegionMap.load(regions).ids, size)
    now = [region.index for region in asked[-1] if region.image_id == entry.image_id]
    before = [r.index for part in asked[:-1] for r in part if r.image_id == entry.image_id]
    inside = np.isin(ids, now + before)
    questions = small.copy()
    questions[_border(ids) & np.isin(ids, before)] = OLD
    questions[_border(ids) & np.isin(ids, now)] = NEW
    panels = [questions, _coloured(resize_nearest(read_mask(entry.mask), size), inside, classes)]
    pseudo = labels / f"{entry.image_id}.png"
    if pseudo.is_file():
        shown = resize_nearest(read_mask(pseudo), size)
        panels += [_coloured(shown, part, classes) for part in (inside, shown != 255)]
    return np.concatenate(panels, axis=1)


def _border(ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels above or left of another region."""
    border = np.zeros(ids.shape, np.bool_)
    border[:-1] |= ids[1:] != ids[:-1]
    border[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    return border


def _coloured(labels: Pixels, shown: NDArray[np.bool_], classes: int) -> Pixels:
    """Each class in a colour of its own; grey where nothing is shown, black where no class is.

    That is void in a mask, and "something else" among pseudo labels.
    """
    table = np.zeros((256, 3), np.uint8)
    for value in range(classes):  # the golden angle keeps neighbouring indices apart
        hue, light = (value * 0.381966) % 1.0, 0.45 + 0.25 * (value % 3) / 2
        table[value] = [round(255 * part) for part in colorsys.hls_to_rgb(hue, light, 0.7)]
    return np.where(shown[..., None], table[labels], np.uint8(GREY)).astype(np.uint8)
