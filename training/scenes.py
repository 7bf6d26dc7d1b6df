"""Procedural street scenes with exact masks: data for demonstrations and tests, free of rights.

Classes and layout are those of CamVid. What is visible follows from a small 3-D street, so that
regions hold one class or several as in photographs; light, colours, texture and noise vary.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.atomic import write_atomically
from training.datasets import CAMVID_CLASSES, CAMVID_VOID
from training.errors import DataError
from training.scene_canvas import Canvas
from training.scene_objects import SKY
from training.scene_street import paint_street

CLASS_NAMES = CAMVID_CLASSES
VOID = CAMVID_VOID

_COLORS = (
    "#808080", "#800000", "#c0c080", "#804080", "#3c28de", "#808000", "#c08080", "#404080",
    "#400080", "#404000", "#0080c0",
)  # fmt: skip


def make_scene(
    rng: np.random.Generator, height: int = 360, width: int = 480
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One street scene: image (H, W, 3) and mask (H, W), both uint8; void is 11.

    The same generator state gives the same scene.

    Raises: DataError for sides under 32 px.
    """
    if min(height, width) < 32:
        raise DataError(f"A scene needs at least 32 px a side, got {height} x {width}.")
    canvas = Canvas(rng, height, width, SKY)
    paint_street(canvas)
    if rng.random() < 0.25:  # the bonnet of our own car
        dip = height * float(rng.uniform(0.93, 0.97))
        arc = [(0.0, height), (0.0, dip + 8), (width / 2, dip), (width, dip + 8), (width, height)]
        canvas.polygon(arc, (0.10, 0.10, 0.12), VOID, ("patch", 0.3))
    return _develop(canvas), canvas.mask


def write_scene_set(
    folder: Path | str,
    train: int = 60,
    heldout: int = 20,
    seed: int = 0,
    height: int = 360,
    width: int = 480,
) -> Path:
    """Write folder/{train,test}/{images,masks} and classes.json; the folder is returned.

    Scene i depends on seed and i alone, so a larger set begins with the smaller one.

    Raises: DataError for negative numbers.
    """
    if train < 0 or heldout < 0:
        raise DataError(f"Numbers of scenes cannot be negative, got {train} and {heldout}.")
    root = Path(folder)
    for stream, (split, number) in enumerate((("train", train), ("test", heldout))):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            rng = np.random.default_rng([seed, stream, index])
            image, mask = make_scene(rng, height, width)
            # JPEG as from a camera; the mask must not lose a pixel.
            _save(root / split / "images" / f"scene_{index:04d}.jpg", image, "JPEG", quality=92)
            _save(root / split / "masks" / f"scene_{index:04d}.png", mask, "PNG")
    classes = [{"name": n, "color": c} for n, c in zip(CLASS_NAMES, _COLORS, strict=True)]
    text = json.dumps({"classes": classes, "undefined": True}, indent=1) + "\n"
    write_atomically(root / "classes.json", lambda file: file.write(text.encode()))
    return root


def _save(path: Path, pixels: NDArray[np.uint8], kind: str, **options: int) -> None:
    image = Image.fromarray(pixels)
    write_atomically(path, lambda file: image.save(file, kind, **options))


def _develop(canvas: Canvas) -> NDArray[np.uint8]:
    """Light, colour cast, vignette, lens blur and sensor noise: scene -> 8-bit picture."""
    rng = canvas.rng
    cast = rng.normal(1.0, 0.03, 3)
    y = np.linspace(-1, 1, canvas.height)[:, None, None]
    x = np.linspace(-1, 1, canvas.width)[None, :, None]
    vignette = 1 - float(rng.uniform(0.05, 0.2)) * (x**2 + y**2) / 2
    light = np.clip(canvas.image, 0, None) * cast * vignette * float(rng.uniform(0.75, 1.15))
    eight_bit = Image.fromarray((np.clip(light, 0, 1) ** 0.9 * 255).astype(np.uint8))
    blurred = np.asarray(
        eight_bit.filter(ImageFilter.GaussianBlur(canvas.height / 360 * rng.uniform(0.4, 0.8)))
    )
    noise = rng.normal(0, rng.uniform(2, 5), blurred.shape)
    return np.clip(np.rint(blurred + noise), 0, 255).astype(np.uint8)
