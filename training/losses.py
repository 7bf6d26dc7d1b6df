"""The losses of both training stages (arXiv 2309.09319, section 3.2), one softmax per pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.candidate_table import candidate_table
from training.errors import DataError
from training.loss_tiles import EPSILON, BestPixels, TileMap
from training.tensor_checks import (
    expect_finite,
    expect_floating,
    expect_integer,
    expect_shape,
    expect_temperature,
)


class Stage1Losses(NamedTuple):
    """The three terms of stage 1, each a scalar in nats, and what each was divided by.

    `counts` holds n1, n2, n3, int64 (3,): one plus the one-hot pixels, one plus the multi-class
    pixels, one plus the (region, class) terms.
    """

    one_hot: Tensor
    merged_positive: Tensor
    prototypical_pixel: Tensor
    counts: Tensor


def stage1_losses(
    logits: Tensor,
    region_ids: Tensor,
    candidates: Tensor,
    temperature: float = 0.1,
    *,
    decomposed: bool = True,
    region_area: Tensor | None = None,
    min_visible: float = 0.0,
    possible: Tensor | None = None,
) -> Stage1Losses:
    """Learn from multi-class region labels: every pixel of a region s has its class in Y_s.

    With p(x) = softmax(z(x) / temperature), e = 1e-8, and m_sc = max_{x in s} p(x)_c:

        one_hot            = -1/n1 sum_{x: |Y|=1}      log(p(x)_y + e)
        merged_positive    = -1/n2 sum_{x: |Y|>=2}     log(sum_{c in Y} p(x)_c + e)
        prototypical_pixel = -1/n3 sum_{s: |Y_s|>=2, c in Y_s, m_sc > 0}  log(m_sc + e)

    n1, n2, n3 are one plus the number of summands, over the whole batch. The gradient of a
    prototypical term reaches only its pixel, the first in raster order where several are equal.
    (Eqs. 4-6; one-hot regions are kept apart as in the authors' code.)

    Args:
        logits: cosines z, (B, K, H, W), any floating type; computed in float32 or wider.
        region_ids: row of `candidates`, numbered across the batch; -1 = not labelled, (B, H, W).
        candidates: True where the class was chosen, (R, K), bool. Empty rows count for nothing.
        decomposed: False treats one-hot regions like the others, as the authors' first version.
        region_area: pixels of each whole region, (R,); needed for `min_visible`.
        min_visible: no prototypical term where less than this share of the region is in the crop.
        possible: True where the answer says nothing about the class, (R, K), bool. It is one of the
            region's candidates, but no prototypical term demands it.

    Returns:
        Zeros with a graph, if nothing is labelled or the batch is empty.

    Raises:
        DataError: shapes, types or ids do not fit.
        NonFiniteError: NaN or infinity in the logits.
    """
    _check(logits, region_ids, candidates, temperature)
    region_ids = region_ids.long()
    chosen = candidates
    if possible is not None:
        expect_shape("possible", possible, tuple(candidates.shape))
        chosen = candidates | (possible & candidates.any(1, keepdim=True))
    table = candidate_table(region_ids, chosen, logits, term_from=2 if decomposed else 1)
    visible = table.area > 0
    if min_visible > 0:
        if region_area is None:
            raise DataError("min_visible needs region_area.", hint="Pass the whole regions' areas.")
        expect_shape("region_area", region_area, (candidates.shape[0],))
        visible[1:] &= table.area[1:] >= min_visible * region_area.to(visible.device)
    wanted = visible.index_select(0, table.term_row)
    if possible is not None:
        ticked = candidates.to(wanted.device) != 0
        wanted &= ticked[table.term_row - 1, table.term_class]  # row 0 has no term
    tiles = TileMap(logits.shape, region_ids, table, temperature)
    terms: tuple[Tensor, ...] = _Stage1.apply(logits, tiles, wanted)
    return Stage1Losses(*terms)


def stage1_loss(
    logits: Tensor,
    region_ids: Tensor,
    candidates: Tensor,
    temperature: float = 0.1,
    weights: tuple[float, float, float] = (16.0, 8.0, 1.0),
    **options: Any,
) -> Tensor:
    """16 one_hot + 8 merged_positive + 1 prototypical_pixel, a scalar; see `stage1_losses`."""
    losses = stage1_losses(logits, region_ids, candidates, temperature, **options)
    a, b, c = weights
    return a * losses.one_hot + b * losses.merged_positive + c * losses.prototypical_pixel


def stage2_loss(
    logits: Tensor, labels: Tensor, temperature: float = 0.1, ignore_index: int = 255
) -> Tensor:
    """Cross entropy with pseudo labels: mean over labelled x of -log softmax(z(x)/temperature)_y.

    Args:
        logits: cosines z, (B, K, H, W); computed in float32 or wider.
        labels: class of each pixel or `ignore_index`, (B, H, W), any integer type.

    Returns:
        Scalar in nats; 0 with a graph, if nothing is labelled.

    Raises:
        DataError: shapes, types or labels do not fit.
        NonFiniteError: NaN or infinity in the logits.
    """
    expect_floating("logits", logits)
    batch, classes, height, width = _four(logits)
    expect_shape("labels", labels, (batch, height, width))
    expect_integer("labels", labels)
    expect_temperature(temperature)
    expect_finite("logits", logits)
    target = labels.long()
    labelled = target != ignore_index
    if bool((labelled & ((target < 0) | (target >= classes))).any()):
        raise DataError(
            f"labels must be 0..{classes - 1} or {ignore_index}, got others.",
            hint="Use the same classes for labels and model.",
        )
    wide = logits if logits.dtype == torch.float64 else logits.float()
    total = F.cross_entropy(wide / temperature, target, ignore_index=ignore_index, reduction="sum")
    return total / labelled.sum().clamp(min=1)


def _four(logits: Tensor) -> tuple[int, int, int, int]:
    expect_shape("logits", logits, (None, None, None, None))
    batch, classes, height, width = logits.shape
    return batch, classes, height, width


def _check(logits: Tensor, region_ids: Tensor, candidates: Tensor, temperature: float) -> None:
    expect_floating("logits", logits)
    batch, classes, height, width = _four(logits)
    expect_shape("region_ids", region_ids, (batch, height, width))
    expect_integer("region_ids", region_ids)
    expect_shape("candidates", candidates, (None, classes))
    expect_temperature(temperature)
    if classes < 1:
        raise DataError("logits must have at least one class, got 0.", hint="Check the model.")


class _Stage1(torch.autograd.Function):
    """The three terms, with a gradient by hand.

    For a pixel with candidates Y and S = sum_{c in Y} p_c,
        d(-log(S + e)) / dz_k = -p_k ([k in Y] - S) / (temperature (S + e))
    is both the one-hot and the merged positive case. It is made in the forward pass, while the
    softmax is in the cache; the backward pass only weighs it.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tiles: TileMap, wanted: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        table, planes = tiles.table, tiles.planes(logits)
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        sums = torch.zeros(2, dtype=torch.float64, device=logits.device)
        best, pieces = BestPixels(table), []
        for span in tiles.spans():
            tile = tiles.tile(planes, span)
            if tile is None:
                continue
            log_mass = torch.log(tile.mass + EPSILON)
            sums -= torch.stack([(log_mass * tile.one).sum(), (log_mass * tile.many).sum()])
            best.add(tile)
            if ctx.needs_input_grad[0]:
                pieces.append((span, tile.keep, tile.many, tile.gradient(tiles.temperature)))
        value, place = best.result(planes.new_empty(0, dtype=wide))
        kept = (value > 0) & wanted
        pixel = -(torch.log(value.clamp(min=0) + EPSILON) * kept).sum(dtype=torch.float64)
        several = sum(table.pixels_with[table.term_from : table.term_from + 1])
        pixels = torch.tensor([table.pixels_with[1] - several, several], device=logits.device)
        counts = 1 + torch.cat([pixels, kept.sum()[None]])
        ctx.save_for_backward(logits, value, place, kept, counts)
        ctx.tiles, ctx.pieces = tiles, pieces
        ctx.mark_non_differentiable(counts)
        means = torch.cat([sums, pixel[None]]) / counts
        losses = means.to(wide)
        return losses[0], losses[1], losses[2], counts

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_one_hot: Tensor, d_merged: Tensor, d_pixel: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None]:
        logits, value, place, kept, counts = ctx.saved_tensors
        tiles: TileMap = ctx.tiles
        one_hot, merged, pixel = (torch.stack([d_one_hot, d_merged, d_pixel]) / counts).unbind()
        planes = tiles.planes(logits)
        gradient = torch.empty_like(planes)
        pieces = {span: piece for span, *piece in ctx.pieces}
        for span in tiles.spans():
            plane, low, high = span
            out = gradient[plane, :, low:high]
            if span not in pieces:
                out.zero_()
                continue
            keep, many, values = pieces[span]
            weight = torch.where(many, merged, one_hot)
            if keep is None:
                torch.mul(values, weight, out=out)
            else:
                out.zero_().index_copy_(1, keep, (values * weight).to(out.dtype))
        if gradient.numel():
            scale = pixel / -tiles.temperature
            weight = torch.where(kept, scale * value / (value + EPSILON), 0)
            _add_pixel_gradient(gradient, planes, tiles, place, weight)
        return tiles.image_layout(gradient), None, None


def _add_pixel_gradient(
    gradient: Tensor, planes: Tensor, tiles: TileMap, place: Tensor, weight: Tensor
) -> None:
    """Add weight_t ([k = c_t] - p_k) at the pixel of each term t."""
    plane, column = place // planes.shape[2], place % planes.shape[2]
    logits = planes[plane, :, column]  # (T, K)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    values = torch.softmax(wide / tiles.temperature, 1).neg_()
    values.scatter_add_(1, tiles.table.term_class[:, None], torch.ones_like(values[:, :1]))
    values = (values * weight[:, None]).to(gradient.dtype)
    classes = torch.arange(planes.shape[1], device=planes.device)
    gradient.index_put_((plane[:, None], classes, column[:, None]), values, accumulate=True)
