"""Regions of an image: their names, their map, and what follows from the map."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.atomic import write_atomically
from training.errors import RegionMapError

_REMAKE = "Make the region map again from the image, with the same method and parameters."
# What zipfile, zlib, numpy and json raise on files with flipped bits.
_DAMAGE = (
    OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, MemoryError,
    OverflowError, RuntimeError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    struct.error, RegionMapError,
)  # fmt: skip


class RegionId(NamedTuple):
    """Names a region for good; `index` counts from 0 and holds only with the same region map."""

    image_id: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nothing here calls

    def __str__(self) -> str:
        return f"{self.image_id}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> RegionId:
        """Read "image_id:index", the inverse of `str`; RegionMapError on any other text."""
        image_id, colon, index = text.rpartition(":")
        if not (image_id and colon and index.isascii() and index.isdigit()):
            raise RegionMapError(
                f"Expected a region as 'image_id:index', got {text!r}.",
                hint="Take the text that str(RegionId(...)) makes.",
            )
        return cls(image_id, int(index))


@dataclass(frozen=True, eq=False)
class RegionMap:
    """Which region each pixel belongs to: ids (H, W) int32, every id of 0..count-1 used.

    Raises: RegionMapError if ids are not so, or params cannot be written as JSON.
    """

    ids: NDArray[np.int32]
    count: int
    method: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = _checked_ids(self.ids)
        used = np.bincount(ids.ravel(), minlength=self.count)
        if len(used) != self.count or not used.all():
            missing = np.flatnonzero(used[: self.count] == 0)[:5].tolist()
            raise RegionMapError(
                f"Expected region ids 0..{self.count - 1}, each used; the largest is "
                f"{int(ids.max())} and the first unused ones are {missing}.",
                hint="Number the regions 0..count-1 without gaps.",
            )
        object.__setattr__(self, "ids", ids)
        self.__dict__["_areas"] = used.astype(np.int64)
        try:
            object.__setattr__(self, "params", json.loads(json.dumps(dict(self.params))))
        except (TypeError, ValueError) as error:
            raise RegionMapError(
                f"Region map parameters must be plain JSON values: {error}.",
                hint="Use numbers, strings, booleans, None and lists of these.",
            ) from error

    @property
    def height(self) -> int:
        """Rows in px."""
        return int(self.ids.shape[0])

    @property
    def width(self) -> int:
        """Columns in px."""
        return int(self.ids.shape[1])

    @cached_property
    def hash(self) -> str:
        """24 hex digits of SHA-256 over shape, ids, method and parameters."""
        head = [list(self.ids.shape), self.count, self.method, self.params]
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        digest.update(self.ids.astype("<i4", copy=False).tobytes())
        return digest.hexdigest()[:24]

    def areas(self) -> NDArray[np.int64]:
        """Pixels of each region, (count,) int64."""
        areas: NDArray[np.int64] = self.__dict__["_areas"]
        return areas.copy()

    def boxes(self) -> NDArray[np.int32]:
        """Bounding boxes (count, 4) int32: y0, x0, y1, x1 in px, the ends exclusive."""
        slices = ndimage.find_objects(self.ids + 1, max_label=self.count)
        return np.array(
            [(rows.start, cols.start, rows.stop, cols.stop) for rows, cols in slices], np.int32
        )

    def adjacency(self) -> NDArray[np.int32]:
        """Pairs of touching regions (8-connectivity), (E, 2) int32, a < b, sorted, each once.

        A map with one region gives (0, 2).
        """
        ids = self.ids
        neighbours = [
            (ids[:, :-1], ids[:, 1:]),
            (ids[:-1], ids[1:]),
            (ids[:-1, :-1], ids[1:, 1:]),
            (ids[:-1, 1:], ids[1:, :-1]),
        ]
        keys = []
        for first, second in neighbours:
            differ = first != second
            a, b = first[differ].astype(np.int64), second[differ].astype(np.int64)
            keys.append(np.minimum(a, b) * self.count + np.maximum(a, b))
        unique = np.unique(np.concatenate(keys))
        return np.stack([unique // self.count, unique % self.count], axis=1).astype(np.int32)

    def save(self, path: Path | str) -> None:
        """Write the map as a compressed .npz, atomically and with its hash."""
        # Two bytes per pixel are enough for most images and halve the file.
        small = self.ids.astype(np.uint16 if self.count <= 1 << 16 else np.int32)
        meta = {"count": self.count, "method": self.method, "params": self.params}
        text = np.array(json.dumps({**meta, "hash": self.hash}, sort_keys=True))
        write_atomically(Path(path), lambda file: np.savez_compressed(file, ids=small, meta=text))

    @classmethod
    def load(cls, path: Path | str) -> RegionMap:
        """Read what `save` wrote; RegionMapError if it is missing, damaged or not such a file."""
        try:
            # Read whole first: np.load leaves the file open when its content is damaged.
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as file:
                ids, meta = file["ids"], json.loads(str(file["meta"]))
            region_map = cls(ids.astype(np.int32), meta["count"], meta["method"], meta["params"])
            expected = meta["hash"]
        except FileNotFoundError as error:
            raise RegionMapError(f"There is no region map at {path}.", hint=_REMAKE) from error
        except _DAMAGE as error:
            raise RegionMapError(
                f"{path} is not a whole region map ({type(error).__name__}: {error}).", hint=_REMAKE
            ) from error
        if region_map.hash != expected:
            raise RegionMapError(
                f"{path} says its hash is {expected}, its content has {region_map.hash}.",
                hint=_REMAKE,
            )
        return region_map


def _checked_ids(ids: NDArray[Any]) -> NDArray[np.int32]:
    """A read-only, C-contiguous copy of a whole-number (H, W) array; RegionMapError otherwise."""
    if ids.ndim != 2 or ids.size == 0 or ids.dtype != np.int32:
        raise RegionMapError(
            f"Expected region ids as a non-empty (H, W) int32 array, got {ids.shape} {ids.dtype}.",
            hint="Convert with ids.astype(numpy.int32).",
        )
    if int(ids.min()) < 0:
        raise RegionMapError(
            f"Expected region ids from 0, the smallest is {int(ids.min())}.",
            hint="Give every pixel a region.",
        )
    own = np.array(ids, order="C")  # a copy: the hash must not change under the caller's hands
    own.setflags(write=False)
    return own
