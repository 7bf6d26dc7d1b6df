"""Images of the demonstration: CamVid where it is at hand, else procedural street scenes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.datasets import CAMVID_VOID, Pair, camvid
from training.scenes import write_scene_set

POOL_IMAGES = 60
HELDOUT_IMAGES = 24


@dataclass(frozen=True)
class DemoData:
    """What `pixbal init` gets, and the masks that the simulated annotator looks at.

    Attributes:
        name: "CamVid" or "procedural scenes".
        images: text file with one pool image a line.
        heldout: folder with images/ and masks/ (links).
        classes: preset name or JSON file.
        masks: ground truth of each pool image by its path.
        void: mask value of pixels without a class.
    """

    name: str
    images: Path
    heldout: Path
    classes: str
    masks: dict[str, Path]
    void: int


def prepare_data(folder: Path, seed: int) -> DemoData:
    """Choose or make the images; the choice is spread evenly over the sequences."""
    folder.mkdir(parents=True, exist_ok=True)
    found = camvid_folder()
    if found is not None:
        return _collect(folder, "CamVid", found, "camvid")
    scenes = folder / "scenes"
    if not (scenes / "classes.json").is_file():
        write_scene_set(scenes, train=POOL_IMAGES, heldout=HELDOUT_IMAGES, seed=seed)
    return _collect(folder, "procedural scenes", scenes, str(scenes / "classes.json"))


def camvid_folder() -> Path | None:
    """CamVid under PIXBAL_DATA or ../shared/data; None if in neither."""
    roots = [Path(os.environ["PIXBAL_DATA"])] if os.environ.get("PIXBAL_DATA") else []
    for root in (*roots, Path("../shared/data")):
        if (root / "camvid" / "train" / "images").is_dir():
            return (root / "camvid").resolve()
    return None


def _collect(folder: Path, name: str, root: Path, classes: str) -> DemoData:
    pool = _spread(camvid(root, "train").pairs, POOL_IMAGES)
    test = _spread(camvid(root, "test").pairs, HELDOUT_IMAGES)
    listing = folder / "pool.txt"
    listing.write_text("".join(f"{pair.image}\n" for pair in pool), encoding="utf-8")
    heldout = folder / "heldout"
    for kind in ("images", "masks"):
        (heldout / kind).mkdir(parents=True, exist_ok=True)
        for old in (heldout / kind).iterdir():
            old.unlink()
    for pair in test:
        (heldout / "images" / pair.image.name).symlink_to(pair.image)
        (heldout / "masks" / pair.mask.name).symlink_to(pair.mask)
    masks = {str(pair.image): pair.mask for pair in pool}
    return DemoData(name, listing, heldout, classes, masks, CAMVID_VOID)


def _spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """`count` of the pairs at even steps."""
    step = max(1.0, len(pairs) / count)
    return [pairs[int(i * step)] for i in range(min(count, len(pairs)))]
