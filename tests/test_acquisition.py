"""Region statistics, acquisition functions and the choice under a budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training import config
from training import region_statistics as module
from training.acquisition import (
    ACQUISITIONS,
    RegionStatistics,
    acquisition,
    bvsb,
    class_balanced_random,
    classbal,
    dominant_class,
    entropy,
    expected_clicks,
    pixbal,
    presence,
    region_statistics,
    select,
)
from training.errors import DataError, NonFiniteError


def make(
    seed: int, batch: int = 3, classes: int = 4, size: tuple[int, int] = (8, 9), regions: int = 7
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.rand(batch, classes, *size, generator=g) * 2 - 1
    return logits, torch.randint(-1, regions, (batch, *size), generator=g)


def slowly(logits: Tensor, ids: Tensor, regions: int, temperature: float) -> RegionStatistics:
    """The definitions, one pixel at a time, in float64."""
    batch, classes = logits.shape[:2]
    p = torch.softmax(logits.double() / temperature, 1).movedim(1, -1)
    ratio = torch.zeros(batch, regions, classes, dtype=torch.float64)
    pixels = torch.zeros(batch, regions, classes, dtype=torch.int64)
    nats = torch.zeros(batch, regions, dtype=torch.float64)
    for b, y, x in np.ndindex(*ids.shape):
        region, values = int(ids[b, y, x]), p[b, y, x]
        if region < 0:
            continue
        order = values.sort(descending=True)
        top = int(order.indices[0])
        second = order.values[1] if classes > 1 else 0.0
        ratio[b, region, top] += second / order.values[0] + 1e-8
        pixels[b, region, top] += 1
        nats[b, region] -= torch.xlogy(values, values).sum()
    total = p.sum((0, 1, 2))
    number = ids.numel()
    return RegionStatistics(ratio, pixels, total, number, nats, total / number, 1)


def same(a: RegionStatistics, b: RegionStatistics, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a.pixels, b.pixels)
    assert (a.n_pixels, a.n_batches) == (b.n_pixels, b.n_batches)
    for name in ("bvsb_sum", "probability_sum", "entropy_sum", "batch_mean_sum"):
        one, other = getattr(a, name), getattr(b, name)
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


class TestStatistics:
    def test_worked_out(self) -> None:
        """p = (1/2, 1/4, 1/4) and (1/8, 3/8, 1/2) in one region."""
        p = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.375, 0.5]])
        found = region_statistics(p.log().T.view(1, 3, 1, 2), torch.zeros(1, 1, 2).long(), 2, 1.0)
        expected = torch.tensor([[[0.5, 0, 0.75], [0, 0, 0]]], dtype=torch.float64)
        torch.testing.assert_close(found.bvsb_sum, expected, rtol=0, atol=1e-6)
        assert found.pixels.tolist() == [[[1, 0, 1], [0, 0, 0]]]
        torch.testing.assert_close(found.probability_sum, p.sum(0).double(), rtol=0, atol=1e-6)
        nats = -(p * p.log()).sum()
        assert found.entropy_sum is not None
        assert float(found.entropy_sum[0, 0]) == pytest.approx(float(nats), abs=1e-5)

    @pytest.mark.parametrize("one_tile", [False, True])
    @pytest.mark.parametrize("classes", [1, 2, 5, 200])
    def test_equals_the_definitions(
        self, monkeypatch: pytest.MonkeyPatch, classes: int, one_tile: bool
    ) -> None:
        monkeypatch.setattr(module, "_one_tile", lambda device: one_tile)
        logits, ids = make(1, classes=classes)
        same(region_statistics(logits, ids, 7), slowly(logits, ids, 7, 0.1))

    @pytest.mark.parametrize("one_tile", [False, True])
    def test_tiles_do_not_show(self, monkeypatch: pytest.MonkeyPatch, one_tile: bool) -> None:
        logits, ids = make(2, size=(50, 60))
        whole = region_statistics(logits, ids, 7)
        monkeypatch.setattr(module, "_TILE_FLOATS", 1)  # tiles of 1024 pixels
        monkeypatch.setattr(module, "_one_tile", lambda device: one_tile)
        cut = region_statistics(logits, ids, 7)
        same(cut, whole)

    def test_equal_tops_have_ratio_one_and_a_single_class(self) -> None:
        found = region_statistics(torch.zeros(1, 5, 3, 3), torch.zeros(1, 3, 3).long(), 1)
        assert int(found.pixels.sum()) == 9
        assert float(found.bvsb_sum.sum()) == pytest.approx(9, rel=1e-6)

    @given(st.integers(0, 10_000), st.integers(0, 3))
    @settings(max_examples=25, deadline=None)
    def test_merging_shards_equals_one_pass(self, seed: int, cut: int) -> None:
        logits, ids = make(seed)
        parts = [region_statistics(logits[a:b], ids[a:b], 7) for a, b in ((0, cut), (cut, 3))]
        merged, whole = RegionStatistics.merge_all(parts), region_statistics(logits, ids, 7)
        torch.testing.assert_close(merged.bvsb_sum, whole.bvsb_sum, rtol=0, atol=0)
        torch.testing.assert_close(merged.pixels, whole.pixels)
        for name, score in ACQUISITIONS.items():
            a, b = score(merged, seed=1), score(whole, seed=1)
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, equal_nan=True, msg=name)

    @given(st.integers(0, 10_000))
    @settings(max_examples=25, deadline=None)
    def test_renumbering_regions_permutes_the_scores(self, seed: int) -> None:
        logits, ids = make(seed)
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        renumbered = torch.where(ids >= 0, order[ids.clamp(min=0)], -1)
        before, after = (region_statistics(logits, i, 7) for i in (ids, renumbered))
        for name in ("pixbal", "bvsb", "classbal", "entropy"):
            a, b = ACQUISITIONS[name](before, 6.0, 2), ACQUISITIONS[name](after, 6.0, 2)
            torch.testing.assert_close(a, b[:, order], equal_nan=True, msg=name)

    def test_images_with_fewer_regions_get_empty_ones(self) -> None:
        logits, ids = make(3)
        small = region_statistics(logits[:1], ids[:1].clamp(max=2), 3)
        merged = small.merge(region_statistics(logits[1:], ids[1:], 7))
        assert merged.pixels.shape == (3, 7, 4)
        assert pixbal(merged)[0].isnan().tolist() == [False] * 3 + [True] * 4
        assert merged.entropy_sum is not None
        assert merged.entropy_sum.shape == (3, 7)

    def test_merging_keeps_what_both_have(self) -> None:
        logits, ids = make(3)
        without = region_statistics(logits, ids, 7, entropy=False)
        merged = without.merge(region_statistics(logits, ids, 7))
        assert merged.entropy_sum is None
        with pytest.raises(DataError, match="entropy=True"):
            entropy(merged)
        with pytest.raises(DataError, match="4 and 3 classes"):
            without.merge(region_statistics(logits[:, :3], ids, 7))
        with pytest.raises(DataError, match="no statistics"):
            RegionStatistics.merge_all([])

    def test_nothing_seen(self) -> None:
        empty = region_statistics(torch.zeros(0, 4, 8, 9), torch.zeros(0, 8, 9).long(), 7)
        assert empty.n_pixels == empty.n_batches == 0
        assert not empty.class_probability().any()
        for score in ACQUISITIONS.values():
            assert score(empty).shape == (0, 7)
        outside = region_statistics(torch.zeros(1, 4, 2, 2), torch.full((1, 2, 2), -1), 0)
        assert outside.bvsb_sum.shape == (1, 0, 4)
        assert outside.n_pixels == 4

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_precisions(self, dtype: torch.dtype) -> None:
        logits, ids = make(4)
        rounded = logits.to(dtype)
        found = region_statistics(rounded, ids, 7)
        same(found, region_statistics(rounded.float(), ids, 7))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_non_finite_logits_are_named(self, value: float) -> None:
        logits, ids = make(5)
        logits[2, 3, 7, 8] = value
        with pytest.raises(NonFiniteError, match="1 NaN or infinite"):
            region_statistics(logits, ids, 7)

    def test_bad_input_is_named(self) -> None:
        logits, ids = make(6)
        with pytest.raises(DataError, match=r"-1\.\.5, got -1\.\.6"):
            region_statistics(logits, ids, 6)
        with pytest.raises(DataError, match="shape"):
            region_statistics(logits, ids[:2], 7)
        with pytest.raises(DataError, match="classes"):
            region_statistics(logits[:, :0], ids, 7)
        with pytest.raises(DataError, match="integers"):
            region_statistics(logits, ids.float(), 7)
        with pytest.raises(DataError, match="temperature"):
            region_statistics(logits, ids, 7, temperature=-1.0)

    def test_the_mean_of_calls_weighs_a_short_call_as_much_as_a_long_one(self) -> None:
        logits, ids = make(7)
        parts = [
            region_statistics(logits[:2], ids[:2], 7),
            region_statistics(logits[2:], ids[2:], 7),
        ]
        p = torch.softmax(logits / 0.1, 1)
        expected = (p[:2].mean((0, 2, 3)) + p[2:].mean((0, 2, 3))).double() / 2
        merged = parts[0].merge(parts[1])
        torch.testing.assert_close(merged.class_probability(True), expected, rtol=1e-5, atol=1e-6)
        pixels = p.mean((0, 2, 3)).double()
        torch.testing.assert_close(merged.class_probability(), pixels, rtol=1e-5, atol=1e-6)


def test_the_config_knows_the_same_names() -> None:
    assert config.ACQUISITIONS == tuple(ACQUISITIONS)


@pytest.mark.parametrize("name", ACQUISITIONS)
class TestContract:
    """What every acquisition promises."""

    def statistics(self) -> RegionStatistics:
        logits, ids = make(8)
        ids[0][ids[0] == 4] = 1  # region 4 of image 0 has no pixel
        return region_statistics(logits, ids, 7)

    def test_nan_where_there_is_nothing_to_ask(self, name: str) -> None:
        statistics = self.statistics()
        score = ACQUISITIONS[name](statistics)
        assert score.shape == (3, 7)
        assert score.dtype == torch.float64
        assert torch.equal(score.isnan(), statistics.region_pixels == 0)
        assert bool(score.isnan()[0, 4])

    def test_same_seed_same_answer_and_statistics_untouched(self, name: str) -> None:
        statistics, before = self.statistics(), self.statistics()
        state = torch.get_rng_state()
        first = ACQUISITIONS[name](statistics, 6.0, 3, seed=5)
        second = ACQUISITIONS[name](statistics, 6.0, 3, seed=5)
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(torch.get_rng_state(), state)
        same(statistics, before, 0)

    def test_only_the_random_ones_heed_the_seed(self, name: str) -> None:
        statistics = self.statistics()
        one, other = (ACQUISITIONS[name](statistics, seed=s).nan_to_num() for s in (1, 2))
        assert torch.equal(one, other) == ("random" not in name)

    def test_higher_means_sooner(self, name: str) -> None:
        """An unsure region comes before a sure one of the same class."""
        if "random" in name:
            pytest.skip("order at random")
        sure, unsure = [1.0, -1.0, -1.0], [0.4, 0.3, -1.0]
        logits = torch.tensor([sure, unsure]).T.reshape(1, 3, 1, 2)
        score = ACQUISITIONS[name](region_statistics(logits, torch.tensor([[[0, 1]]]), 2))
        assert score[0, 1] > score[0, 0]

    def test_chosen_regions_are_never_nan(self, name: str) -> None:
        score = ACQUISITIONS[name](self.statistics())
        chosen = select(score, 1, 1000)
        assert sorted(chosen.tolist()) == (~score.isnan()).flatten().nonzero().squeeze(1).tolist()

    def test_an_unknown_undefined_class_is_named(self, name: str) -> None:
        if name == "random":
            pytest.skip("does not look at classes")
        with pytest.raises(DataError, match=r"0\.\.3, got 4"):
            ACQUISITIONS[name](self.statistics(), undefined=4)

    def test_undefined_regions_come_last(self, name: str) -> None:
        if name == "random":
            pytest.skip("does not look at classes")
        statistics = self.statistics()
        score = ACQUISITIONS[name](statistics, 6.0, 3)
        main = (dominant_class(statistics) == 3) & (statistics.region_pixels > 0)
        assert main.any()
        assert not score[main].any()


class TestScores:
    def test_pixbal_weighs_each_pixel_by_its_class(self) -> None:
        statistics = RegionStatistics(
            torch.tensor([[[0.5, 1.0]]]).double(), torch.tensor([[[1, 3]]]),
            torch.tensor([3.0, 1.0]).double(), 4,
        )  # fmt: skip
        expected = (0.5 * (1 + 6 * 0.75) ** -2 + 1.0 * (1 + 6 * 0.25) ** -2) / 4
        assert float(pixbal(statistics)) == pytest.approx(expected)
        assert float(pixbal(statistics, nu=0)) == pytest.approx(1.5 / 4)
        assert float(pixbal(statistics, undefined=1)) == 0
        assert float(pixbal(statistics, undefined=0)) == pytest.approx(expected)
        even = pixbal(statistics, class_probability=torch.tensor([0.5, 0.5]))
        assert float(even) == pytest.approx(1.5 / 4 / 16)
        with pytest.raises(DataError, match="batch means"):
            pixbal(statistics, batch_means=True)

    def test_bvsb_is_brought_to_0_1(self) -> None:
        statistics = RegionStatistics(
            torch.tensor([[[2.0], [1.0], [3.0], [0.0]]]).double(),
            torch.tensor([[[10], [10], [10], [0]]]), torch.tensor([30.0]).double(), 30,
        )  # fmt: skip
        assert bvsb(statistics)[0, :3].tolist() == pytest.approx([0.5, 0.0, 1.0])
        alone = RegionStatistics(
            statistics.bvsb_sum[:, :1], statistics.pixels[:, :1], torch.ones(1).double(), 10
        )
        assert bvsb(alone).tolist() == [[0.0]]

    def test_classbal_prefers_rare_main_classes(self) -> None:
        pixels = torch.tensor([[[2, 1], [3, 0], [1, 1], [0, 4], [0, 0]]])
        ratio = torch.tensor([[[1.0, 0], [3.0, 0], [1.0, 1.0], [0, 2.0], [0, 0]]]).double()
        statistics = RegionStatistics(ratio, pixels, torch.tensor([6.0, 6.0]).double(), 12)
        assert dominant_class(statistics).tolist() == [[0, 0, 0, 1, 0]]
        plain = bvsb(statistics)[0, :4]
        weight = torch.tensor([4, 4, 4, 1]).double().div(5).neg().exp()
        torch.testing.assert_close(classbal(statistics)[0, :4], plain * weight)
        weight = torch.tensor([3, 3, 3, 1]).double().div(4).neg().exp()
        torch.testing.assert_close(classbal(statistics, count_empty=False)[0, :4], plain * weight)

    def test_class_balanced_random_draws_each_class_as_often(self) -> None:
        pixels = torch.zeros(1, 1000, 2, dtype=torch.int64)
        pixels[0, :900, 0] = 1
        pixels[0, 900:, 1] = 1
        statistics = RegionStatistics(pixels.double(), pixels, pixels.sum((0, 1)).double(), 1000)
        first = [
            int(select(class_balanced_random(statistics, seed=s), 1, 0)[0]) >= 900
            for s in range(200)
        ]
        assert 70 <= sum(first) <= 130  # a plain draw would give about 20

    def test_clicks_and_presence(self) -> None:
        pixels = torch.tensor([[[90, 6, 4], [1, 1, 1], [0, 0, 0]]])
        statistics = RegionStatistics(pixels.double(), pixels, torch.ones(3).double(), 103)
        assert expected_clicks(statistics).tolist() == [[2, 3, 1]]
        assert expected_clicks(statistics, 0.95).tolist() == [[1, 1, 1]]
        expected = torch.tensor([[[0.9, 0.06, 0.04], [1 / 3] * 3, [0] * 3]]).double()
        torch.testing.assert_close(presence(statistics), expected, rtol=0, atol=1e-7)
        with pytest.raises(DataError, match="min_share"):
            expected_clicks(statistics, 0)

    def test_unknown_names_list_the_known(self) -> None:
        assert acquisition("pixbal") is pixbal
        with pytest.raises(DataError, match="pixbal, bvsb, classbal"):
            acquisition("pixball")


def by_walking(scores: list[float], cost: list[float], budget: float) -> list[int]:
    """Section 3.1 word by word."""
    chosen, spent = [], 0.0
    rows = [(s, i) for i, s in enumerate(scores) if not math.isnan(s)]
    for _, position in sorted(rows, reverse=True):
        chosen.append(position)
        spent += cost[position]
        if spent > budget:
            break
    return chosen


SCORES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan]), st.integers(0, 4)), max_size=30
)


class TestSelect:
    @given(SCORES, st.integers(0, 60))
    @settings(max_examples=100, deadline=None)
    def test_equals_the_walk(self, rows: list[tuple[float, int]], budget: int) -> None:
        scores, cost = [s for s, _ in rows], [float(c) for _, c in rows]
        assert select(scores, cost, budget).tolist() == by_walking(scores, cost, budget)

    def test_equality_goes_on_and_the_first_over_the_budget_is_taken(self) -> None:
        scores = [0.9, 0.8, 0.7, 0.6]
        assert select(scores, [2, 1, 2, 1], 3).tolist() == [0, 1, 2]
        assert select(scores, [2, 2, 2, 1], 3).tolist() == [0, 1]
        assert select(scores, 1, 0).tolist() == [0]
        assert select(scores, [0, 0, 1, 1], 0).tolist() == [0, 1, 2]
        assert select([], 1, 5).dtype == np.int64
        assert select([math.nan, math.nan], 1, 5).tolist() == []

    def test_ties_by_image_then_region(self) -> None:
        assert select(np.ones((2, 2)), 1, 9).tolist() == [3, 2, 1, 0]
        assert select(np.ones((2, 2)), 1, 9, image_keys=["b", "a"]).tolist() == [1, 0, 3, 2]
        with pytest.raises(DataError, match="image_keys"):
            select(np.ones((2, 2)), 1, 9, image_keys=["a"])

    def test_seeded_ties(self) -> None:
        scores = np.array([1.0] * 50 + [2.0])
        first, again, other = (select(scores, 1, 99, seed=s).tolist() for s in (1, 1, 2))
        assert first == again
        assert first != other
        assert first[0] == other[0] == 50

    @given(SCORES, st.integers(0, 60), st.floats(0, 1), st.integers(0, 3))
    @settings(max_examples=60, deadline=None)
    def test_every_option_keeps_to_the_budget_and_asks_once(
        self, rows: list[tuple[float, int]], budget: int, share: float, seed: int
    ) -> None:
        scores, cost = np.array([s for s, _ in rows]), np.array([c for _, c in rows])
        strata = np.arange(len(rows)) % 3
        found = select(
            scores, cost, budget, seed=seed, random_share=share, strata=strata, noise=1.0
        )
        assert len(set(found.tolist())) == len(found)
        assert not np.isnan(scores[found]).any()
        assert cost[found[:-1]].sum() <= budget
        if cost[found].sum() <= budget:  # then nothing was left to ask
            assert len(found) == np.count_nonzero(~np.isnan(scores))

    def test_a_quota_at_random_comes_after_the_best(self) -> None:
        scores = np.arange(1000.0)
        found = select(scores, 1, 99, random_share=0.3, seed=0)
        assert len(found) == 100
        assert found[:70].tolist() == list(range(999, 929, -1))
        assert found[70:].min() < 500
        assert found.tolist() != select(scores, 1, 99, random_share=0.3, seed=1).tolist()
        assert select(scores, 1, 99, random_share=1.0, seed=0)[1:].tolist() != found[1:].tolist()

    def test_regions_of_an_image_keep_their_distance(self) -> None:
        centroids = np.stack(np.meshgrid([0.0, 0.0], np.arange(0, 50, 10.0), indexing="ij"), -1)
        scores = np.array([[5.0, 4, 3, 2, 1], [0.5, 0.4, 0.3, 0.2, 0.1]])
        found = select(scores, 1, 99, min_distance=20, centroids=centroids)
        assert found.tolist() == [0, 2, 4, 5, 7, 9]
        assert select(scores, 1, 1, min_distance=20, centroids=centroids).tolist() == [0, 2]
        with pytest.raises(DataError, match="centroids"):
            select(scores, 1, 99, min_distance=20)
        with pytest.raises(DataError, match=r"\(2, 5, 2\)"):
            select(scores, 1, 99, min_distance=20, centroids=np.zeros((2, 5)))

    def test_classes_take_turns(self) -> None:
        found = select([9.0, 8, 7, 6, 5, 4], 1, 99, strata=[0, 0, 0, 0, 1, 2])
        assert found.tolist() == [0, 4, 5, 1, 2, 3]

    def test_noise_decays(self) -> None:
        scores = np.arange(200.0)
        plain = select(scores, 1, 999)

        def moved(round_number: int) -> float:
            found = select(scores, 1, 999, noise=1.0, seed=3, round_number=round_number)
            return float(np.abs(found - plain).mean())

        assert moved(0) > moved(2) > moved(5) > 0
        assert moved(40) == 0

    def test_tensors_are_welcome_and_untouched(self) -> None:
        scores, cost = torch.rand(3, 4, dtype=torch.float64), torch.ones(3, 4).long()
        before = scores.clone()
        assert select(scores, cost, 5).tolist() == select(scores.numpy(), cost.numpy(), 5).tolist()
        assert torch.equal(scores, before)

    def test_bad_input_is_named(self) -> None:
        with pytest.raises(DataError, match="cost must be finite"):
            select([1.0], [-1], 5)
        with pytest.raises(DataError, match="cost must have the shape"):
            select([1.0, 2.0], [1, 2, 3], 5)
        with pytest.raises(DataError, match="budget"):
            select([1.0], 1, math.nan)
        with pytest.raises(DataError, match="random_share"):
            select([1.0], 1, 1, random_share=2)
        with pytest.raises(DataError, match="scores must be numbers"):
            select(["high"], 1, 1)
        assert select([1.0, math.nan], [1, math.nan], 5).tolist() == [0]
