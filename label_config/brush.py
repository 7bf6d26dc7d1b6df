"""Label Studio's brush format: masks as run lengths, packed bit by bit.

The format is rle-pack of @thi.ng/umbrella over an RGBA image: 32 bits number of values, 5 bits
word size - 1, four times 4 bits run size - 1; then blocks of 1 bit (1 = one value repeated,
0 = values in full), 2 bits index of the run size, the run length - 1 in so many bits, and the
value(s).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from label_config.errors import LabelConfigError
from label_config.mask_control import MaskControl

MAX_PIXELS = 50_000_000

_CHANNELS = 4
_WORD_BITS = 8
_RUN_BITS = (4, 8, 12, 16)
_LONGEST_RUN = 1 << _RUN_BITS[-1]
_RUNS = re.compile(rb"\x00+|[^\x00]+")


def encode_rle(
    mask: bytes | bytearray | memoryview | Sequence[int], width: int, height: int
) -> list[int]:
    """Bytes (0..255) of a mask in row order; a pixel is painted where it is not 0.

    `decode_rle` is the inverse for masks of 0 and 1. Raises: LabelConfigError if the mask does not
    hold width * height values.
    """
    data = bytes(mask)
    if width < 1 or height < 1 or len(data) != width * height:
        raise LabelConfigError(
            f"Expected {width} x {height} mask values, got {len(data)}.",
            hint="Pass one byte per pixel, row by row.",
        )
    bits = [format(_CHANNELS * len(data), "032b"), format(_WORD_BITS - 1, "05b")]
    bits += [format(size - 1, "04b") for size in _RUN_BITS]
    for run in _RUNS.finditer(data):
        word = "1" * _WORD_BITS if data[run.start()] else "0" * _WORD_BITS
        left = _CHANNELS * (run.end() - run.start())
        while left:
            length = min(left, _LONGEST_RUN)
            bits.append(_head(length) + word)
            left -= length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def decode_rle(rle: bytes | Sequence[int], width: int, height: int) -> bytes:
    """Mask of 0 and 1, one byte per pixel in row order: 1 where the pixel is at least half opaque.

    Raises: LabelConfigError on damaged data or another size than width * height.
    """
    try:
        packed = bytes(rle)
    except (TypeError, ValueError) as error:
        raise LabelConfigError(f"Brush data are not bytes: {error}.") from error
    if not 0 < width * height <= MAX_PIXELS:
        raise LabelConfigError(f"A mask of {width} x {height} px cannot be read.")
    values = _unpack(packed, _CHANNELS * width * height)
    opaque = bytes(value >= 128 for value in range(256))
    return values[_CHANNELS - 1 :: _CHANNELS].translate(opaque)


def mask_result(
    masks: Mapping[str, bytes], width: int, height: int, control: MaskControl
) -> list[dict[str, Any]]:
    """Label Studio's `result` of one brush region per class name, for a brush control.

    A mask is one byte per pixel, painted where not 0; classes without a painted pixel, and those
    that the control has no label for, are left out.
    """
    return [
        {
            "id": f"mask-{number}",
            "from_name": control.from_name,
            "to_name": control.to_name,
            "type": "brushlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": encode_rle(masks[name], width, height),
                "brushlabels": [stored],
            },
        }
        for number, (name, stored) in enumerate(control.stored.items())
        if any(masks.get(name, b""))
    ]


def read_masks(
    result: Sequence[Mapping[str, Any]], control: MaskControl
) -> dict[str, tuple[bytes, int, int]]:
    """Mask (0 and 1 per pixel), width and height of each painted class.

    The inverse of `mask_result`; several brush regions of a class are united.

    Raises: LabelConfigError for an unknown class, damaged data, or regions of different sizes.
    """
    if not isinstance(result, Sequence) or not all(isinstance(i, Mapping) for i in result):
        raise LabelConfigError(
            f"Expected a result as a list of objects, got {result!r:.200}.",
            hint="Pass the annotation's 'result' as Label Studio sent it.",
        )
    names = {stored: name for name, stored in control.stored.items()}
    found: dict[str, tuple[bytes, int, int]] = {}
    for item in result:
        if item.get("type") != "brushlabels" or item.get("from_name") != control.from_name:
            continue
        try:
            width, height = int(item["original_width"]), int(item["original_height"])
            (stored,) = item["value"]["brushlabels"]
            rle = item["value"]["rle"]
            name = names[stored]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LabelConfigError(
                f"A brush region cannot be read: {error!r}.",
                hint="Compare the project's labelling configuration with the template.",
            ) from error
        mask = decode_rle(rle, width, height)
        if name in found:
            mask = _united(found[name], (mask, width, height))
        found[name] = (mask, width, height)
    return found


def _head(length: int) -> str:
    index = next(i for i, size in enumerate(_RUN_BITS) if length <= 1 << size)
    return f"1{index:02b}{length - 1:0{_RUN_BITS[index]}b}"


def _unpack(packed: bytes, expected: int) -> bytes:
    bits = bin(int.from_bytes(b"\x01" + packed, "big"))[3:]
    number, word, sizes, at = _read_header(bits)
    if number != expected or word != _WORD_BITS:
        raise LabelConfigError(
            f"Brush data of {number} values of {word} bits; expected {expected} of {_WORD_BITS}.",
            hint="The stored width and height must be those of the painted image.",
        )
    out = bytearray()
    try:
        while len(out) < number:
            repeated = bits[at] == "1"
            size = sizes[int(bits[at + 1 : at + 3], 2)]
            length = int(bits[at + 3 : at + 3 + size], 2) + 1
            at += 3 + size
            end = at + word * (1 if repeated else length)
            if end > len(bits) or len(out) + length > number:
                raise LabelConfigError("Brush data end too early or hold too many values.")
            block = int(bits[at:end], 2).to_bytes((end - at) // 8, "big")
            out += block * length if repeated else block
            at = end
    except (IndexError, ValueError) as error:
        if isinstance(error, LabelConfigError):
            raise
        raise LabelConfigError("Brush data end too early.") from error
    return bytes(out)


def _read_header(bits: str) -> tuple[int, int, list[int], int]:
    if len(bits) < 53:
        raise LabelConfigError(f"Brush data of {len(bits) // 8} bytes are too short.")
    sizes = [int(bits[at : at + 4], 2) + 1 for at in range(37, 53, 4)]
    return int(bits[:32], 2), int(bits[32:37], 2) + 1, sizes, 53


def _united(first: tuple[bytes, int, int], second: tuple[bytes, int, int]) -> bytes:
    if first[1:] != second[1:]:
        raise LabelConfigError(f"Brush regions of {first[1:]} and {second[1:]} px in one image.")
    number = int.from_bytes(first[0], "big") | int.from_bytes(second[0], "big")
    return number.to_bytes(len(first[0]), "big")
