"""Stage-1 and stage-2 losses: values worked out by hand, laws, edges."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training import loss_tiles
from training.errors import DataError, NonFiniteError
from training.losses import stage1_loss, stage1_losses, stage2_loss

EPSILON = 1e-8


def by_hand(
    logits: Tensor, ids: Tensor, candidates: Tensor, temperature: float, smallest: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """The three equations, region by region, for autograd."""
    p = torch.softmax(logits / temperature, 1).movedim(1, -1)
    one, many, pixel, n = [], [], [], [1, 1, 1]
    for region in range(candidates.shape[0]):
        inside, chosen = p[ids == region], candidates[region]
        size = int(chosen.sum())
        mass = -torch.log(inside[:, chosen].sum(1) + EPSILON)
        if size == 0 or not len(inside):
            continue
        if size >= smallest:
            many.append(mass.sum())
            n[1] += len(inside)
            best = inside[:, chosen].amax(0)
            pixel.append(-torch.log(best + EPSILON).sum())
            n[2] += size
        elif size == 1:
            one.append(mass.sum())
            n[0] += len(inside)
    zero = logits.sum() * 0
    sums = (sum(part, zero) for part in (one, many, pixel))
    return tuple(s / k for s, k in zip(sums, n, strict=True))  # type: ignore[return-value]


def make(
    seed: int, batch: int = 2, classes: int = 5, size: tuple[int, int] = (6, 7), regions: int = 6
) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 logits, ids with -1 among them, candidates with none, one, several."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.rand(batch, classes, *size, generator=g, dtype=torch.float64) * 2 - 1
    ids = torch.randint(-1, regions, (batch, *size), generator=g)
    candidates = torch.rand(regions, classes, generator=g) < 0.4
    return logits, ids, candidates


def test_half_and_quarters() -> None:
    """p = (1/2, 1/4, 1/4), candidates {0, 1}: mass 3/4; the best pixels hold 1/2 and 1/4."""
    logits = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 3, 1, 1)
    found = stage1_losses(
        logits, torch.zeros(1, 1, 1, dtype=torch.int64), torch.tensor([[True, True, False]]), 1.0
    )
    assert found.counts.tolist() == [1, 2, 3]
    assert found.one_hot == 0
    assert float(found.merged_positive) == pytest.approx(-math.log(3 / 4) / 2, rel=1e-6)
    assert float(found.prototypical_pixel) == pytest.approx(math.log(8) / 3, rel=1e-6)
    total = stage1_loss(
        logits, torch.zeros(1, 1, 1, dtype=torch.int64), torch.tensor([[True, True, False]]), 1.0
    )
    expected = 8 * -math.log(3 / 4) / 2 + math.log(8) / 3
    assert float(total) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smallest", [2, 1])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_equations_and_their_autograd_gradient(seed: int, smallest: int) -> None:
    logits, ids, candidates = make(seed)
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = stage1_losses(ours, ids, candidates, decomposed=smallest == 2)
    expected = by_hand(plain, ids, candidates, 0.1, smallest)
    for a, b, weight in zip(found[:3], expected, (1.0, 3.0, 0.5), strict=True):
        torch.testing.assert_close(a, b)
        (a * weight).backward(retain_graph=True)
        (b * weight).backward(retain_graph=True)
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.parametrize("one_tile", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_every_way_of_cutting_the_batch_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, one_tile: bool, share: float
) -> None:
    logits, ids, candidates = make(3, size=(50, 60))
    ids[torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) > share] = -1
    ids[1, :20] = -1  # tiles without any labelled pixel
    monkeypatch.setattr(loss_tiles, "_TILE_FLOATS", 1)  # tiles of 1024 pixels
    monkeypatch.setattr(loss_tiles, "_one_tile", lambda device: one_tile)
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    stage1_loss(ours, ids, candidates).backward()
    a, b, c = by_hand(plain, ids, candidates, 0.1)
    (16 * a + 8 * b + c).backward()
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.parametrize("decomposed", [True, False])
def test_gradcheck(decomposed: bool) -> None:
    logits, ids, candidates = make(5, batch=1, classes=4, size=(3, 4), regions=4)

    def losses(z: Tensor) -> tuple[Tensor, ...]:
        return tuple(stage1_losses(z, ids, candidates, 0.5, decomposed=decomposed)[:3])

    assert torch.autograd.gradcheck(losses, logits.requires_grad_(), eps=1e-6, atol=1e-7)


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_one_candidate_each_is_cross_entropy(seed: int, classes: int) -> None:
    logits, ids, _ = make(seed, classes=classes)
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (6,), generator=g)
    found = stage1_losses(logits, ids, F.one_hot(label, classes).bool(), 0.5)
    target = torch.where(ids >= 0, label[ids.clamp(min=0)], 255)
    expected = F.cross_entropy(logits / 0.5, target, ignore_index=255, reduction="sum")
    number = int((ids >= 0).sum())
    assert found.counts.tolist() == [1 + number, 1, 1]
    assert float(found.one_hot) * (1 + number) == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


@given(st.integers(0, 10_000), st.integers(0, 5), st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_adding_a_candidate_never_raises_the_merged_positive_loss(
    seed: int, region: int, name: int
) -> None:
    logits, ids, candidates = make(seed)
    candidates[:, :2] = True  # all regions count as multi-class, before and after
    more = candidates.clone()
    more[region, name] = True
    before = stage1_losses(logits, ids, candidates).merged_positive
    assert stage1_losses(logits, ids, more).merged_positive <= before + 1e-12


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_renumbering_regions_changes_nothing(seed: int) -> None:
    logits, ids, candidates = make(seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    renumbered = torch.where(ids >= 0, order[ids.clamp(min=0)], -1)
    shuffled = torch.empty_like(candidates)
    shuffled[order] = candidates
    for a, b in zip(
        stage1_losses(logits, ids, candidates), stage1_losses(logits, renumbered, shuffled),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b)


def test_the_first_of_equal_pixels_gets_the_gradient() -> None:
    logits = torch.zeros(1, 3, 2, 2).requires_grad_()
    ids = torch.zeros(1, 2, 2, dtype=torch.int64)
    stage1_losses(logits, ids, torch.tensor([[True, True, False]])).prototypical_pixel.backward()
    assert logits.grad is not None
    assert logits.grad[0, :, 0, 0].abs().min() > 0
    assert logits.grad.flatten(2)[..., 1:].abs().max() == 0


def test_a_probability_of_exactly_zero_is_dropped() -> None:
    logits = torch.tensor([20.0, 0.0]).view(1, 2, 1, 1)  # 200 nats apart at temperature 0.1
    ids = torch.zeros(1, 1, 1, dtype=torch.int64)
    found = stage1_losses(logits, ids, torch.ones(1, 2, dtype=torch.bool))
    assert found.counts.tolist() == [1, 2, 2]
    assert float(found.prototypical_pixel) == 0


NOTHING = {
    "empty batch": (torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4), torch.ones(2, 3)),
    "empty image": (torch.zeros(2, 3, 0, 4), torch.zeros(2, 0, 4), torch.ones(2, 3)),
    "no labelled pixel": (torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), -1), torch.ones(2, 3)),
    "empty targets": (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4), torch.zeros(2, 3)),
    "no region": (torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), -1), torch.ones(0, 3)),
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_labelled_is_zero_with_a_graph(case: str) -> None:
    logits, ids, candidates = NOTHING[case]
    z = logits.clone().requires_grad_()
    found = stage1_losses(z, ids.long(), candidates.bool())
    assert found.counts.tolist() == [1, 1, 1]
    total = stage1_loss(z, ids.long(), candidates.bool())
    total.backward()
    assert float(total.detach()) == 0
    assert z.grad is not None
    assert not z.grad.any()


def test_empty_targets_beside_others_count_for_nothing() -> None:
    logits, ids, candidates = make(1)
    candidates[0] = False
    without = torch.where(ids == 0, -1, ids)
    for a, b in zip(
        stage1_losses(logits, ids, candidates), stage1_losses(logits, without, candidates),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("classes", [1, 200])
def test_few_and_many_classes(classes: int) -> None:
    logits, ids, candidates = make(2, classes=classes)
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    stage1_loss(a, ids, candidates).backward()
    losses = by_hand(b, ids, candidates, 0.1)
    (16 * losses[0] + 8 * losses[1] + losses[2]).backward()
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    logits, ids, candidates = make(4)
    half = logits.to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    a, b = (stage1_loss(z, ids, candidates) for z in (half, full))
    assert a.dtype == torch.float32
    torch.testing.assert_close(a, b)
    a.backward()
    b.backward()
    assert half.grad is not None
    assert full.grad is not None
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad.float(), full.grad, rtol=1e-2, atol=1e-2)


def test_channels_last_gives_the_same() -> None:
    logits, ids, candidates = make(6)
    a = logits.clone().requires_grad_()
    b = logits.contiguous(memory_format=torch.channels_last).requires_grad_()
    stage1_loss(a, ids, candidates).backward()
    stage1_loss(b, ids, candidates).backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_regions_that_are_mostly_cut_away_demand_no_pixel() -> None:
    logits, ids, candidates = make(7)
    candidates[:, :2] = True
    area = torch.full((6,), 1000)
    area[2] = int((ids == 2).sum())
    found = stage1_losses(logits, ids, candidates, region_area=area, min_visible=0.5)
    assert int(found.counts[2]) == 1 + int(candidates[2].sum())
    alone = torch.where(ids == 2, ids, -1)
    expected = stage1_losses(logits, alone, candidates).prototypical_pixel
    torch.testing.assert_close(found.prototypical_pixel, expected)
    with pytest.raises(DataError, match="region_area"):
        stage1_losses(logits, ids, candidates, min_visible=0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_logits_are_named(value: float) -> None:
    logits, ids, candidates = make(0)
    logits[1, 2, 3, 4] = value
    with pytest.raises(NonFiniteError, match="1 NaN or infinite of 420"):
        stage1_losses(logits, ids, candidates)
    with pytest.raises(NonFiniteError, match="logits"):
        stage2_loss(logits, ids)


def test_huge_finite_logits_are_not_mistaken_for_infinity() -> None:
    logits = torch.full((1, 2, 2, 2), 3e38)
    ids = torch.zeros(1, 2, 2, dtype=torch.int64)
    found = stage1_losses(logits, ids, torch.tensor([[True, False]]), temperature=10.0)
    assert float(found.one_hot) == pytest.approx(math.log(2) * 4 / 5, rel=1e-6)


BAD = {
    "ids of a row too many": (dict(region_ids=torch.full((2, 6, 7), 6)), "-1..5"),
    "ids below -1": (dict(region_ids=torch.full((2, 6, 7), -2)), "-1..5"),
    "float ids": (dict(region_ids=torch.zeros(2, 6, 7)), "integers"),
    "ids of another size": (dict(region_ids=torch.zeros(1, 6, 7).long()), "shape"),
    "other classes": (dict(candidates=torch.ones(6, 4).bool()), "shape"),
    "flat logits": (dict(logits=torch.zeros(2, 5, 42)), "shape"),
    "integer logits": (dict(logits=torch.zeros(2, 5, 6, 7).long()), "floating"),
    "no class": (dict(logits=torch.zeros(2, 0, 6, 7), candidates=torch.ones(6, 0)), "class"),
    "cold": (dict(temperature=0.0), "temperature"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    change, message = BAD[case]
    logits, ids, candidates = make(0)
    good = dict(logits=logits, region_ids=ids, candidates=candidates, temperature=0.1)
    with pytest.raises(DataError, match=message):
        stage1_losses(**{**good, **change})  # type: ignore[arg-type]


def test_stage2_is_the_mean_over_labelled_pixels() -> None:
    logits = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 3, 1, 1).repeat(1, 1, 1, 3)
    labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    found = stage2_loss(logits, labels, temperature=1.0)
    assert float(found) == pytest.approx(math.log(8) / 2, rel=1e-6)


def test_stage2_without_labels_is_zero_with_a_graph() -> None:
    logits = torch.rand(1, 3, 2, 2).requires_grad_()
    found = stage2_loss(logits, torch.full((1, 2, 2), 255))
    found.backward()
    assert float(found.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert float(stage2_loss(torch.zeros(0, 3, 2, 2), torch.zeros(0, 2, 2).long())) == 0


def test_stage2_names_labels_it_does_not_know() -> None:
    with pytest.raises(DataError, match=r"0..2 or 255"):
        stage2_loss(torch.zeros(1, 3, 1, 1), torch.full((1, 1, 1), 3))
    half = stage2_loss(torch.zeros(1, 3, 1, 1).bfloat16(), torch.zeros(1, 1, 1).long())
    assert half.dtype == torch.float32
