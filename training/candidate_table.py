"""The candidate classes of labelled regions, as small tables that pixels look up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import DataError
from training.tensor_checks import finite_probe, raise_if_non_finite


@dataclass(frozen=True, eq=False)
class CandidateTable:
    """Row 0 stands for "no labelled region", row r + 1 for region r. All int64.

    A term is one pair of a region that has at least `term_from` candidates and a class of it.

    Attributes:
        size: number of candidate classes |Y_s|, (R+1,).
        classes: the candidates in ascending order, then zeros, (R+1, M).
        term: number of the term at the same place of `classes`, (R+1, M).
        term_class: class of each term, (T,).
        term_row: table row of each term, (T,).
        area: pixels of each row in the region map, (R+1,).
        pixels_with: entry t = number of pixels whose region has at least t candidates, K+1 of them.
        term_from: fewest candidates of a region that has terms.
    """

    size: Tensor
    classes: Tensor
    term: Tensor
    term_class: Tensor
    term_row: Tensor
    area: Tensor
    pixels_with: list[int]
    term_from: int

    @property
    def slots(self) -> int:
        """M, the largest number of candidates of any region (at least 1)."""
        return self.classes.shape[1]


def candidate_table(
    region_ids: Tensor, candidates: Tensor, logits: Tensor, term_from: int = 2
) -> CandidateTable:
    """Build the table; check ids and logits with it, so that a GPU synchronises once.

    Args:
        region_ids: row of `candidates` for each pixel, -1 where no region is labelled, int64.
        candidates: True where the class was chosen for the region, (R, K), bool.
        logits: must not hold NaN or infinity.
        term_from: regions with at least so many candidates get terms.

    Raises:
        DataError: an id is below -1 or has no row in `candidates`.
        NonFiniteError: `logits` holds NaN or infinity.
    """
    regions, num_classes = candidates.shape
    none = candidates.new_zeros((1, num_classes))
    chosen = torch.cat([none, candidates]).to(region_ids.device) != 0
    size = chosen.sum(1)
    area, low, high = _areas(region_ids.reshape(-1), regions)
    at_least = torch.arange(num_classes + 1, device=size.device)
    pixels_with = ((size[:, None] >= at_least) * area[:, None]).sum(0)
    has_terms = torch.where(size >= term_from, size, 0)
    numbers = torch.cat([torch.stack([low, high, size.max(), has_terms.sum()]), pixels_with])
    fetched = torch.cat([finite_probe(logits).double()[None], numbers.double()]).tolist()
    raise_if_non_finite("logits", logits, fetched[0])
    low_id, high_id, largest, terms, *counts = (int(n) for n in fetched[1:])
    if low_id < -1 or high_id >= regions:
        raise DataError(
            f"region_ids must lie in -1..{regions - 1}, the rows of candidates; "
            f"got {low_id}..{high_id}.",
            hint="Set pixels outside labelled regions to -1; number regions across the batch.",
        )
    rank = chosen.cumsum(1) - 1
    slots = max(1, largest)
    place = torch.where(chosen, rank, slots)  # the last column takes what is not chosen
    names = torch.arange(num_classes, device=size.device).expand_as(place)
    classes = torch.zeros(regions + 1, slots + 1, dtype=torch.int64, device=size.device)
    classes = classes.scatter_(1, place, names)[:, :slots].contiguous()
    first_term = has_terms.cumsum(0) - has_terms
    slot = torch.arange(slots, device=size.device)
    term = first_term[:, None] + slot
    used = torch.where(slot < has_terms[:, None], term, terms).reshape(-1)
    rows = torch.arange(regions + 1, device=size.device)[:, None].expand_as(term)
    return CandidateTable(
        size=size,
        classes=classes,
        term=term,
        term_class=_by_term(used, classes, terms),
        term_row=_by_term(used, rows, terms),
        area=area,
        pixels_with=counts,
        term_from=term_from,
    )


def _areas(ids: Tensor, regions: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of each table row, lowest and highest id (-1, -1 for an empty map)."""
    area = torch.zeros(regions + 1, dtype=torch.int64, device=ids.device)
    if not ids.numel():
        return area, area.new_tensor(-1), area.new_tensor(-1)
    low, high = ids.aminmax()
    # Ids out of range are reported by the caller; the clamp keeps this line safe until then.
    rows = (ids + 1).clamp_(0, regions)
    if ids.device.type == "cpu":
        return torch.bincount(rows, minlength=regions + 1), low, high
    return area.index_add_(0, rows, torch.ones_like(rows)), low, high


def _by_term(used: Tensor, values: Tensor, terms: int) -> Tensor:
    """`values` (R+1, M) in the order of the terms; place number `terms` is thrown away."""
    flat = torch.zeros(terms + 1, dtype=torch.int64, device=used.device)
    return flat.scatter_(0, used, values.reshape(-1))[:terms]
