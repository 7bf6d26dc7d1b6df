"""Superpixels: image -> RegionMap, by six methods under one contract.

Every pixel has a region, every region is one 4-connected piece, equal input gives equal output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from training.colour import srgb_to_lab
from training.errors import SuperpixelError
from training.regions import RegionMap
from training.repair import flood, keep_largest_pieces, merge_small_pieces
from training.seeds import REPAIR_OPENCV, has_seeds, seeds_labels

Pixels = NDArray[np.uint8]
Labels = NDArray[Any]
T = TypeVar("T")

MAX_SIDE_PX = 4096


@dataclass(frozen=True)
class Option:
    """A parameter of a method: its default fixes the type, low..high the range (inclusive)."""

    default: int | float | bool
    low: float = 0
    high: float = math.inf


@dataclass(frozen=True)
class Method:
    """labels(image, side_px, options) -> labels, and the number asked for (None: cannot ask)."""

    labels: Callable[[Pixels, int, Mapping[str, Any]], tuple[Labels, int | None]]
    options: Mapping[str, Option]
    pieces: bool = False  # True: each connected piece becomes a region, small ones are merged


def segment(image: Pixels, method: str = "seeds", side_px: int = 32, **params: Any) -> RegionMap:
    """Cut an image, (H, W, 3) uint8 RGB, into about H * W / side_px^2 superpixels.

    `params` override the method's options (`METHODS[method].options`). The map's own params hold
    all of them and: side_px; expected = H * W / side_px^2, at least 1; asked, the number given to
    the method (its counts come in steps, so it is searched for); count, what came out.

    Raises: SuperpixelError for an unknown method or option, values out of range, another array,
    or "seeds" and "watershed" without the OpenCV they need.
    """
    _check_image(image)
    chosen = _known(METHODS, method, "superpixel method")
    if isinstance(side_px, bool) or not isinstance(side_px, int) or not 4 <= side_px <= MAX_SIDE_PX:
        raise SuperpixelError(
            f"side_px must be a whole number 4..{MAX_SIDE_PX}, got {side_px!r}.",
            hint="32 px is the size the method was published with.",
        )
    options = {**{name: option.default for name, option in chosen.options.items()}, **params}
    for name, value in params.items():
        _check_option(name, value, _known(chosen.options, name, f"option of {method}"))

    labels, asked = chosen.labels(image, side_px, options)
    if chosen.pieces:
        min_px = max(1, round(options["min_share"] * side_px**2))
        ids = merge_small_pieces(labels, image, min_px)
    else:
        ids = keep_largest_pieces(labels, image)
    count = int(ids.max()) + 1
    found = {"expected": expected_count(image.shape, side_px), "asked": asked, "count": count}
    return RegionMap(ids, count, method, {"side_px": side_px, **options, **found})


def available_methods() -> tuple[str, ...]:
    """The methods that work with the libraries installed here."""
    missing = {"seeds"} if not has_seeds() else set()
    if not _has_watershed():
        missing.add("watershed")
    return tuple(name for name in METHODS if name not in missing)


def default_method() -> str:
    """ "seeds" where OpenCV has it, else "slic"; for a new project only, which then keeps it."""
    return "seeds" if has_seeds() else "slic"


def expected_count(shape: tuple[int, ...], side_px: int) -> int:
    """Number of side_px x side_px squares an image of this shape holds, rounded, at least 1."""
    return max(1, round(shape[0] * shape[1] / side_px**2))


def _seeds(image: Pixels, side_px: int, options: Mapping[str, Any]) -> tuple[Labels, int | None]:
    return seeds_labels(image, side_px, expected_count(image.shape, side_px), options)


def _slic(image: Pixels, side_px: int, options: Mapping[str, Any]) -> tuple[Labels, int | None]:
    from skimage.segmentation import slic

    asked = _slic_request(image.shape[:2], expected_count(image.shape, side_px))
    lab = srgb_to_lab(image)
    # slic stretches its input to 0..1 first; undone here, so that compactness counts in Lab units.
    span = float(lab.max() - lab.min()) or 1.0
    labels = slic(
        lab,
        n_segments=asked,
        compactness=options["compactness"] / span,
        max_num_iter=options["iterations"],
        sigma=options["sigma"],
        convert2lab=False,
        enforce_connectivity=False,  # True merges dozens of superpixels into one
        start_label=0,
    )
    return labels, asked


def _felzenszwalb(
    image: Pixels, side_px: int, options: Mapping[str, Any]
) -> tuple[Labels, int | None]:
    from skimage.segmentation import felzenszwalb

    min_size = max(1, round(options["min_share"] * side_px**2))
    labels = felzenszwalb(
        image, scale=options["scale"] * side_px, sigma=options["sigma"], min_size=min_size
    )
    return labels, None


def _quickshift(
    image: Pixels, side_px: int, options: Mapping[str, Any]
) -> tuple[Labels, int | None]:
    from skimage.segmentation import quickshift

    labels = quickshift(
        srgb_to_lab(image),
        ratio=options["ratio"],
        kernel_size=max(1.0, options["kernel"] * side_px),  # skimage refuses less
        max_dist=options["reach"] * side_px,
        convert2lab=False,
        rng=0,
    )
    return labels, None


def _watershed(
    image: Pixels, side_px: int, options: Mapping[str, Any]
) -> tuple[Labels, int | None]:
    if not _has_watershed():
        raise SuperpixelError(
            "'watershed' needs OpenCV, which is not installed.", hint=REPAIR_OPENCV
        )
    import cv2

    height, width = image.shape[:2]
    rows, columns = _grid_shape(height, width, side_px)
    markers = np.zeros((height, width), np.int32)
    y = (np.arange(rows) * 2 + 1) * height // (2 * rows)
    x = (np.arange(columns) * 2 + 1) * width // (2 * columns)
    markers[np.ix_(y, x)] = np.arange(1, rows * columns + 1).reshape(rows, columns)
    seeds = markers.copy()
    cv2.watershed(np.ascontiguousarray(image), markers)
    # OpenCV draws lines (-1) between basins and along the image border, over markers, too.
    labels = np.where(markers > 0, markers, seeds) - 1
    return flood(labels.astype(np.int32), image), rows * columns


def _grid(image: Pixels, side_px: int, options: Mapping[str, Any]) -> tuple[Labels, int | None]:
    height, width = image.shape[:2]
    rows, columns = _grid_shape(height, width, side_px)
    y, x = np.arange(height) * rows // height, np.arange(width) * columns // width
    return y[:, None] * columns + x, rows * columns


_PIECE_OPTIONS = {"min_share": Option(0.125, 0.0, 1.0)}  # of side_px^2; smaller pieces are merged

METHODS: dict[str, Method] = {
    "seeds": Method(
        _seeds,
        {
            "levels": Option(3, 2, 6),  # 5, as published, takes 8 times longer for .008 mIoU
            "prior": Option(3, 0, 5),
            "bins": Option(10, 2, 20),
            "iterations": Option(8, 1, 100),
            "double_step": Option(True),
            # Lab colours of photographs use a third of their range, so a third of the bins.
            "chroma_gain": Option(3.0, 0.1, 10.0),
        },
    ),
    "slic": Method(
        _slic,
        {
            "compactness": Option(8.0, 0.01, 1000.0),
            "iterations": Option(8, 1, 100),
            "sigma": Option(1.0, 0.0, 100.0),
        },
    ),
    "felzenszwalb": Method(
        _felzenszwalb,
        {"scale": Option(2.0, 0.0, 1e6), "sigma": Option(0.8, 0.0, 100.0), **_PIECE_OPTIONS},
        pieces=True,
    ),
    "quickshift": Method(
        _quickshift,
        {
            "kernel": Option(0.125, 0.03, 1.0),
            "reach": Option(0.5, 0.03, 10.0),
            "ratio": Option(1.0, 0.0, 1.0),
            **_PIECE_OPTIONS,
        },
        pieces=True,
    ),
    "watershed": Method(_watershed, {}),
    "grid": Method(_grid, {}),
}


def _grid_shape(height: int, width: int, side_px: int) -> tuple[int, int]:
    """Rows and columns whose product is nearest to height * width / side_px^2."""
    target = max(1.0, height * width / side_px**2)
    shapes = []
    for rows in {max(1, height // side_px), min(height, height // side_px + 1)}:
        for columns in {int(target / rows), int(target / rows) + 1}:
            shapes.append((rows, min(max(columns, 1), width)))
    return min(shapes, key=lambda shape: (abs(shape[0] * shape[1] - target), shape))


def _slic_request(shape: tuple[int, ...], expected: int) -> int:
    """n_segments whose seed grid comes nearest to `expected`; slic rounds it to a full grid."""
    from skimage.util import regular_grid

    def seeds(asked: int) -> int:
        steps = regular_grid(shape, asked)
        return math.prod(len(range(size)[step]) for size, step in zip(shape, steps, strict=True))

    spread = max(2, expected // 4)
    requests = range(max(1, expected - spread), expected + spread + 1)
    requests = requests[:: max(1, len(requests) // 200)]
    return min(requests, key=lambda asked: (abs(seeds(asked) - expected), abs(asked - expected)))


def _has_watershed() -> bool:
    try:
        import cv2
    except ImportError:
        return False
    return hasattr(cv2, "watershed")  # two packages own the folder cv2/: it may be empty


def _known(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise SuperpixelError(
            f"Unknown {what}: {name!r}.", hint=f"Known: {', '.join(known) or 'none'}."
        )
    return known[name]


def _check_image(image: Pixels) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise SuperpixelError(
            f"Expected an image as non-empty (H, W, 3) uint8, got {image.shape} {image.dtype}.",
            hint="Read it with training.images.read_image.",
        )


def _check_option(name: str, value: Any, option: Option) -> None:
    kind = type(option.default)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or not option.low <= value <= option.high:
        raise SuperpixelError(
            f"Expected {name} as {kind.__name__} in {option.low}..{option.high}, got {value!r}.",
            hint=f"The default is {option.default}.",
        )
