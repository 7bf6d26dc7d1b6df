"""How far apart two colours look: CIEDE2000, and which classes' colours are too near.

The formula is that of Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula" (2005), with
all weights 1; equation numbers below are theirs. Colours are "#rrggbb" in sRGB under D65.
"""

from __future__ import annotations

from functools import lru_cache
from math import atan2, cos, degrees, exp, hypot, radians, sin, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from label_config.classes import ClassSchema

# Two swatches of 12 px that are not side by side: under this they are taken for one colour. For
# large patches that touch, people see a difference from about 2 on.
NEAR = 5.0

_WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees


def close_pairs(schema: ClassSchema, near: float = NEAR) -> list[tuple[str, str, float]]:
    """Pairs of classes whose colours look alike: names and CIEDE2000, the closest first."""
    classes = schema.classes
    found = [
        (one.name, two.name, difference(one.color, two.color))
        for number, one in enumerate(classes)
        for two in classes[number + 1 :]
    ]
    return sorted((row for row in found if row[2] < near), key=lambda row: row[2])


def difference(one: str, two: str) -> float:
    """CIEDE2000 of two colours: 0 for the same, 100 for black and white."""
    return _difference(_lab(one), _lab(two))


Lab = tuple[float, float, float]


@lru_cache(maxsize=1024)
def _lab(color: str) -> Lab:
    red, green, blue = (_linear(int(color[at : at + 2], 16) / 255) for at in (1, 3, 5))
    xyz = (
        0.412453 * red + 0.357580 * green + 0.180423 * blue,
        0.212671 * red + 0.715160 * green + 0.072169 * blue,
        0.019334 * red + 0.119193 * green + 0.950227 * blue,
    )
    x, y, z = (_curve(value / white) for value, white in zip(xyz, _WHITE, strict=True))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _curve(value: float) -> float:
    return float(value ** (1 / 3)) if value > 216 / 24389 else (24389 / 27 * value + 16) / 116


def _difference(one: Lab, two: Lab) -> float:
    (light1, a1, b1), (light2, a2, b2) = one, two
    mean7 = ((hypot(a1, b1) + hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * sqrt(mean7 / (mean7 + 25.0**7))  # (4)
    chroma1, hue1 = _polar(stretch * a1, b1)
    chroma2, hue2 = _polar(stretch * a2, b2)
    product = chroma1 * chroma2
    turn = (hue2 - hue1 + 180) % 360 - 180 if product else 0.0  # (10)
    big_hue = 2 * sqrt(product) * sin(radians(turn) / 2)  # (11)
    light, chroma = (light1 + light2) / 2, (chroma1 + chroma2) / 2
    hue = (hue1 + turn / 2) % 360 if product else hue1 + hue2  # (14)
    weight = (
        1
        - 0.17 * cos(radians(hue - 30))
        + 0.24 * cos(radians(2 * hue))
        + 0.32 * cos(radians(3 * hue + 6))
        - 0.20 * cos(radians(4 * hue - 63))
    )  # (15)
    scale_light = 1 + 0.015 * (light - 50) ** 2 / sqrt(20 + (light - 50) ** 2)
    scale_chroma = 1 + 0.045 * chroma
    scale_hue = 1 + 0.015 * chroma * weight
    turn_blue = 30 * exp(-(((hue - 275) / 25) ** 2))
    rotation = -2 * sqrt(chroma**7 / (chroma**7 + 25.0**7)) * sin(radians(2 * turn_blue))
    parts = (
        (light2 - light1) / scale_light,
        (chroma2 - chroma1) / scale_chroma,
        big_hue / scale_hue,
    )
    return sqrt(max(0.0, sum(part * part for part in parts) + rotation * parts[1] * parts[2]))


def _polar(a: float, b: float) -> tuple[float, float]:
    return hypot(a, b), degrees(atan2(b, a)) % 360
