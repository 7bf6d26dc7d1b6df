"""A picture and its exact class mask, painted together, seen through a street-level camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[float, float, float]  # RGB, 0..1
Point = tuple[float, float]  # x, y in px
Texture = tuple[str, float]  # name of a noise field of the canvas, strength

PLAIN: Texture = ("fine", 0.03)


@dataclass(frozen=True)
class Camera:
    """A pinhole at `height` m above a flat street, looking along Z; X to the right, Y up, in m."""

    center: float
    horizon: float
    focal: float
    height: float = 1.5

    def project(self, x: float, y: float, z: float) -> Point:
        """Pixel of the point (x, y, z), z > 0."""
        return self.center + self.focal * x / z, self.horizon + self.focal * (self.height - y) / z


class Canvas:
    """Image (H, W, 3) float32 in 0..1 and mask (H, W) uint8; what is painted later is in front."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, first_class: int) -> None:
        self.rng = rng
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.mask = np.full((height, width), first_class, np.uint8)
        self.haze: Color = (0.7, 0.75, 0.8)
        scale = height / 360
        self.noise = {
            "fine": self._noise(1.0),
            "leaf": 0.7 * self._noise(2.5 * scale) + 0.5 * self._noise(7 * scale),
            "patch": 0.3 * self._noise(1.0) + 0.8 * self._noise(25 * scale),
            "cloud": 0.7 * self._noise(60 * scale) + 0.4 * self._noise(18 * scale),
        }

    def polygon(
        self,
        points: Sequence[Point],
        color: Color,
        label: int | None,
        texture: Texture = PLAIN,
        distance: float = 0.0,
    ) -> None:
        """Fill a polygon; label None keeps the class of what is below (windows, shadows)."""
        self._paint(points, "polygon", color, label, texture, distance)

    def ellipse(
        self,
        box: tuple[float, float, float, float],
        color: Color,
        label: int | None,
        texture: Texture = PLAIN,
        distance: float = 0.0,
    ) -> None:
        """Fill the ellipse in the box x0, y0, x1, y1."""
        self._paint([box[:2], box[2:]], "ellipse", color, label, texture, distance)

    def shade(self, points: Sequence[Point], factor: float) -> None:
        """Multiply the light inside a polygon, whatever is there."""
        window = self._stencil(points, "polygon")
        if window is not None:
            rows, columns, inside = window
            self.image[rows, columns][inside] *= factor

    def _paint(
        self,
        points: Sequence[Point],
        shape: str,
        color: Color,
        label: int | None,
        texture: Texture,
        distance: float,
    ) -> None:
        window = self._stencil(points, shape)
        if window is None:
            return
        rows, columns, inside = window
        name, strength = texture
        clear = np.exp(-distance / 130)  # 130 m: a slightly hazy day
        base = clear * np.asarray(color) + (1 - clear) * np.asarray(self.haze)
        grain = 1 + strength * clear * self.noise[name][rows, columns][inside]
        self.image[rows, columns][inside] = base * grain[:, None]
        if label is not None:
            self.mask[rows, columns][inside] = label

    def _stencil(
        self, points: Sequence[Point], shape: str
    ) -> tuple[slice, slice, NDArray[np.bool_]] | None:
        """Rows, columns and inside-or-not of a shape, cut to the picture; None outside of it."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        x0, x1 = max(0, int(min(xs))), min(self.width, int(max(xs)) + 2)
        y0, y1 = max(0, int(min(ys))), min(self.height, int(max(ys)) + 2)
        if x0 >= x1 or y0 >= y1:
            return None
        stencil = Image.new("1", (x1 - x0, y1 - y0))
        moved = [(x - x0, y - y0) for x, y in points]
        draw = ImageDraw.Draw(stencil)
        (draw.polygon if shape == "polygon" else draw.ellipse)(moved, fill=1)
        return slice(y0, y1), slice(x0, x1), np.asarray(stencil)

    def _noise(self, grain_px: float) -> NDArray[np.float32]:
        """Noise with spots of this size, mean 0, standard deviation 1, (H, W)."""
        size = (max(2, round(self.height / grain_px)), max(2, round(self.width / grain_px)))
        coarse = Image.fromarray(self.rng.standard_normal(size).astype(np.float32))
        field = coarse.resize((self.width, self.height), Image.Resampling.BICUBIC)
        values = np.asarray(field)
        noise: NDArray[np.float32] = (values - values.mean()) / max(float(values.std()), 1e-6)
        return noise
