"""Pictures of every kind, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.errors import ImageError, SnapshotError
from training.images import (
    content_id,
    image_size,
    read_image,
    read_mask,
    read_picture,
    read_values,
)

# Four colours that survive JPEG, asymmetric under every turn and flip.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 95, "subsampling": 0},
}


def picture(height: int = 16, width: int = 32) -> NDArray[np.uint8]:
    return CORNERS.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends after its header: 1 bit, grey."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"\0" * 64)
    return (
        b"\x89PNG\r\n\x1a\n" + body
        + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_lossless_formats(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"  # the content decides, not the name
    path.write_bytes(encode(Image.fromarray(picture()), kind))
    image = read_image(path)
    assert np.array_equal(image, picture())
    assert (image.dtype, image.flags.c_contiguous, image.flags.writeable) == (np.uint8, True, True)
    assert np.array_equal(read_image(str(path)), read_image(path.read_bytes()))
    assert image_size(path) == (16, 32)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000"])
def test_lossy_formats(kind: str) -> None:
    image = read_image(encode(Image.fromarray(picture()), kind, quality=95))
    assert np.abs(image[2, 2].astype(int) - [255, 0, 0]).max() < 12
    assert image.shape == (16, 32, 3)


@pytest.mark.guarantee(18)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    stored: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, 3),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored[orientation](picture())))
    data = encode(image, kind, exif=exif, **OPTIONS.get(kind, {}))
    assert np.abs(read_image(data).astype(int) - picture())[2:6, 2:12].max() < 12
    assert np.abs(read_image(data).astype(int) - picture())[10:14, 20:30].max() < 12
    assert read_image(data).shape == (16, 32, 3)
    assert image_size(data) == (16, 32)


def test_damaged_exif_is_ignored() -> None:
    data = encode(Image.fromarray(picture()), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(read_image(data), picture())


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    image = read_image(encode(Image.fromarray(values), "PNG"))
    assert image.tolist() == [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]
    assert np.array_equal(read_image(encode(Image.fromarray(values), "TIFF")), image)


@pytest.mark.guarantee(18)
def test_sixteen_bit_colour_png() -> None:
    rows = b"\0" + struct.pack(">6H", 65535, 0, 128 * 257, 0, 257, 40000)
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0), b"IDAT" + zlib.compress(rows),
        b"IEND",
    ]  # fmt: skip
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )
    assert read_image(data).tolist() == [[[255, 0, 128], [0, 1, 40000 // 256]]]


def test_sixteen_bit_pgm_is_scaled() -> None:
    data = b"P5 2 1 65535\n" + struct.pack(">2H", 65535, 257)
    assert read_image(data)[0, :, 0].tolist() == [255, 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 7.0, 255.0], [0, 7, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([100.0, 1100.0, np.nan], [0, 255, 0]),
        ([-np.inf, 300.0, np.inf], [0, 0, 0]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([-5.0, -5.0, -5.0], [0, 0, 0]),
    ],
)
def test_float_tiff(values: list[float], expected: list[int]) -> None:
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert read_image(data)[0, :, 0].tolist() == expected


def test_32_bit_integer_tiff_is_stretched() -> None:
    data = encode(Image.fromarray(np.array([[0, 2**30, 2**31 - 1]], np.int32)), "TIFF")
    assert read_image(data)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.guarantee(18)
def test_cmyk_jpeg() -> None:
    data = encode(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(read_image(data)[2, 2].astype(int) - [255, 0, 0]).max() < 30


@pytest.mark.parametrize("transparency", [1, b"\x00\x80"])
def test_palette_with_transparency_keeps_its_colours(transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 200, 210, 220])
    data = encode(image, "PNG", transparency=transparency)
    assert read_image(data).tolist() == [[[10, 20, 30], [200, 210, 220]]]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped(mode: str) -> None:
    image = Image.new(mode, (2, 1), (90, 0) if mode == "LA" else (90, 90, 90, 0))
    assert read_image(encode(image, "PNG")).tolist() == [[[90, 90, 90]] * 2]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_three_channels(mode: str) -> None:
    assert read_image(encode(Image.new(mode, (3, 2), 255), "PNG")).tolist() == [[[255] * 3] * 3] * 2


@pytest.mark.guarantee(18)
@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_animations(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#ff0000", "#00ff00")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    assert np.abs(read_image(data)[4, 4].astype(int) - [255, 0, 0]).max() < 5


def test_one_pixel() -> None:
    assert read_image(encode(Image.new("RGB", (1, 1), "#010203"), "PNG")).tolist() == [[[1, 2, 3]]]


@pytest.mark.guarantee(18)
@pytest.mark.parametrize("size", [(10_000, 10_001), (30_000, 30_000), (65_535, 65_535)])
@pytest.mark.parametrize("read", [read_image, image_size, read_mask])
def test_header_over_the_cap(size: tuple[int, int], read: Callable[..., Any]) -> None:
    with pytest.raises(ImageError) as caught:
        read(png_header(*size))
    assert f"{size[0]} x {size[1]}" in caught.value.message
    assert "50,000,000" in caught.value.message
    assert "raise PIXBAL_MAX_PIXELS" in caught.value.hint


@pytest.mark.guarantee(18)
def test_cap_is_inclusive_and_can_be_raised() -> None:
    data = encode(Image.new("L", (30, 20)), "PNG")
    assert read_image(data, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="30 x 20"):
        read_image(data, max_pixels=599)
    # Over Pillow's own limit, where it would warn or raise before the size is known.
    assert image_size(png_header(20_000, 20_000), max_pixels=10**9) == (20_000, 20_000)


@pytest.mark.guarantee(18)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000"])
def test_truncated(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    for keep in (1, 3, 12, 20, len(data) // 3, 2 * len(data) // 3):
        with pytest.raises(ImageError):
            read_image(data[:keep])


@pytest.mark.guarantee(18)
def test_flipped_bits_give_pictures_or_image_errors() -> None:
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"):
        whole = np.frombuffer(encode(noise, kind), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[rng.integers(0, min(len(data), 120), 3)] ^= np.uint8(rng.integers(1, 256))
            try:
                assert read_image(data.tobytes(), max_pixels=10**6).dtype == np.uint8
            except ImageError:
                refused += 1
    assert refused > 20


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html>404 not found</html>")
    with pytest.raises(ImageError, match=r"a\.png is not an image: it begins with b'<html>404"):
        read_image(tmp_path / "a.png")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match="no image at"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"Image data \(0 bytes\) is empty"):
        read_image(b"")


def test_postscript_is_not_run() -> None:
    data = encode(Image.fromarray(picture()), "EPS")
    with pytest.raises(ImageError, match="not an image"):
        read_image(data)


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_mask_values_are_kept(mode: str) -> None:
    values = np.array([[0, 3, 11, 255]], np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    mask = read_mask(encode(image, "PNG"))
    assert (mask.tolist(), mask.dtype) == ([[0, 3, 11, 255]], np.uint8)


def test_mask_refuses_colour_and_large_values() -> None:
    with pytest.raises(ImageError, match="3 channels"):
        read_mask(encode(Image.fromarray(picture()), "PNG"))
    with pytest.raises(ImageError, match=r"values 0\.\.300"):
        read_mask(encode(Image.fromarray(np.array([[0, 300]], np.uint16)), "PNG"))


def test_content_id_is_the_sha256() -> None:
    assert content_id(b"") == "e3b0c44298fc1c149afbf4c8"
    assert len({content_id(bytes([i])) for i in range(256)}) == 256


CASES = Path(__file__).parent / "cases"


def test_twelve_bits_in_a_16_bit_grey_file_are_not_nearly_black() -> None:
    """Seen failing: 17 grey levels, the brightest 16 of 255."""
    found = read_picture(CASES / "gray12in16.png")
    assert found.bits == 12
    stored = np.array(Image.open(CASES / "gray12in16.png")).astype(float)
    assert np.array_equal(found.pixels[:, :, 0], np.rint(stored / 4095 * 255))
    assert found.pixels.max() == 252
    assert np.array_equal(read_image(CASES / "gray12in16.png"), found.pixels)


def test_twelve_bits_in_a_16_bit_colour_file_are_not_nearly_black() -> None:
    """Seen failing: Pillow keeps the upper eight bits, at most 15 of 255."""
    found = read_picture(CASES / "rgb16_12bit.png")
    assert found.bits == 12
    assert found.pixels.max() == 254
    upper = np.array(Image.open(CASES / "rgb16_12bit.png"))  # red first, as Pillow reads it
    assert np.abs(found.pixels.astype(int) - upper.astype(int) * 16).max() <= 16
    assert len(np.unique(found.pixels)) > 100


@pytest.mark.parametrize(
    ("high", "bits", "shown"),
    [(255, 8, 255), (1023, 10, 255), (4095, 12, 255), (16383, 14, 255), (16384, 16, 64),
     (65535, 16, 255)],
)  # fmt: skip
@pytest.mark.parametrize("colour", [False, True])
def test_the_bits_in_use_decide_the_scale(high: int, bits: int, shown: int, colour: bool) -> None:
    values = np.array([[0, high]], np.uint16)
    if colour:
        import cv2

        data = cv2.imencode(".png", np.repeat(values[:, :, None], 3, axis=2))[1].tobytes()
    else:
        data = encode(Image.fromarray(values), "PNG")
    found = read_picture(data)
    assert (found.bits, found.pixels[0, :, 0].tolist()) == (bits, [0, shown])


def test_a_deep_colour_file_is_turned_upright() -> None:
    """OpenCV reads the pixels as they are stored; the orientation still holds."""
    import cv2

    stored = np.zeros((2, 3, 3), np.uint16)
    stored[0, 0] = 4095
    plain = cv2.imencode(".png", stored)[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees: the first pixel of the file is at the upper right
    body = exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + body))
    turned = read_image(plain[:33] + chunk + plain[33:])
    assert turned.shape == (3, 2, 3)
    assert turned[0, 1].tolist() == [255] * 3


def test_negative_16_bit_numbers_are_stretched_not_wrapped() -> None:
    """Seen failing: -1000 came out brighter than 1000."""
    from training.images import _to_eight_bits

    assert _to_eight_bits(np.array([[-1000, 0, 1000]], np.int16))[0].tolist() == [[0, 128, 255]]


def test_masks_of_broken_numbers_or_deep_colour_are_refused() -> None:
    """Seen failing: 0.5 was class 0; 16-bit colour lost its low bits, so that all was class 0."""
    import cv2

    broken = encode(Image.fromarray(np.array([[0.5, 1.0]], np.float32)), "TIFF")
    with pytest.raises(ImageError, match="broken numbers"):
        read_mask(broken)
    deep = cv2.imencode(".png", np.ones((2, 2, 3), np.uint16))[1].tobytes()
    for read in (read_values, read_mask):  # held-out masks are read by the former
        with pytest.raises(ImageError, match="16 bits per colour"):
            read(deep)


def test_what_an_import_let_in_can_be_trained_on_and_predicted(tmp_path: Path) -> None:
    """PIXBAL_MAX_PIXELS raised: import and labels worked, the round failed at 50,000,000.

    Seen failing with the cap of `read_image` left in training.dataset.
    """
    from training.config import AugmentConfig
    from training.dataset import ImageSource, Sample, read_regions
    from training.regions import RegionMap
    from training.snapshot import SnapshotItem

    path = tmp_path / "i.png"
    Image.fromarray(np.zeros((6200, 8200), np.uint8)).save(path)
    with pytest.raises(ImageError, match="at most"):
        read_image(path)
    sample = Sample(path, "", lambda: np.zeros((62, 82), np.int32), np.ones((1, 2), np.bool_))
    source = ImageSource([sample], AugmentConfig(crop=(32, 32), hflip=0.0), 32)
    assert source.batch([0], [np.random.default_rng(0)]).labelled
    RegionMap(np.zeros((62, 82), np.int32), 1, "grid").save(tmp_path / "r.npz")
    with pytest.raises(SnapshotError, match=r"its image \(6200, 8200\)"):
        read_regions(SnapshotItem("big", path, tmp_path / "r.npz", {}))
