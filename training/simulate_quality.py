"""How right pseudo labels are, against the masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.dataset import IGNORE
from training.images import read_mask
from training.simulate_data import PoolEntry
from training.transforms import resize_nearest


@dataclass(frozen=True)
class PseudoQuality:
    """Shares over the pixels whose true class is known; None without any such pixel.

    accuracy: right among those that have a pseudo label. coverage: those that have one.
    """

    accuracy: float | None
    coverage: float | None


def pseudo_quality(entries: Sequence[PoolEntry], folder: Path, classes: int) -> PseudoQuality:
    """Compare `folder`/<image id>.png, at the size they were made, with the masks of `entries`.

    An image without a file was not learned from and does not count.
    """
    known = labelled = right = 0
    for entry in entries:
        path = folder / f"{entry.image_id}.png"
        if not path.is_file():
            continue
        labels = read_mask(path)
        truth = resize_nearest(read_mask(entry.mask), (labels.shape[0], labels.shape[1]))
        valid = truth < classes
        with_label = valid & (labels != IGNORE)
        known, labelled = known + int(valid.sum()), labelled + int(with_label.sum())
        right += int(np.count_nonzero(labels[with_label] == truth[with_label]))
    return PseudoQuality(
        right / labelled if labelled else None, labelled / known if known else None
    )
