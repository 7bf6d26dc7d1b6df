"""Pictures from people: any common file in, uint8 RGB out, or a named error."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from training.errors import ImageError

MAX_PIXELS = 50_000_000
# For files that an import has measured against its own cap: what it let in must stay readable.
ACCEPTED_PIXELS = 2_000_000_000

# Only these: others among Pillow's plugins run programs (EPS) or are no pictures for the web.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")

_DEPTHS = (8, 10, 12, 14, 16)  # bits that 16-bit files are found to use

_ORIENTATION_TAG = 0x0112
# What brings a picture stored with this EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


@dataclass(frozen=True, eq=False)
class Picture:
    """RGB (H, W, 3) uint8, upright; `bits` that a 16-bit file uses, None for other files."""

    pixels: NDArray[np.uint8]
    bits: int | None = None


def read_image(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a picture as RGB, (H, W, 3) uint8, upright (EXIF orientation applied).

    The first frame of animations. Transparency is dropped, not composited: the colour stored
    under it counts. 16-bit files are brought to 0..255 from the bits they use: 8, 10, 12, 14 or 16
    (cameras and scanners fill 12 of 16). Other numbers: 0..1 is brought to 0..255, 0..255 stays,
    0..65535 whole numbers count as 16 bit, anything else is stretched from its minimum to its
    maximum (NaN counts as the minimum).

    Raises: ImageError for what is missing, empty, truncated, no picture, or has more pixels than
    `max_pixels` by its header (checked before anything is decoded).
    """
    return read_picture(source, max_pixels).pixels


def read_picture(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """`read_image`, and how many bits of a 16-bit file were used. Raises as `read_image`."""
    with _opened(source, max_pixels) as picture:
        orientation = _orientation(picture)
        deep = _is_deep(picture)
        picture.load()
        rgb, bits = _deep_rgb(picture, source) if deep else _to_rgb(picture)
        if orientation in _UPRIGHT:
            rgb = np.array(Image.fromarray(rgb).transpose(_UPRIGHT[orientation]))
        return Picture(rgb, bits)


def read_mask(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a class-index mask, (H, W) uint8, values as stored (palette indices, void included).

    Raises: ImageError as `read_image`, and for a picture with several channels or values over 255.
    """
    values, mode = read_values(source, max_pixels)
    if values.ndim != 2:
        raise ImageError(
            f"{_name(source)} is a mask with {values.shape[2]} channels (mode {mode}).",
            hint="Store one class index per pixel: 8-bit grey or palette.",
        )
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise ImageError(
            f"{_name(source)} is a mask with broken numbers such as "
            f"{values[values != np.rint(values)][0]:g}.",
            hint="Class indices are whole numbers.",
        )
    if values.dtype != bool and (values.min() < 0 or values.max() > 255):
        raise ImageError(
            f"{_name(source)} is a mask with values {values.min()}..{values.max()}.",
            hint="Class indices must lie in 0..255.",
        )
    return values.astype(np.uint8)


def read_values(
    source: Path | str | bytes, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[Any], str]:
    """What a file stores, (H, W) or (H, W, channels), and Pillow's name of its mode; not turned.

    Raises: ImageError as `read_image`, and for 16-bit colour, whose low bits would be lost.
    """
    with _opened(source, max_pixels) as picture:
        if _is_deep(picture):
            raise ImageError(
                f"{_name(source)} has 16 bits per colour.",
                hint="Store one class index per pixel: 8-bit grey or palette.",
            )
        picture.load()
        return np.array(picture), picture.mode


def image_size(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width in px of what `read_image` would give, from the header alone.

    Raises: ImageError as `read_image`; damage behind the header goes unseen.
    """
    with _opened(source, max_pixels) as picture:
        width, height = picture.size
        return (width, height) if _orientation(picture) in _SWAPS_SIDES else (height, width)


def content_id(data: bytes) -> str:
    """Name of a content: the first 24 hex digits of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:24]


@contextmanager
def _opened(source: Path | str | bytes, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """The picture, header read and size checked; all that goes wrong inside becomes ImageError."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            if not file.read(1):
                raise ImageError(
                    f"{_name(source)} is empty (0 bytes).", hint="Fetch or export the image again."
                )
            file.seek(0)
            with _identify(file, source) as picture:
                _check_size(picture, source, max_pixels)
                yield picture
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"There is no image at {source!s}.", hint="Check the path.") from error
    # On damaged files Pillow's readers raise nearly anything: OSError, SyntaxError, struct.error,
    # ValueError, KeyError, DecompressionBombError ...
    except Exception as error:
        raise ImageError(
            f"{_name(source)} cannot be decoded ({type(error).__name__}: {error}).",
            hint="The file may be truncated or damaged: fetch or export it again.",
        ) from error


def _identify(file: Any, source: Path | str | bytes) -> ImageFile.ImageFile:
    """Open with the first reader that accepts the file.

    Image.open would do the same, but warns or raises on its own pixel limit before the size can
    be named, and both that limit and the warning filters are shared by all threads.
    """
    Image.init()
    start = file.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = factory is not None and (accept is None or accept(start))
        if factory is None or not accepted or isinstance(accepted, str):
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except SyntaxError:  # how a reader says "not mine"
            continue
    raise ImageError(
        f"{_name(source)} is not an image: it begins with {start!r}.",
        hint=f"Readable formats: {', '.join(FORMATS)}.",
    )


def _check_size(picture: Image.Image, source: Path | str | bytes, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(
            f"{_name(source)} has {width} x {height} = {width * height:,} pixels; "
            f"at most {max_pixels:,} are allowed.",
            hint="Scale or cut the image down, or raise PIXBAL_MAX_PIXELS.",
        )
    if width * height == 0:
        raise ImageError(
            f"{_name(source)} has no pixels ({width} x {height}).", hint="Export the image again."
        )


def _orientation(picture: ImageFile.ImageFile) -> int:
    """EXIF orientation 1..8 as known before decoding; 1 where it is absent or damaged."""
    if picture.format == "TIFF":
        return 1  # Pillow turns TIFF upright itself, in size as well as in pixels
    try:
        # Image.Image's own method: the one of PNG would decode the picture first.
        value = Image.Image.getexif(picture).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is no reason to refuse the picture; viewers ignore it, too
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(picture: Image.Image) -> tuple[NDArray[np.uint8], int | None]:
    if picture.mode.startswith(("I", "F")):
        grey, bits = _to_eight_bits(np.array(picture))
        return np.repeat(grey[:, :, None], 3, axis=2), bits
    if picture.mode in ("P", "PA", "LA", "La", "RGBa"):
        picture = picture.convert("RGBA")  # first, or Pillow warns of palettes with transparency
    return np.array(picture.convert("RGB")), None


def _is_deep(picture: ImageFile.ImageFile) -> bool:
    """Whether the file has 16 bits per colour, of which Pillow keeps the upper eight.

    To be asked before decoding.
    """
    colour = picture.mode in ("RGB", "RGBA", "RGBX", "LA")
    return colour and any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))


def _deep_rgb(
    picture: Image.Image, source: Path | str | bytes
) -> tuple[NDArray[np.uint8], int | None]:
    """RGB of a picture of 16 bits per colour; OpenCV reads those bits that Pillow drops."""
    high, _ = _to_rgb(picture)
    if high.max() >= 64:  # 15 bits or more are in use: the upper eight hold the picture
        return high, 16
    import cv2

    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is not None and values.ndim == 2:
        values = np.repeat(values[:, :, None], 3, axis=2)
    rgb = None if values is None else values[:, :, 2::-1]
    if rgb is None or rgb.dtype != np.uint16 or not np.array_equal(rgb >> 8, high):
        raise ImageError(
            f"{_name(source)} has 16 bits per colour, of which few are used, and they cannot be "
            "read.",
            hint="Store it as a PNG of 8 or 16 bits.",
        )
    return _to_eight_bits(rgb)


def _to_eight_bits(values: NDArray[Any]) -> tuple[NDArray[np.uint8], int | None]:
    """Numbers of any width as uint8, and the bits in use of 16; the rule stands in `read_image`."""
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        if values.dtype.itemsize == 2 or high > 255:
            bits = next(n for n in _DEPTHS if high < 1 << n)
            return np.rint(values / (((1 << bits) - 1) / 255)).astype(np.uint8), bits
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    numbers = np.nan_to_num(numbers, nan=low, posinf=high, neginf=low)
    # A constant image outside the known ranges has nothing to stretch: black.
    return np.rint((numbers - low) / ((high - low) or 1.0) * 255).astype(np.uint8), None


def _name(source: Path | str | bytes) -> str:
    return f"Image data ({len(source)} bytes)" if isinstance(source, bytes) else str(source)
