"""A whole street: sky, ground, and everything along it, placed at random and painted in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from training import scene_objects as things
from training.scene_canvas import Camera, Canvas, Color
from training.scene_objects import BUILDING, PAVEMENT, ROAD, TREE

_FAR = 140.0  # m; where the street ends
_NEAR = 1.0  # m; nothing nearer is visible


@dataclass(frozen=True)
class _Street:
    """Edges of the road, width of the pavements in m; shadows fall from side -1, 1 or none (0)."""

    left: float
    right: float
    pavement: float
    shadow_side: int


def paint_street(canvas: Canvas) -> None:
    """Paint a random street, seen from the driving seat, over the whole canvas."""
    rng = canvas.rng
    camera = Camera(
        center=canvas.width * float(rng.uniform(0.42, 0.58)),
        horizon=canvas.height * float(rng.uniform(0.40, 0.50)),
        focal=canvas.width * float(rng.uniform(0.75, 0.95)),
        height=float(rng.uniform(1.3, 1.7)),
    )
    street = _Street(
        left=-float(rng.uniform(2.8, 5.0)),
        right=float(rng.uniform(2.8, 5.0)),
        pavement=float(rng.uniform(2.0, 5.0)),
        shadow_side=int(rng.integers(-1, 2)),
    )
    _paint_sky(canvas, camera)
    _paint_ground(canvas, camera, street)
    _paint_things(canvas, camera, street)


def _paint_sky(canvas: Canvas, camera: Camera) -> None:
    rng = canvas.rng
    overcast = float(rng.uniform(0, 1))
    zenith = np.array([0.30, 0.48, 0.78]) * (1 - overcast) + np.array([0.72, 0.74, 0.77]) * overcast
    low = np.array([0.80, 0.86, 0.92]) * (1 - overcast) + np.array([0.86, 0.87, 0.88]) * overcast
    canvas.haze = (float(low[0]) * 0.9, float(low[1]) * 0.9, float(low[2]) * 0.9)
    share = np.clip(np.arange(canvas.height) / camera.horizon, 0, 1)[:, None, None]
    clouds = np.clip(canvas.noise["cloud"] - rng.uniform(-0.5, 1.0), 0, 1.5)[..., None] * 0.18
    canvas.image[:] = zenith * (1 - share) + low * share + clouds


def _paint_ground(canvas: Canvas, camera: Camera, street: _Street) -> None:
    rng = canvas.rng
    _skyline(canvas, camera)
    green = (0.30, 0.36, 0.18)
    canvas.polygon(
        [(0, camera.horizon), (canvas.width, camera.horizon), (canvas.width, canvas.height),
         (0, canvas.height)], green, TREE, ("leaf", 0.15), 10,
    )  # fmt: skip
    grey = things.pick(rng, ((0.50, 0.48, 0.46), (0.56, 0.52, 0.47), (0.44, 0.44, 0.45)), 0.02)
    asphalt = things.pick(rng, ((0.30, 0.30, 0.31), (0.38, 0.38, 0.38), (0.26, 0.26, 0.28)), 0.02)
    outer = (street.left - street.pavement, street.right + street.pavement)
    _strip(canvas, camera, *outer, things.scaled(grey, 1.0), PAVEMENT, 0.06)
    for edge, out in ((street.left, -0.15), (street.right, 0.15)):
        _strip(canvas, camera, edge, edge + out, things.scaled(grey, 1.15), PAVEMENT, 0.04)
    _strip(canvas, camera, street.left, street.right, asphalt, ROAD, 0.07)
    paint = (0.78, 0.78, 0.74)
    middle = (street.left + street.right) / 2
    for z in np.arange(2.0, 60.0, 6.0).tolist():
        corners = (
            (middle - 0.07, z),
            (middle + 0.07, z),
            (middle + 0.07, z + 3),
            (middle - 0.07, z + 3),
        )
        canvas.polygon([camera.project(x, 0, zz) for x, zz in corners], paint, None, distance=z)
    if street.shadow_side:
        edge = street.left if street.shadow_side < 0 else street.right
        reach = edge - street.shadow_side * float(rng.uniform(1.0, 4.0))
        wall = edge + street.shadow_side * street.pavement
        for z in np.arange(3.0, 80.0, 12.0).tolist():
            if rng.random() < 0.75:
                end = z + float(rng.uniform(6, 12))
                corners = ((wall, z), (reach, z), (reach, end), (wall, end))
                canvas.shade([camera.project(x, 0, zz) for x, zz in corners], 0.55)


def _strip(
    canvas: Canvas, camera: Camera, x0: float, x1: float,
    color: Color, label: int, strength: float,
) -> None:  # fmt: skip
    """A strip of ground from here to the end of the street, hazier piece by piece."""
    ends = np.geomspace(_NEAR, _FAR, 9)
    for near, far in pairwise(ends.tolist()):
        corners = ((x0, near), (x1, near), (x1, far), (x0, far))
        points = [camera.project(x, 0, z) for x, z in corners]
        canvas.polygon(points, color, label, ("patch", strength), near)


def _skyline(canvas: Canvas, camera: Camera) -> None:
    rng = canvas.rng
    x = 0.0
    while x < canvas.width:
        step = canvas.width * float(rng.uniform(0.03, 0.10))
        top = camera.horizon - canvas.height * float(rng.uniform(0.02, 0.09))
        box = [(x, camera.horizon), (x, top), (x + step, top), (x + step, camera.horizon)]
        if rng.random() < 0.5:
            canvas.polygon(box, (0.42, 0.38, 0.36), BUILDING, ("patch", 0.08), 70)
        else:
            tuft = (x - step * 0.3, top, x + step * 1.3, 2 * camera.horizon - top)
            canvas.ellipse(tuft, (0.18, 0.25, 0.12), TREE, ("leaf", 0.3), 70)
        x += step


# Seen from the middle of a street, along one line of sight what is farther to the side is farther
# away: so layers are painted from the outside in, and each from far to near.
_BESIDE, _ON_PAVEMENT, _AT_KERB, _ON_ROAD = range(4)

_Task = tuple[int, float, Callable[[], None]]  # layer, distance in m, how to paint it


def _paint_things(canvas: Canvas, camera: Camera, street: _Street) -> None:
    tasks: list[_Task] = []
    for side, kerb in ((-1, street.left), (1, street.right)):
        wall = kerb + side * street.pavement
        tasks += _facades(canvas, camera, side, kerb, wall)
        for layer, draw, x, z in _scattered(canvas.rng, side, kerb, wall):
            tasks.append((layer, z, partial(draw, canvas, camera, canvas.rng, x, z)))
    for _, _, paint in sorted(tasks, key=lambda task: (task[0], -task[1])):
        paint()


def _facades(
    canvas: Canvas, camera: Camera, side: int, kerb: float, wall: float
) -> Iterator[_Task]:
    """What lines the street: houses, hedges, fences, gaps; sometimes railings at the kerb."""
    rng = canvas.rng
    z = float(rng.uniform(1.5, 4.0))
    while z < 110:
        end = z + float(rng.uniform(6, 18))
        kind = int(rng.choice(4, p=(0.58, 0.16, 0.12, 0.14)))  # 3: a gap
        x = wall + side * float(rng.uniform(0, 0.8))
        if kind < 3:
            draw = (things.wall, things.hedge, things.fence)[kind]
            tall = float(rng.uniform(*((4.5, 15.0), (1.5, 4.0), (1.0, 2.0))[kind]))
            yield _BESIDE, z, partial(draw, canvas, camera, rng, x, z, end, tall)
        z = end + (float(rng.uniform(1, 4)) if rng.random() < 0.4 else 0.0)
    if rng.random() < 0.5:
        start, length = float(rng.uniform(3, 18)), float(rng.uniform(4, 10))
        x = kerb + side * 0.3
        railings = partial(things.fence, canvas, camera, rng, x, start, start + length, 1.0)
        yield _AT_KERB, start, railings


def _scattered(
    rng: np.random.Generator, side: int, kerb: float, wall: float
) -> Iterator[tuple[int, things.Draw, float, float]]:
    """Single things on one side of the street: layer, how to draw them, x and z in m."""
    walk = (kerb + side * 0.7, wall - side * 0.3)
    post = (kerb + side * 0.4, kerb + side * 0.7)
    kinds: tuple[tuple[int, things.Draw, int, tuple[float, float], tuple[float, float]], ...] = (
        # layer, how, at most, between x and x, between z and z
        (_BESIDE, things.tree, 6, (wall + side * 1.0, wall + side * 5), (6, 70)),
        (_ON_PAVEMENT, things.tree, 4, walk, (7, 50)),
        (_ON_PAVEMENT, things.pole, 4, post, (5, 55)),
        (_ON_PAVEMENT, things.sign, 3, post, (5, 32)),
        (_ON_PAVEMENT, things.pedestrian, 6, walk, (4.5, 25)),
        (_ON_PAVEMENT, things.bin_or_box, 2, walk, (5, 30)),
        (_ON_ROAD, things.bicyclist, 2, (kerb - side * 1.3, kerb - side * 0.6), (5, 28)),
    )
    for layer, draw, most, (x0, x1), (near, far) in kinds:
        for _ in range(int(rng.integers(0, most + 1))):
            yield layer, draw, x0 + (x1 - x0) * rng.random(), near + (far - near) * rng.random()
    for z in np.arange(rng.uniform(5, 9), 60, 5.5).tolist():
        if rng.random() < 0.35:  # parked
            yield _ON_ROAD, things.car, kerb - side * 1.05, z
        elif rng.random() < 0.08:  # driving
            yield _ON_ROAD, things.car, kerb - side * 2.9, z
