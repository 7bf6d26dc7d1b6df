"""Pseudo labels: a slow writing-out of the definition, laws, options, edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training import prototypes
from training.errors import DataError, NonFiniteError
from training.pseudo_labels import expand, localise, naive

Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def make(seed: int, classes: int = 4, size: tuple[int, int] = (14, 15), side: int = 4) -> Case:
    """Blocks of `side` px with ids in random order, some without a region; ids without pixels."""
    g = torch.Generator().manual_seed(seed)
    height, width = size
    columns = -(-width // side)
    block = (torch.arange(height) // side)[:, None] * columns + torch.arange(width) // side
    regions = int(block.max()) + 3
    ids = torch.randperm(regions, generator=g)[block]
    ids[torch.rand(size, generator=g) < 0.03] = -1
    features = torch.rand(6, *size, generator=g, dtype=torch.float64)
    logits = torch.rand(classes, *size, generator=g, dtype=torch.float64) * 2 - 1
    candidates = torch.rand(regions, classes, generator=g) < 0.45
    return features, logits, ids, candidates, torch.rand(regions, generator=g) < 0.35


def slowly(case: Case, expanding: bool, **options: Any) -> np.ndarray:
    """Section 7 of the algorithm, a region and a pixel at a time."""
    features, _, ids, candidates, selected = (t.numpy() for t in case)
    f = features.reshape(len(features), -1)
    if options.get("normalise"):
        f = f / np.linalg.norm(f, axis=0)
    q = torch.softmax(case[1] / options.get("temperature", 1.0), 0).flatten(1).numpy()
    flat, out = ids.reshape(-1), np.full(ids.size, 255, np.uint8)
    chosen = [s for s in range(len(selected)) if selected[s] and candidates[s].any()]
    regions: dict[int, tuple[list[int], np.ndarray, np.ndarray]] = {}
    for s in chosen:
        inside, names = np.flatnonzero(flat == s), np.flatnonzero(candidates[s])
        if not len(inside):
            continue
        vectors = np.stack([f[:, inside[np.argmax(q[c, inside])]] for c in names])
        similar = vectors @ f[:, inside]
        best = similar.argmax(0)
        out[inside] = names[best]
        values = [np.sort(similar.max(0)[best == k]) for k in range(len(names))]
        at = (
            (lambda v: v[0])
            if options.get("threshold") == "min"
            else (lambda v: v[(len(v) - 1) // 2])
        )
        theta = np.array([at(v) if len(v) else 1.0 for v in values])
        regions[s] = (list(names), vectors, theta)
    if not expanding:
        return out.reshape(ids.shape)
    strength = np.full(ids.size, -np.inf)
    for s, (names, vectors, theta) in regions.items():
        touched = np.zeros(ids.shape, bool)
        for y, x in zip(*np.nonzero(ids == s), strict=True):
            touched[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
        for u in set(ids[touched].tolist()) - {-1, *chosen}:
            for x in np.flatnonzero(flat == u):
                similar = vectors @ f[:, x]
                passes = similar > theta
                if options.get("undefined") is not None:
                    kept = np.array(names) != options["undefined"]
                    passes, similar = passes & kept, np.where(kept, similar, -np.inf)
                if not passes.any():
                    continue
                if options.get("passing_only"):
                    similar = np.where(passes, similar, -np.inf)
                k = int(similar.argmax())
                rule = options.get("conflicts", "later")
                value = {"later": s, "similarity": similar[k], "margin": similar[k] - theta[k]}[
                    rule
                ]
                if value >= strength[x]:
                    strength[x], out[x] = value, names[k]
    return out.reshape(ids.shape)


OPTIONS: list[dict[str, Any]] = [
    {}, {"temperature": 0.1}, {"normalise": True}, {"threshold": "min"}, {"passing_only": True},
    {"conflicts": "similarity"}, {"conflicts": "margin"}, {"undefined": 3},
    {"threshold": "min", "passing_only": True, "undefined": 0, "conflicts": "margin"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition(seed: int, options: dict[str, Any]) -> None:
    case = make(seed)
    found = expand(*case, **options)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), slowly(case, True, **options))
    shared = {k: v for k, v in options.items() if k in ("temperature", "normalise")}
    np.testing.assert_array_equal(localise(*case, **shared).numpy(), slowly(case, False, **shared))


def test_two_classes_by_hand() -> None:
    """Left region {0, 1}; the right one, unlabelled, is like class 1 except in its last pixel."""
    features = torch.tensor([[[1, 0.8, 0, 0.1, 0.0]], [[0, 0.1, 1.0, 1.5, 0.2]]])
    logits = torch.tensor([[[3.0, 2, 0, 0, 0]], [[0, 0, 3.0, 0, 0]]])
    ids = torch.tensor([[0, 0, 0, 1, 1]])
    candidates = torch.tensor([[True, True], [False, False]])
    selected = torch.tensor([True, False])
    assert localise(features, logits, ids, candidates, selected).tolist() == [[0, 0, 1, 255, 255]]
    # theta: class 0 the lower median of 1.0 and 0.8, class 1 that of 1.0
    assert expand(features, logits, ids, candidates, selected).tolist() == [[0, 0, 1, 1, 255]]
    assert naive(logits, ids, candidates, selected).tolist() == [[0, 0, 1, 255, 255]]


@given(st.integers(0, 10_000), st.sampled_from(OPTIONS))
@settings(max_examples=40, deadline=None)
def test_expansion_never_changes_a_labelled_region(seed: int, options: dict[str, Any]) -> None:
    features, logits, ids, candidates, selected = make(seed)
    case = (features, logits, ids, candidates, selected)
    shared = {k: v for k, v in options.items() if k in ("temperature", "normalise")}
    before, after = localise(*case, **shared), expand(*case, **options)
    labelled = before != 255
    assert torch.equal(before[labelled], after[labelled])
    active = selected & candidates.any(1)
    assert torch.equal(labelled, (ids >= 0) & active[ids.clamp(min=0)])
    assert bool((after[ids < 0] == 255).all())


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_labels_are_candidates_of_the_region_or_of_one_it_touches(seed: int) -> None:
    case = make(seed)
    _, _, ids, candidates, selected = case
    found = expand(*case)
    active = selected & candidates.any(1)
    for u in ids.unique().tolist():
        if u < 0:
            continue
        mine = ids == u
        near = torch.nn.functional.max_pool2d(mine[None].float(), 3, 1, 1)[0] > 0
        around = [s for s in ids[near].unique().tolist() if s >= 0 and active[s]]
        allowed = [u] if active[u] else around
        names = set(candidates[allowed].any(0).nonzero().flatten().tolist()) if allowed else set()
        assert set(found[mine].tolist()) <= names | {255}


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_renumbering_regions_changes_nothing(seed: int) -> None:
    features, logits, ids, candidates, selected = make(seed)
    order = torch.randperm(len(selected), generator=torch.Generator().manual_seed(seed))
    renumbered = torch.where(ids >= 0, order[ids.clamp(min=0)], -1)
    back = order.argsort()
    other = (features, logits, renumbered, candidates[back], selected[back])
    # By default the larger id wins where rings overlap; the larger similarity has no such memory.
    rule = "similarity"
    first = expand(features, logits, ids, candidates, selected, conflicts=rule)
    assert torch.equal(first, expand(*other, conflicts=rule))
    assert torch.equal(localise(features, logits, ids, candidates, selected), localise(*other))


def test_blocks_and_groups_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(3, size=(40, 50))
    whole = expand(*case)
    monkeypatch.setattr(prototypes, "_BLOCK_PIXELS", 1)
    assert torch.equal(expand(*case), whole)
    monkeypatch.setattr(prototypes, "_GROUP_PIXELS", 30)
    assert torch.equal(expand(*case), whole)


def test_features_stored_pixel_by_pixel() -> None:
    features, *rest = make(4)
    by_pixel = features.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(expand(by_pixel, *rest), expand(features, *rest))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    features, logits, *rest = make(5)
    half, full = ((features.to(t), logits.to(t)) for t in (dtype, torch.float32))
    rounded = tuple(t.to(dtype).float() for t in full)
    assert torch.equal(expand(*half, *rest), expand(*rounded, *rest))


def test_inputs_stay_as_they_are() -> None:
    case = make(6)
    copies = [t.clone() for t in case]
    expand(*case, normalise=True)
    assert all(torch.equal(a, b) for a, b in zip(case, copies, strict=True))


def test_classes_that_share_their_best_pixel_give_the_lowest() -> None:
    features = torch.rand(8, 6, 6, generator=torch.Generator().manual_seed(0))
    logits = torch.zeros(3, 6, 6)  # the first pixel is the best of every class
    everything = torch.zeros(6, 6, dtype=torch.int64)
    candidates = torch.tensor([[False, True, True]])
    found = localise(features, logits, everything, candidates, torch.tensor([True]))
    assert bool((found == 1).all())


class TestEdges:
    def test_nothing_selected(self) -> None:
        features, logits, ids, candidates, selected = make(0)
        for nothing in (
            (candidates, selected & False),
            (candidates & False, selected | True),
            (candidates[:0], selected[:0]),
        ):
            region_ids = ids if len(nothing[0]) else torch.full_like(ids, -1)
            for labels in (
                expand(features, logits, region_ids, *nothing),
                localise(features, logits, region_ids, *nothing),
                naive(logits, region_ids, *nothing),
            ):
                assert labels.shape == ids.shape
                assert bool((labels == 255).all())

    def test_only_ids_without_pixels_selected(self) -> None:
        features, logits, ids, candidates, selected = make(0)
        absent = torch.ones_like(selected)
        absent[ids[ids >= 0].unique()] = False
        assert absent.any()
        candidates = candidates | True
        assert bool((expand(features, logits, ids, candidates, absent) == 255).all())

    def test_everything_selected_leaves_no_ring(self) -> None:
        features, logits, ids, candidates, selected = make(1)
        case = (features, logits, ids, candidates | True, selected | True)
        assert torch.equal(expand(*case), localise(*case))

    def test_empty_image(self) -> None:
        empty = torch.zeros(3, 0, 5)
        ids = torch.zeros(0, 5, dtype=torch.int64)
        chosen, selected = torch.ones(2, 3).bool(), torch.ones(2).bool()
        assert expand(empty, empty, ids, chosen, selected).shape == (0, 5)
        assert naive(empty, ids, chosen, selected).shape == (0, 5)

    @pytest.mark.parametrize("classes", [1, 200])
    def test_few_and_many_classes(self, classes: int) -> None:
        case = make(2, classes=classes)
        np.testing.assert_array_equal(expand(*case).numpy(), slowly(case, True))

    def test_one_pixel(self) -> None:
        one = torch.ones(1, 1, 1)
        yes = torch.tensor([[True]])
        found = expand(one, one, torch.zeros(1, 1).long(), yes, torch.tensor([True]))
        assert found.tolist() == [[0]]

    @pytest.mark.parametrize("which", [0, 1])
    def test_non_finite_is_named(self, which: int) -> None:
        case = list(make(0))
        case[4] = case[4] | True
        case[3] = case[3] | True
        y, x = (case[2] >= 0).nonzero()[0].tolist()
        case[which] = case[which].clone()
        case[which][0, y, x] = math.nan
        with pytest.raises(NonFiniteError, match=("features", "logits")[which]):
            localise(*case)

    def test_bad_input_is_named(self) -> None:
        features, logits, ids, candidates, selected = make(0)
        with pytest.raises(DataError, match="rows of candidates"):
            localise(features, logits, ids, candidates[:3], selected[:3])
        with pytest.raises(DataError, match="selected"):
            localise(features, logits, ids, candidates, selected[:-1])
        with pytest.raises(DataError, match="features"):
            expand(features[:, 1:], logits, ids, candidates, selected)
        with pytest.raises(DataError, match="1 to 254"):
            expand(features, logits[:0], ids, candidates[:, :0], selected)
        with pytest.raises(DataError, match="Known: later, similarity, margin"):
            expand(features, logits, ids, candidates, selected, conflicts="first")
        with pytest.raises(DataError, match="Known: median, min"):
            expand(features, logits, ids, candidates, selected, threshold="mean")
        with pytest.raises(DataError, match="temperature"):
            localise(features, logits, ids, candidates, selected, temperature=0)
