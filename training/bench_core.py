"""Speed of the learning core beside plain baselines, in one run, on one thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from training.acquisition import pixbal, region_statistics
from training.bench_timing import Times, take_turns
from training.device import torch_threads
from training.losses import stage1_loss
from training.pseudo_labels import expand

# Superpixels of 32 px on street scenes hold 1 / 2 / 3 / 4 classes that often.
_CLASSES_PER_REGION = (0.72, 0.21, 0.05, 0.02)


class BenchSize(NamedTuple):
    """What to measure on: image height and width, classes, batch of the losses, region side."""

    height: int
    width: int
    classes: int
    batch: int = 4
    side_px: int = 32
    features: int = 256
    selected: int = 200


class BenchRow(TypedDict):
    """One line of the table; times are medians in ms, `ratio` is ours against the baseline.

    Ratio and target are by the wall clock; CPU time of the process stands beside it.
    """

    what: str
    ours_ms: float
    baseline_ms: float
    ours_cpu_ms: float
    baseline_cpu_ms: float
    ratio: float
    target: str
    met: bool


SIZES: tuple[BenchSize, ...] = (
    BenchSize(360, 480, 12, selected=50),
    BenchSize(512, 1024, 20, side_px=16),
)


def run(
    sizes: Sequence[BenchSize] = SIZES, repeats: int = 20, device: str = "cpu", seed: int = 0
) -> list[BenchRow]:
    """All rows for all sizes; ours and the baseline take turns, so that noise meets both."""
    with torch_threads(1):
        return [
            row
            for size in sizes
            for rows in (bench_losses, bench_scores, bench_pseudo_labels)
            for row in rows(size, repeats, torch.device(device), seed)
        ]


def bench_losses(
    size: BenchSize, repeats: int, device: torch.device, seed: int
) -> Iterator[BenchRow]:
    """Stage-1 losses forward and backward, against cross entropy of the same logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = _logits(size, size.batch, generator).to(device).requires_grad_()
    regions, count = _regions(size, size.batch)
    candidates = _candidates(size, size.batch * count, generator)
    offset = torch.arange(size.batch)[:, None, None] * count
    name = torch.randint(0, size.classes, (size.batch * count,), generator=generator)
    for share in (0.3, 1.0):
        chosen = torch.rand(size.batch * count, generator=generator) < share
        ids = torch.where(chosen[regions + offset], regions + offset, -1).to(device)
        labels = torch.where(ids.cpu() >= 0, name[regions + offset], 255).to(device)
        allowed = candidates.to(device)

        def ours(ids: Tensor = ids, allowed: Tensor = allowed) -> None:
            torch.autograd.grad(stage1_loss(logits, ids, allowed), logits)

        def plain(labels: Tensor = labels) -> None:
            loss = F.cross_entropy(logits / 0.1, labels, ignore_index=255)
            torch.autograd.grad(loss, logits)

        title = f"stage-1 losses, {share:.0%} of regions, batch {size.batch}, {_title(size)}"
        found = take_turns([ours, plain], repeats, str(device))
        yield _row(title, found[0], found[1], most_ratio=1.5)


def bench_scores(
    size: BenchSize, repeats: int, device: torch.device, seed: int
) -> Iterator[BenchRow]:
    """Region statistics and PixBal of one image, against one softmax of its logits.

    The softmax writes to memory at hand: new memory may cost it three times its own work, or not.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = _logits(size, 1, generator).to(device)
    regions, count = _regions(size, 1)
    regions, out = regions.to(device), torch.empty_like(logits)

    def ours() -> None:
        # Without entropies, which PixBal does not use: as score_pool calls it.
        pixbal(region_statistics(logits, regions, count, entropy=False))

    def plain() -> None:
        torch.softmax(logits, 1, out=out)

    found = take_turns([ours, plain], repeats, str(device))
    title = f"region statistics and PixBal, {_title(size)}"
    yield _row(title, found[0], found[1], most_ratio=3.0)


def bench_pseudo_labels(
    size: BenchSize, repeats: int, device: torch.device, seed: int
) -> Iterator[BenchRow]:
    """Pseudo labels with expansion, against a dilation of the whole image for each region."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size.features, size.height, size.width)
    features = F.normalize(torch.rand(shape, generator=generator), dim=0).to(device)
    logits = _logits(size, 1, generator)[0].to(device)
    regions, count = _regions(size, 1)
    candidates = _candidates(size, count, generator).to(device)
    number = min(size.selected, count)
    selected = torch.zeros(count, dtype=torch.bool)
    selected[torch.randperm(count, generator=generator)[:number]] = True
    arguments = features, logits, regions[0].to(device), candidates, selected.to(device)
    # The baseline takes seconds: a few times are enough.
    (baseline,) = take_turns([lambda: plain_expand(*arguments)], min(repeats, 3), str(device))
    (ours,) = take_turns([lambda: expand(*arguments)], repeats, str(device))
    title = f"pseudo labels, {number} regions, {size.features} features, {_title(size)}"
    yield _row(title, ours, baseline, most_ms=300.0)


def plain_expand(
    features: Tensor, logits: Tensor, region_ids: Tensor, candidates: Tensor, selected: Tensor
) -> Tensor:
    """Section 3.4 region by region on whole-image masks: the baseline, and a check of `expand`."""
    q = torch.softmax(logits, 0)
    out = torch.full_like(region_ids, 255)
    inner = out.clone()
    for s in (selected & candidates.any(1)).nonzero().squeeze(1).tolist():
        mask = region_ids == s
        if not bool(mask.any()):
            continue
        names = candidates[s].nonzero().squeeze(1)
        inside = features[:, mask]
        vectors = inside[:, q[names][:, mask].argmax(1)].T
        similar = vectors @ inside
        best, winner = similar.max(0)
        inner[mask] = names[winner]
        theta = torch.stack([
            best[winner == k].median() if bool((winner == k).any()) else best.new_tensor(1.0)
            for k in range(len(names))
        ])  # fmt: skip
        touched = F.max_pool2d(mask[None, None].float(), 3, 1, 1)[0, 0] > 0
        near = torch.isin(region_ids, torch.unique(region_ids[touched]))
        similar = vectors @ features[:, near]
        label = torch.where((similar > theta[:, None]).any(0), names[similar.argmax(0)], out[near])
        out[near] = label
    return torch.where(selected[region_ids], inner, out).to(torch.uint8)


def _logits(size: BenchSize, batch: int, generator: torch.Generator) -> Tensor:
    """Cosines, uniform in -1..1."""
    shape = (batch, size.classes, size.height, size.width)
    return torch.rand(shape, generator=generator) * 2 - 1


def _regions(size: BenchSize, batch: int) -> tuple[Tensor, int]:
    """A grid of regions, (B, H, W), and their number per image."""
    rows, columns = max(1, size.height // size.side_px), max(1, size.width // size.side_px)
    y = torch.arange(size.height) * rows // size.height
    x = torch.arange(size.width) * columns // size.width
    return (y[:, None] * columns + x).repeat(batch, 1, 1), rows * columns


def _candidates(size: BenchSize, regions: int, generator: torch.Generator) -> Tensor:
    """Multi-hot labels (R, K) with as many classes as superpixels of street scenes have."""
    share = torch.tensor(_CLASSES_PER_REGION)
    number = torch.multinomial(share, regions, replacement=True, generator=generator) + 1
    order = torch.rand(regions, size.classes, generator=generator).argsort(1).argsort(1)
    return order < number[:, None]


def _title(size: BenchSize) -> str:
    return f"{size.height}x{size.width}, {size.classes} classes"


def _row(
    what: str,
    ours: Times,
    baseline: Times,
    most_ratio: float = float("inf"),
    most_ms: float = float("inf"),
) -> BenchRow:
    ratio = ours.wall_ms / baseline.wall_ms
    target = f"at most {most_ms:g} ms" if most_ms < float("inf") else f"at most {most_ratio:g}x"
    return BenchRow(
        what=what,
        ours_ms=ours.wall_ms,
        baseline_ms=baseline.wall_ms,
        ours_cpu_ms=ours.cpu_ms,
        baseline_cpu_ms=baseline.cpu_ms,
        ratio=ratio,
        target=target,
        met=ours.wall_ms <= most_ms and ratio <= most_ratio,
    )
