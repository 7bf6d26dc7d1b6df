"""Walk a batch in tiles small enough for the cache, each with its softmax and candidate masses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.candidate_table import CandidateTable

EPSILON = 1e-8  # inside every logarithm, as in the authors' code

# Floats of one tile (2 MB): smaller ones pay more for calls, larger ones leave the cache.
_TILE_FLOATS = 1 << 19


class Slot(NamedTuple):
    """For the pixels that have a candidate in this place of the table: which, and how likely."""

    columns: Tensor  # of the tile, (n,)
    flat: Tensor  # position in the tile's probabilities, (n,)
    value: Tensor  # p(x)_c, (n,)


@dataclass(frozen=True, eq=False)
class Tile:
    """Consecutive pixels of one plane; with `keep`, only those columns of it.

    Attributes:
        rows: row of the candidate table for each pixel, (T,).
        one, many: whether the pixel counts as one-hot or as multi-class, (T,), bool.
        probabilities: softmax, (K, T).
        mass: S(x) = sum_{c in Y} p(x)_c, 0 where there is no candidate, (T,).
        first_class, first: first candidate and its probability (0 without one), (T,).
        more: the other candidates, slot by slot.
        start: position of the tile's first pixel in the batch.
    """

    rows: Tensor
    one: Tensor
    many: Tensor
    probabilities: Tensor
    mass: Tensor
    first_class: Tensor
    first: Tensor
    more: list[Slot]
    start: int
    keep: Tensor | None

    def places(self, columns: Tensor) -> Tensor:
        """Positions in the flattened batch of some columns."""
        return self.start + (columns if self.keep is None else self.keep.index_select(0, columns))

    def gradient(self, temperature: float) -> Tensor:
        """d(-log(S + e)) / dz for each class and pixel, (K, T); zero where nothing is labelled."""
        weight = (self.mass + EPSILON).reciprocal_().mul_(-1 / temperature)
        out = self.probabilities * (weight * self.mass).neg_()
        inside = weight.mul_(1 - self.mass)
        out.scatter_(0, self.first_class[None], (inside * self.first)[None])
        for slot in self.more:
            out.view(-1).scatter_(0, slot.flat, inside.index_select(0, slot.columns) * slot.value)
        return out


class TileMap:
    """Cuts logits (B, K, H, W) into tiles; on a GPU the whole batch is one tile."""

    def __init__(
        self, shape: torch.Size, region_ids: Tensor, table: CandidateTable, temperature: float
    ) -> None:
        self.shape = shape
        self.table = table
        self.temperature = temperature
        self.sizes = table.size.to(torch.int16)  # compared for each pixel: a narrow type pays
        self.first_class = table.classes[:, 0].contiguous()
        self.whole = _one_tile(region_ids.device)
        batch, classes, height, width = shape
        planes = 1 if self.whole else batch
        self.ids = region_ids.reshape(planes, batch * height * width // max(1, planes))
        length = self.ids.shape[1]
        self.step = max(1, length if self.whole else max(1024, _TILE_FLOATS // classes))

    def planes(self, logits: Tensor) -> Tensor:
        """(B, K, H W), or (1, K, B H W) on a GPU."""
        classes, (planes, length) = self.shape[1], self.ids.shape
        source = logits.detach()
        return (source.movedim(1, 0) if self.whole else source).reshape(planes, classes, length)

    def image_layout(self, planes: Tensor) -> Tensor:
        """The inverse of `planes`."""
        batch, classes, height, width = self.shape
        if self.whole:
            return planes.view(classes, batch, height, width).movedim(0, 1)
        return planes.view(self.shape)

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """(plane, first, last + 1) of every tile."""
        for plane in range(self.ids.shape[0]):
            length = self.ids.shape[1]
            for low in range(0, length, self.step):
                yield plane, low, min(length, low + self.step)

    def tile(self, planes: Tensor, span: tuple[int, int, int]) -> Tile | None:
        """The tile of one span; None if nothing in it is labelled."""
        plane, low, high = span
        rows = self.ids[plane, low:high] + 1
        size = self.sizes.index_select(0, rows)
        logits = planes[plane, :, low:high]
        keep = None
        if not self.whole:
            labelled = int(torch.count_nonzero(size))
            if labelled == 0:
                return None
            if 2 * labelled < high - low:  # gathering a column costs about half of its softmax
                keep = _positions(size > 0, labelled)
                rows, size = rows.index_select(0, keep), size.index_select(0, keep)
                logits = logits.index_select(1, keep)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        probabilities = torch.softmax(wide / self.temperature, 0)
        first_class = self.first_class.index_select(0, rows)
        first = probabilities.gather(0, first_class[None])[0] * (size > 0)
        mass = first.clone()
        more = list(self._slots(rows, size, probabilities))
        for slot in more:
            mass.index_add_(0, slot.columns, slot.value)
        start = plane * self.ids.shape[1] + low
        many = size >= self.table.term_from
        one = many.logical_not() & (size == 1)
        return Tile(rows, one, many, probabilities, mass, first_class, first, more, start, keep)

    def _slots(self, rows: Tensor, size: Tensor, probabilities: Tensor) -> Iterator[Slot]:
        """The second, third, ... candidates of the pixels that have so many."""
        table, columns = self.table, None
        for index in range(1, table.slots):
            expected = table.pixels_with[index + 1] if self.whole else None
            if columns is None:
                columns = _positions(size > index, expected)
            else:
                columns = columns.index_select(
                    0, _positions(size.index_select(0, columns) > index, expected)
                )
            if not columns.numel():
                return
            at = rows.index_select(0, columns).mul_(table.slots).add_(index)
            flat = table.classes.view(-1).index_select(0, at)
            flat = flat.mul_(probabilities.shape[1]).add_(columns)
            yield Slot(columns, flat, probabilities.view(-1).index_select(0, flat))


def _one_tile(device: torch.device) -> bool:
    """A GPU has no cache to stay in, and each call costs it a launch."""
    return device.type != "cpu"


def _positions(mask: Tensor, count: int | None) -> Tensor:
    """Where a 1-D mask is True; on a GPU `count` must be known, so that nothing waits for it."""
    if mask.device.type == "cpu":
        return torch.from_numpy(mask.numpy().nonzero()[0])
    if count is None:
        raise ValueError("count is needed on a GPU")
    return torch.nonzero_static(mask, size=count).squeeze(1)


class BestPixels:
    """For each term (region, class): m = the largest p(x)_c, and the first pixel that has it."""

    def __init__(self, table: CandidateTable) -> None:
        self.table = table
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, tile: Tile) -> None:
        """Look at one tile."""
        table = self.table
        if table.term_from == 2:  # those with a second candidate are those with a term
            columns = tile.more[0].columns if tile.more else None
        else:
            expected = table.pixels_with[1] if tile.rows.device.type != "cpu" else None
            columns = _positions(tile.many, expected)
        if columns is None or not columns.numel():
            return
        self._note(tile, 0, columns, tile.first.index_select(0, columns))
        for index, slot in enumerate(tile.more, start=1):
            self._note(tile, index, slot.columns, slot.value)

    def _note(self, tile: Tile, slot: int, columns: Tensor, value: Tensor) -> None:
        at = tile.rows.index_select(0, columns).mul_(self.table.slots).add_(slot)
        term = self.table.term.view(-1).index_select(0, at)
        self.seen.append((term, value, tile.places(columns)))

    def result(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """m (T,), -1 where no pixel is visible, and the pixel's position in the batch (T,)."""
        terms = self.table.term_class.shape[0]
        best = torch.full((terms,), -1.0, dtype=like.dtype, device=like.device)
        first = torch.zeros(terms, dtype=torch.int64, device=like.device)
        if not self.seen:
            return best, first
        term, value, place = (torch.cat(part) for part in zip(*self.seen, strict=True))
        best.scatter_reduce_(0, term, value, "amax")
        far = torch.iinfo(torch.int64).max
        place = torch.where(value == best.index_select(0, term), place, far)
        first.fill_(far).scatter_reduce_(0, term, place, "amin")
        return best, torch.where(best < 0, 0, first)
