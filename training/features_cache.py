"""Encoder features on disk: a frozen encoder sees each image once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from training.atomic import write_atomically
from training.images import ACCEPTED_PIXELS, read_image
from training.memo import Memo
from training.model import SegmentationModel
from training.one_image import OneImage
from training.tensor_checks import expect_finite
from training.tensor_hash import tensors_hash
from training.transforms import resize_image, working_size

log = logging.getLogger(__name__)

FORMAT = 2  # 1 did not tell output strides apart
MEMORY_BYTES = 512 * 1024**2  # of features kept in memory besides the disk
_DIGEST = 32  # bytes of SHA-256 in front of the tensors


class FeatureCache:
    """Stride-4 and stride-16 features in fp16 by all that they follow from.

    That is the image's content, size and flip, and the encoder: its name, because two networks may
    hold equal tensors and use them differently, its weights, stride and normalisation.
    A damaged file is computed again. `folder` None keeps features in memory only.
    """

    def __init__(self, folder: Path | None, model: SegmentationModel) -> None:
        self.folder, self.model = folder, model
        self._one = OneImage(model)
        self.short_side = model.config.short_side
        config = model.config
        self._follows_from = " ".join(
            [
                str(FORMAT),
                config.encoder,
                tensors_hash(model.encoder.state_dict()),
                tensors_hash({"mean": model.mean, "std": model.std}),
                f"stride={config.output_stride}",
                f"short_side={config.short_side}",
            ]
        )
        self._memory: Memo[list[Tensor]] = Memo(
            MEMORY_BYTES, lambda features: sum(f.nbytes for f in features)
        )
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, image: Path, sha256: str, flip: bool = False) -> list[Tensor]:
        """Features [(F4, h, w), (F16, h', w')] of one image, fp16 on CPU; raises ImageError."""
        words = f"{self._follows_from} {sha256} flip={flip}"
        key = hashlib.sha256(words.encode()).hexdigest()[:32]
        return self._memory.get(key, lambda: self._stored(key, lambda: self._compute(image, flip)))

    def _stored(self, key: str, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        if self.folder is None:
            return compute()
        path = self.folder / key[:2] / f"{key}.features"
        features = _read(path)
        if features is None:
            features = compute()
            path.parent.mkdir(exist_ok=True)
            data = save({str(i): f for i, f in enumerate(features)})
            digest = hashlib.sha256(data).digest()
            write_atomically(path, lambda file: file.write(digest + data))
        return features

    def _compute(self, path: Path, flip: bool) -> list[Tensor]:
        image = read_image(path, ACCEPTED_PIXELS)
        size = working_size((image.shape[0], image.shape[1]), self.short_side)
        image = resize_image(image, size)
        if flip:
            image = image[:, ::-1]
        pixels = torch.tensor(image.copy()).permute(2, 0, 1)[None]

        def encoded(model: SegmentationModel, _: torch.device) -> list[Tensor]:
            with torch.no_grad():  # one image at a time: a batch would round differently
                features = model.encode(pixels.to(model.mean.device))
            return [_halved(f[0].to("cpu")) for f in features]

        return self._one.run(encoded)


def _halved(features: Tensor) -> Tensor:
    """In fp16, or as they are where a value is beyond its range: it would become infinite."""
    expect_finite("features", features)
    half = features.to(torch.float16)
    return (half if bool(torch.isfinite(half).all()) else features).contiguous()


def _read(path: Path) -> list[Tensor] | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        log.warning("The cached features %s are damaged; computing them again.", path.name)
        return None
    try:
        tensors = load(body)
    except SafetensorError:
        return None
    return [tensors[str(i)] for i in range(len(tensors))]
