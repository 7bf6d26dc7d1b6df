"""PASCAL VOC 2012: pairs by its list files, and the extra masks of SBD as PNG."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import io as matlab

from training.atomic import write_atomically
from training.datasets import Pair
from training.errors import DataError
from training.images import read_mask


def voc_pairs(images: Path, masks: Path, names: Path) -> tuple[Pair, ...]:
    """The pairs that a list file names, in its order.

    A line holds a name, or the paths of image and mask as in widespread lists for SBD.

    Raises: DataError for an empty list, a name given twice, or files that are missing.
    """
    listed = read_names(names)
    pairs = tuple(Pair(images / f"{name}.jpg", masks / f"{name}.png") for name in listed)
    missing = [path for pair in pairs for path in (pair.image, pair.mask) if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        shown = ", ".join(f"{path.parent.name}/{path.name}" for path in missing[:5])
        raise DataError(
            f"{names} names {len(missing)} files that are not there: {shown}{more}.",
            hint="Unpack the archive again, or use the list that belongs to it.",
        )
    return pairs


def read_names(path: Path) -> tuple[str, ...]:
    """Names without suffix, one a line, blank lines left out. Raises DataError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The list {path} cannot be read: {error}.", hint="Get it again."
        ) from error
    names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if not names or twice:
        raise DataError(
            f"The list {path} has {len(names)} names, of which {twice[:5]} stand more than once.",
            hint="Give each image once.",
        )
    return tuple(names)


def add_sbd(sbd: Path, voc: Path) -> int:
    """Add SBD's masks to VOC 2012: SegmentationClassAug/*.png and the list train_aug.

    train_aug = VOC's train and all of SBD, without VOC's val; VOC's own mask is kept where there
    is one.

    Args:
        sbd: the folder with cls/*.mat, train.txt and val.txt (benchmark_RELEASE/dataset).
        voc: the folder with JPEGImages and SegmentationClass (VOC2012).

    Returns: how many images train_aug has.

    Raises: DataError for files that are missing or hold no mask.
    """
    lists = voc / "ImageSets" / "Segmentation"
    own, val = read_names(lists / "train.txt"), set(read_names(lists / "val.txt"))
    extra = {*read_names(sbd / "train.txt"), *read_names(sbd / "val.txt")}
    names = sorted({*own, *extra} - val)
    target = voc / "SegmentationClassAug"
    target.mkdir(exist_ok=True)
    for name in names:
        kept = voc / "SegmentationClass" / f"{name}.png"
        mask = read_mask(kept) if kept.is_file() else _read_sbd(sbd / "cls" / f"{name}.mat")
        save = partial(Image.fromarray(mask).save, format="PNG")
        write_atomically(target / f"{name}.png", save)
    text = "".join(f"{name}\n" for name in names).encode()
    write_atomically(lists / "train_aug.txt", lambda file: file.write(text))
    return len(names)


def _read_sbd(path: Path) -> NDArray[np.uint8]:
    """GTcls.Segmentation of a MATLAB file, (H, W) uint8. Raises DataError."""
    try:
        values: Any = matlab.loadmat(path, struct_as_record=False)
        mask = np.asarray(values["GTcls"][0, 0].Segmentation)
    # On damaged files this reader raises nearly anything: ValueError, TypeError, zlib.error ...
    except Exception as error:
        raise DataError(
            f"{path} holds no mask of SBD ({type(error).__name__}: {error}).",
            hint="Unpack benchmark.tgz again.",
        ) from error
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{path} holds a mask of shape {mask.shape}, {mask.dtype}.")
    return mask
