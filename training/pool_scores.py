"""What the next questions are chosen from: a score for each region of the pool (numpy only)."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.atomic import write_atomically
from training.errors import CheckpointError

FORMAT = 1
# What zipfile, zlib, numpy and json raise on files with flipped bits.
_DAMAGE = (
    OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, MemoryError,
    OverflowError, RuntimeError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    struct.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of one image's R regions, by region index.

    score (R,) float64: higher = ask sooner, NaN = cannot be asked.
    expected_clicks (R,) float32: at least 1.
    presence (R, K) float16: share of the region's pixels predicted as each output; K = 0 where no
    model has seen the image.
    """

    score: NDArray[np.float64]
    expected_clicks: NDArray[np.float32]
    presence: NDArray[np.float16]

    def __post_init__(self) -> None:
        regions = len(self.score)
        if self.expected_clicks.shape != (regions,) or self.presence.shape[:1] != (regions,):
            raise CheckpointError(
                f"Scores of {regions} regions meet clicks {self.expected_clicks.shape} and "
                f"presence {self.presence.shape}.",
                hint="Score the pool again.",
            )


@dataclass(frozen=True, eq=False)
class PoolScores:
    """Scores of a whole pool by image id, the version that made them and by which acquisition."""

    images: Mapping[str, ImageScores]
    version: str | None  # None: before the first version, at random
    acquisition: str

    def save(self, path: Path) -> None:
        """Write one .npz with its hash, atomically."""
        arrays = self._arrays()
        meta = {
            "format": FORMAT,
            "images": sorted(self.images),
            "version": self.version,
            "acquisition": self.acquisition,
        }
        text = json.dumps({**meta, "hash": _hash(meta, arrays)})
        write_atomically(path, lambda file: np.savez(file, meta=np.array(text), **arrays))  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> PoolScores:
        """Read what `save` wrote; CheckpointError if missing or damaged."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if name != "meta"}
                meta = json.loads(str(file["meta"]))
            expected = meta.pop("hash")
            images = _split(meta["images"], arrays)
            whole = expected == _hash(meta, arrays) and meta["format"] == FORMAT
        except _DAMAGE as error:
            raise CheckpointError(
                f"The scores {path} cannot be read: {error}.", hint="Score the pool again."
            ) from error
        if not whole:
            raise CheckpointError(f"The scores {path} are damaged.", hint="Score the pool again.")
        return cls(images, meta["version"], meta["acquisition"])

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        """All images one after the other: a file of a few arrays, however many images."""
        scores = [self.images[name] for name in sorted(self.images)]
        widths = {s.presence.shape[1] for s in scores} or {0}
        if len(widths) > 1:
            raise CheckpointError(
                f"Images of one pool have {sorted(widths)} classes.", hint="Score the pool again."
            )
        width = widths.pop()
        none = np.zeros((0, width), np.float16)
        return {
            "regions": np.array([len(s.score) for s in scores], np.int64),
            "score": np.concatenate([none[:, 0:0].ravel(), *(s.score for s in scores)]).astype(
                np.float64
            ),
            "expected_clicks": np.concatenate(
                [np.zeros(0, np.float32), *(s.expected_clicks for s in scores)]
            ).astype(np.float32),
            "presence": np.concatenate([none, *(s.presence for s in scores)]).astype(np.float16),
        }


def _split(names: list[str], arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, ImageScores]:
    ends = np.cumsum(arrays["regions"].astype(np.int64))
    parts = (np.split(arrays[n], ends[:-1]) for n in ("score", "expected_clicks", "presence"))
    if not names:
        return {}
    return {
        name: ImageScores(score.astype(np.float64), clicks.astype(np.float32), p.astype(np.float16))
        for name, score, clicks, p in zip(names, *parts, strict=True)
    }


def _hash(meta: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
