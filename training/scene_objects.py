"""The things of a street, each painted at its place; classes are those of CamVid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.scene_canvas import Camera, Canvas, Color, Point

(SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, VOID) = range(
    12
)

Draw = Callable[[Canvas, Camera, np.random.Generator, float, float], None]

_WALLS: tuple[Color, ...] = (
    (0.55, 0.33, 0.26), (0.68, 0.60, 0.48), (0.50, 0.47, 0.44), (0.72, 0.69, 0.64),
    (0.42, 0.28, 0.23), (0.60, 0.52, 0.44),
)  # fmt: skip
_PAINTS: tuple[Color, ...] = (
    (0.62, 0.10, 0.10), (0.12, 0.18, 0.38), (0.78, 0.78, 0.78), (0.10, 0.10, 0.11),
    (0.45, 0.46, 0.48), (0.16, 0.30, 0.20), (0.75, 0.68, 0.40),
)  # fmt: skip
_CLOTHES: tuple[Color, ...] = (
    (0.15, 0.15, 0.20), (0.55, 0.15, 0.15), (0.20, 0.30, 0.55), (0.65, 0.62, 0.58),
    (0.30, 0.25, 0.20), (0.75, 0.60, 0.20),
)  # fmt: skip
_SKIN: Color = (0.72, 0.54, 0.44)
_GLASS: Color = (0.16, 0.19, 0.23)


def pick(rng: np.random.Generator, colors: tuple[Color, ...], spread: float = 0.05) -> Color:
    """One of the colours, slightly varied."""
    r, g, b = colors[int(rng.integers(len(colors)))]
    dr, dg, db = rng.normal(0, spread, 3).tolist()
    return r + dr, g + dg, b + db


def scaled(color: Color, factor: float) -> Color:
    """The colour, darker (< 1) or lighter (> 1)."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def wall(
    canvas: Canvas, camera: Camera, rng: np.random.Generator,
    x: float, near: float, far: float, height: float,
) -> None:  # fmt: skip
    """A house along the street: its long side at x from near to far, and its end towards us."""
    color = pick(rng, _WALLS)
    light = float(rng.uniform(0.7, 1.05))
    outward = x + np.sign(x) * 12
    roof = pick(rng, ((0.35, 0.25, 0.22), (0.28, 0.28, 0.30)))
    texture = ("patch", float(rng.uniform(0.04, 0.10)))
    front = [camera.project(px, py, near) for px, py in
             ((x, 0), (x, height), (outward, height), (outward, 0))]  # fmt: skip
    canvas.polygon(front, scaled(color, light * 0.85), BUILDING, texture, near)
    side = [camera.project(x, y, z) for y, z in
            ((0, near), (height, near), (height, far), (0, far))]  # fmt: skip
    canvas.polygon(side, scaled(color, light), BUILDING, texture, (near + far) / 2)
    if rng.random() < 0.6:  # a pitched roof, its gable towards us
        top, ridge = height + float(rng.uniform(1.5, 4.0)), (x + outward) / 2
        gable = ((x, height, near), (ridge, top, near), (outward, height, near))
        slope = ((x, height, near), (ridge, top, near), (ridge, top, far), (x, height, far))
        canvas.polygon([camera.project(*p) for p in gable], scaled(color, light * 0.85), BUILDING,
                       texture, near)  # fmt: skip
        canvas.polygon([camera.project(*p) for p in slope], roof, BUILDING, texture, near)
    _windows(canvas, camera, rng, x, near, far, height)


def _windows(
    canvas: Canvas, camera: Camera, rng: np.random.Generator,
    x: float, near: float, far: float, height: float,
) -> None:  # fmt: skip
    storey, bay = float(rng.uniform(2.7, 3.4)), float(rng.uniform(2.0, 3.5))
    glass = pick(rng, (_GLASS, (0.30, 0.36, 0.42)))
    for floor in range(int(height / storey)):
        bottom = floor * storey + (0.2 if floor == 0 and rng.random() < 0.3 else 1.0)
        for z in np.arange(near + 0.6, far - 1.4, bay).tolist():
            shine = glass if rng.random() < 0.85 else scaled(glass, 2.0)
            pane = [camera.project(x, y, pz) for y, pz in
                    ((bottom, z), (floor * storey + 2.4, z), (floor * storey + 2.4, z + 1.2),
                     (bottom, z + 1.2))]  # fmt: skip
            canvas.polygon(pane, shine, None, ("fine", 0.05), z)


def hedge(
    canvas: Canvas, camera: Camera, rng: np.random.Generator,
    x: float, near: float, far: float, height: float,
) -> None:  # fmt: skip
    """Greenery along the street, uneven at the top."""
    green = pick(rng, ((0.16, 0.26, 0.10), (0.24, 0.32, 0.14), (0.13, 0.20, 0.10)), 0.02)
    zs = np.linspace(near, far, 14)
    tops = height * rng.uniform(0.75, 1.15, len(zs))
    outline = [camera.project(x, float(y), float(z)) for y, z in zip(tops, zs, strict=True)]
    outline += [camera.project(x, 0, far), camera.project(x, 0, near)]
    canvas.polygon(outline, green, TREE, ("leaf", 0.35), (near + far) / 2)


def fence(
    canvas: Canvas, camera: Camera, rng: np.random.Generator,
    x: float, near: float, far: float, height: float,
) -> None:  # fmt: skip
    """Boards or railings along the street; the gaps belong to the fence."""
    color = pick(rng, ((0.36, 0.27, 0.18), (0.22, 0.23, 0.24), (0.62, 0.60, 0.56)), 0.03)
    panel = [camera.project(x, y, z) for y, z in
             ((0, near), (height, near), (height, far), (0, far))]  # fmt: skip
    canvas.polygon(panel, color, FENCE, ("patch", 0.08), (near + far) / 2)
    step = float(rng.uniform(0.25, 0.5))
    for z in np.arange(near, far, step).tolist():
        low, high, end = 0.1, height - 0.12, z + step / 3
        corners = ((low, z), (high, z), (high, end), (low, end))
        gap = [camera.project(x, y, pz) for y, pz in corners]
        canvas.polygon(gap, scaled(color, 0.55), None, ("fine", 0.08), z)


def tree(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """Trunk and a crown of overlapping tufts, dark below and light above."""
    green = pick(rng, ((0.20, 0.30, 0.12), (0.28, 0.34, 0.14), (0.14, 0.22, 0.10)), 0.02)
    stem, crown = float(rng.uniform(1.8, 3.0)), float(rng.uniform(1.2, 2.6))
    _upright(canvas, camera, x, z, 0.18, 0, stem + crown * 0.6, (0.22, 0.17, 0.13), TREE)
    for step in range(22):
        rise = step / 21
        spread = crown * np.sqrt(1 - (2 * rise - 1) ** 2 * 0.8)
        px = x + float(rng.normal(0, 0.5)) * spread
        py = stem + 2 * crown * rise
        size = crown * float(rng.uniform(0.35, 0.6))
        x0, y0 = camera.project(px - size, py + size, z)
        x1, y1 = camera.project(px + size, py - size, z)
        light = 0.65 + 0.6 * rise + float(rng.normal(0, 0.06))
        canvas.ellipse((x0, y0, x1, y1), scaled(green, light), TREE, ("leaf", 0.35), z)


def pole(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """A lamp post with its arm over the street, sometimes with a sign on it."""
    grey = pick(rng, ((0.30, 0.31, 0.32), (0.18, 0.22, 0.20), (0.52, 0.52, 0.50)), 0.02)
    height = float(rng.uniform(5, 8))
    _upright(canvas, camera, x, z, 0.09, 0, height, grey, POLE)
    arm = -np.sign(x) * 1.2
    tip = x + arm
    bent = ((x, height - 0.15), (x, height), (tip, height + 0.25), (tip, height + 0.1))
    canvas.polygon([camera.project(px, py, z) for px, py in bent], grey, POLE, distance=z)
    if rng.random() < 0.4:
        _plate(canvas, camera, rng, x, z, float(rng.uniform(2.2, 3.2)))


def sign(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign, or traffic lights, on a short post."""
    height = float(rng.uniform(2.2, 3.0))
    _upright(canvas, camera, x, z, 0.05, 0, height, (0.45, 0.46, 0.47), POLE)
    if rng.random() < 0.35:
        _upright(canvas, camera, x, z, 0.22, height - 0.2, height + 0.9, (0.07, 0.08, 0.07), SIGN)
        lamp = int(rng.integers(3))
        color = ((0.9, 0.15, 0.1), (0.95, 0.65, 0.1), (0.15, 0.85, 0.4))[lamp]
        _disc(canvas, camera, x, height + 0.65 - 0.3 * lamp, z, 0.11, color, None)
    else:
        _plate(canvas, camera, rng, x, z, height)


def _plate(
    canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float, y: float
) -> None:
    kind = int(rng.integers(3))
    if kind == 0:  # round, red rim
        _disc(canvas, camera, x, y, z, 0.42, (0.75, 0.08, 0.08), SIGN)
        _disc(canvas, camera, x, y, z, 0.29, (0.92, 0.92, 0.90), None)
    elif kind == 1:  # warning triangle
        for size, color, label in (
            (0.55, (0.75, 0.08, 0.08), SIGN),
            (0.33, (0.9, 0.9, 0.85), None),
        ):
            corners = ((x - size, y - size * 0.6), (x, y + size), (x + size, y - size * 0.6))
            canvas.polygon(
                [camera.project(*c, z) for c in corners],
                color,
                label,
                distance=z,
            )
    else:  # direction board
        blue = pick(rng, ((0.10, 0.25, 0.60), (0.10, 0.40, 0.25), (0.90, 0.75, 0.15)), 0.03)
        _upright(canvas, camera, x, z, 0.65, y - 0.35, y + 0.4, blue, SIGN)
        _upright(canvas, camera, x, z, 0.45, y, y + 0.1, (0.9, 0.9, 0.9), None)


def car(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """A car or van along the street: shadow, flank, end, windows, wheels, lamps."""
    color = pick(rng, _PAINTS, 0.03)
    van = rng.random() < 0.2
    half, length = (0.95, 5.0) if van else (0.85, 4.2)
    belt, top = (1.3, 2.2) if van else (0.85, 1.42)
    far, side = z + length, x - np.sign(x) * half  # the flank that faces the middle
    shadow = ((x - half - 0.2, z - 0.2), (x + half + 0.2, z - 0.2),
              (x + half + 0.2, far), (x - half - 0.2, far))  # fmt: skip
    canvas.shade([camera.project(px, 0, pz) for px, pz in shadow], 0.45)

    def flank(*corners: tuple[float, float]) -> list[Point]:
        return [camera.project(side, y, pz) for y, pz in corners]

    def end(*corners: tuple[float, float]) -> list[Point]:
        return [camera.project(x + px, y, z) for px, y in corners]

    roof = (z + (0.1 if van else 0.5), far - (0.9 if van else 1.2))
    body = flank((0.25, z), (belt, z), (top, roof[0]), (top, roof[1]), (belt, far - 0.4),
                 (belt - 0.15, far), (0.25, far))  # fmt: skip
    canvas.polygon(body, scaled(color, 0.8), CAR, distance=z)
    glazing = flank((belt, z + 0.3), (top - 0.1, roof[0] + 0.2), (top - 0.1, roof[1] - 0.1),
                    (belt, far - 1.0))  # fmt: skip
    canvas.polygon(glazing, _GLASS, None, ("patch", 0.2), z)
    for hub in (z + 0.75, far - 0.8):
        tyre = [camera.project(side, 0.32 + 0.32 * np.sin(a), hub + 0.32 * np.cos(a))
                for a in np.linspace(0, 2 * np.pi, 13)[:-1]]  # fmt: skip
        canvas.polygon(tyre, (0.06, 0.06, 0.06), CAR, distance=z)
    back = end((-half, 0.25), (-half, belt), (-half + 0.15, top), (half - 0.15, top), (half, belt),
               (half, 0.25))  # fmt: skip
    canvas.polygon(back, color, CAR, ("patch", 0.06), z)
    canvas.polygon(end((-half + 0.1, belt), (-half + 0.2, top - 0.1), (half - 0.2, top - 0.1),
                       (half - 0.1, belt)), _GLASS, None, ("patch", 0.25), z)  # fmt: skip
    lamps = (0.75, 0.1, 0.08) if rng.random() < 0.6 else (0.95, 0.93, 0.85)
    for left in (-half + 0.02, half - 0.27):
        lamp = end((left, 0.6), (left, 0.75), (left + 0.25, 0.75), (left + 0.25, 0.6))
        canvas.polygon(lamp, lamps, None, distance=z)
        _upright(canvas, camera, x + left + 0.12, z, 0.12, 0, 0.3, (0.05, 0.05, 0.05), CAR)


def pedestrian(
    canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float
) -> None:
    """A walking person: legs, coat, arms, head."""
    _person(canvas, camera, rng, x, z, 0.0, float(rng.uniform(1.55, 1.9)), PEDESTRIAN)


def bicyclist(canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float) -> None:
    """A rider seen from behind or from the side; the cycle belongs to the rider."""
    dark = (0.08, 0.08, 0.09)
    aside = rng.random() < 0.5
    if aside:
        for hub in (x - 0.5, x + 0.5):
            _disc(canvas, camera, hub, 0.34, z, 0.34, dark, BICYCLIST)
            _disc(canvas, camera, hub, 0.34, z, 0.25, (0.35, 0.35, 0.36), None)
        frame = ((x - 0.5, 0.34), (x - 0.15, 0.85), (x + 0.4, 0.9), (x + 0.5, 0.34), (x, 0.3))
        color = pick(rng, _PAINTS)
        canvas.polygon([camera.project(*p, z) for p in frame], color, BICYCLIST, distance=z)
    _person(canvas, camera, rng, x, z, 0.35, 1.35, BICYCLIST)
    if not aside:
        _upright(canvas, camera, x, z, 0.05, 0, 0.85, dark, BICYCLIST)
        _upright(canvas, camera, x, z, 0.32, 1.0, 1.06, dark, BICYCLIST)


def bin_or_box(
    canvas: Canvas, camera: Camera, rng: np.random.Generator, x: float, z: float
) -> None:
    """Street furniture that no class names: void."""
    color = pick(rng, ((0.12, 0.25, 0.15), (0.55, 0.12, 0.10), (0.35, 0.35, 0.37)))
    _upright(canvas, camera, x, z, 0.3, 0, float(rng.uniform(0.9, 1.4)), color, VOID)


def _person(
    canvas: Canvas, camera: Camera, rng: np.random.Generator,
    x: float, z: float, feet: float, height: float, label: int,
) -> None:  # fmt: skip
    coat, trousers = pick(rng, _CLOTHES), pick(rng, _CLOTHES[:3])
    head = height * 0.075
    stride = float(rng.uniform(0.04, 0.2))
    for step in (-stride, stride):
        leg = ((x - 0.12, height * 0.5), (x + 0.12, height * 0.5), (x + step + 0.07, 0),
               (x + step - 0.07, 0))  # fmt: skip
        canvas.polygon([camera.project(px, py + feet, z) for px, py in leg], trousers, label,
                       distance=z)  # fmt: skip
    trunk = ((x - 0.17, 0.45), (x - 0.23, 0.8), (x - 0.1, 0.87), (x + 0.1, 0.87), (x + 0.23, 0.8),
             (x + 0.17, 0.45))  # fmt: skip
    points = [camera.project(px, share * height + feet, z) for px, share in trunk]
    canvas.polygon(points, coat, label, ("patch", 0.1), z)
    _disc(canvas, camera, x, height * 0.925 + feet, z, head, _SKIN, label)
    hair = (
        camera.project(x - head, height + feet, z),
        camera.project(x + head, height * 0.94 + feet, z),
    )
    canvas.ellipse((*hair[0], *hair[1]), (0.15, 0.11, 0.08), label, distance=z)


def _upright(
    canvas: Canvas, camera: Camera, x: float, z: float, half: float, bottom: float, top: float,
    color: Color, label: int | None,
) -> None:  # fmt: skip
    """A rectangle that faces us; at least one pixel wide, or far poles would fall to pieces."""
    half = max(half, 0.6 / camera.focal * z)
    corners = ((x - half, bottom), (x - half, top), (x + half, top), (x + half, bottom))
    canvas.polygon([camera.project(*c, z) for c in corners], color, label, distance=z)


def _disc(
    canvas: Canvas, camera: Camera, x: float, y: float, z: float, radius: float,
    color: Color, label: int | None,
) -> None:  # fmt: skip
    x0, y0 = camera.project(x - radius, y + radius, z)
    x1, y1 = camera.project(x + radius, y - radius, z)
    canvas.ellipse((x0, y0, x1, y1), color, label, distance=z)
