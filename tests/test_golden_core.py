"""Numbers that the authors' functions gave on procedural scenes: scores, losses, pseudo labels.

The cases in tests/golden are trimmed (gradients are sampled); where the whole ones are at hand, in
PIXBAL_GOLDEN or beside the data, they are checked too. Tolerances are those that an independent
implementation met.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from training.acquisition import RegionStatistics, bvsb, classbal, pixbal, region_statistics, select
from training.losses import stage1_loss, stage1_losses, stage2_loss
from training.pseudo_labels import THRESHOLDS, _inside, _prepare, expand, localise

ROOT = Path(__file__).resolve().parents[1]
TRIMMED = ROOT / "tests" / "golden"
WHOLE = Path(os.environ.get("PIXBAL_GOLDEN") or ROOT.parent / "shared" / "golden")
NAMES = ("city_96x128", "edge", "padded_72x96", "unselected_96x128", "voc_72x96")
Arrays = Mapping[str, Any]


@cache
def load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def cases(key: str, prefixes: Sequence[str] = ("",)) -> pytest.MarkDecorator:
    """Parametrize over the cases that have an array of this name, and the prefixes of it."""
    found = []
    for label, folder in (("trimmed", TRIMMED), ("whole", WHOLE)):
        for path in (folder / f"{name}.npz" for name in NAMES):
            arrays = load(path) if path.is_file() else {}
            for prefix in prefixes:
                if prefix + key in arrays:
                    title = f"{label}-{path.stem}" + f"-{prefix}" * bool(prefix)
                    found.append(pytest.param(arrays, prefix, id=title))
    if not WHOLE.is_dir():
        reason = f"no folder {WHOLE}; set PIXBAL_GOLDEN to the whole cases"
        found.append(pytest.param({}, "", id="whole", marks=pytest.mark.skip(reason=reason)))
    return pytest.mark.parametrize(("case", "prefix"), found)


def outputs(case: Arrays) -> int:
    """Outputs of the network: the VOC flavour drops the undefined class."""
    return int(case["C"]) + (not case.get("is_voc", 0))


def inputs(case: Arrays) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, K, H, W), region ids (N, H, W), -1 = none, and multi-hot targets (N, S, K)."""
    kept = outputs(case)
    target = case["oracle_multihot"] if "oracle_multihot" in case else case["target"]
    ids = torch.from_numpy(case["spx"].astype(np.int64))
    ids = torch.where(ids < int(case["nseg"]), ids, -1)
    logits = torch.from_numpy(case["logits"].astype(np.float32))[:, :kept]
    return logits, ids, torch.from_numpy(target[..., :kept] != 0)


VARIANTS = ("", "t1_", "none_", "onehot_")


def batch(case: Arrays, prefix: str) -> tuple[Tensor, Tensor, Tensor, float]:
    """Arguments of the losses: ids across the batch, unselected and padding pixels -1."""
    logits, ids, target = inputs(case)
    selected = torch.from_numpy(case["spmask"])
    if prefix == "none_":
        selected = torch.zeros_like(selected)
    if prefix == "onehot_":
        selected = selected & (target[0].sum(1) == 1)[ids.clamp(min=0)]
    images, regions = target.shape[:2]
    offset = torch.arange(images)[:, None, None] * regions
    ids = torch.where(selected & (ids >= 0), ids + offset, -1)
    if "pad_rows" in case:
        logits = torch.nn.functional.pad(logits, (0, 0, 0, int(case["pad_rows"])))
        ids = torch.nn.functional.pad(ids, (0, 0, 0, int(case["pad_rows"])), value=-1)
    temperature = 1.0 if prefix == "t1_" else float(case["temp"])
    return logits, ids, target.flatten(0, 1), temperature


@cases("loss_total", VARIANTS)
def test_losses(case: Arrays, prefix: str) -> None:
    arguments = batch(case, prefix)
    found = stage1_losses(*arguments)
    for value, key in zip(found, ("ce", "mc", "group"), strict=False):
        assert float(value) == pytest.approx(float(case[f"{prefix}loss_{key}"]), rel=2e-5)
    assert found.counts.tolist() == [int(case[f"{prefix}den_{k}"]) for k in ("ce", "mc", "group")]
    total = float(stage1_loss(*arguments))
    assert total == pytest.approx(float(case[f"{prefix}loss_total"]), rel=2e-5)


@cases("loss_mc_all", VARIANTS)
def test_older_losses_without_one_hot_regions_apart(case: Arrays, prefix: str) -> None:
    found = stage1_losses(*batch(case, prefix), decomposed=False)
    expected = float(case[f"{prefix}loss_mc_all"]), float(case[f"{prefix}loss_group_all"])
    assert float(found.one_hot) == 0
    assert (float(found.merged_positive), float(found.prototypical_pixel)) == pytest.approx(
        expected, rel=2e-5
    )


@cases("loss_total", VARIANTS)
def test_gradients(case: Arrays, prefix: str) -> None:
    logits, *rest = batch(case, prefix)
    logits.requires_grad_()
    losses = stage1_losses(logits, *rest)
    group, total = (
        torch.autograd.grad(loss, logits, retain_graph=True)[0].flatten()
        for loss in (losses.prototypical_pixel, stage1_loss(logits, *rest))
    )
    largest = max(float(total.abs().max()), 1e-30)
    key = f"{prefix}grad_total"
    if key in case:
        at, expected = slice(None), case[key].reshape(-1)
    else:
        at, expected = case[f"{key}_idx"], case[f"{key}_val"]
    np.testing.assert_allclose(total.numpy()[at], expected, rtol=0, atol=2e-5 * largest)
    norm = float(case[f"{prefix}gradnorm_total"])
    assert float(total.double().norm()) == pytest.approx(norm, rel=2e-5, abs=1e-12)
    if "pad_rows" not in case:  # the flat positions are those of the unpadded batch
        expected = np.zeros(group.numel(), np.float32)
        expected[case[f"{prefix}grad_group_idx"]] = case[f"{prefix}grad_group_val"]
        atol = 2e-5 * max(float(group.abs().max()), 1e-30)
        np.testing.assert_allclose(group.numpy(), expected, rtol=0, atol=atol)


def statistics(case: Arrays, with_undefined: bool) -> RegionStatistics:
    """In batches as the authors' loader made them, the last one shorter."""
    logits = torch.from_numpy(case["logits"].astype(np.float32))
    logits = logits[:, : int(case["C"]) + with_undefined]
    ids, step = inputs(case)[1], int(case["score_batch"])
    parts = [
        region_statistics(logits[i : i + step], ids[i : i + step], int(case["nseg"]))
        for i in range(0, len(ids), step)
    ]
    return RegionStatistics.merge_all(parts)


@pytest.mark.parametrize("with_undefined", [False, True])
@cases("score_pixbal")
def test_scores(case: Arrays, prefix: str, with_undefined: bool) -> None:
    pool = statistics(case, with_undefined)
    suffix, undefined = ("_banignore", int(case["C"])) if with_undefined else ("", None)
    found = {
        "pixbal": pixbal(pool, float(case["nu"]), undefined, batch_means=True),
        "bvsb": bvsb(pool, undefined=undefined),
        "clsbal": classbal(pool, undefined=undefined),
    }
    seen = pool.region_pixels.numpy() > 0
    for name, score in found.items():
        expected = case[f"score_{name}{suffix}"]
        assert np.array_equal(seen, ~score.isnan().numpy())
        np.testing.assert_allclose(score.numpy()[seen], expected[seen], 2e-4, 2e-6, err_msg=name)
    probability = pool.class_probability(batch_means=True).numpy()
    np.testing.assert_allclose(probability, case[f"clsprob_pixbal{suffix}"], 2e-4, 2e-6)


@cases("select_img")
def test_choice(case: Arrays, prefix: str) -> None:
    """From their scores, and from ours."""
    voc, slots = bool(case["is_voc"]), int(case["nseg"])
    pool = statistics(case, not voc)
    nu, undefined = float(case["nu"]), None if voc else int(case["C"])
    theirs = case["score_pixbal" if voc else "score_pixbal_banignore"].astype(np.float64)
    theirs[pool.region_pixels.numpy() == 0] = np.nan
    cost = inputs(case)[2].sum(2)
    for scores in (theirs, pixbal(pool, nu, undefined, batch_means=True)):
        chosen = select(scores, cost, float(case["select_budget"]), image_keys=case["names"])
        assert (chosen // slots).tolist() == case["select_img"].tolist()
        assert (chosen % slots).tolist() == case["select_reg"].tolist()
    mirror = np.zeros(cost.shape, np.uint8)
    mirror.reshape(-1)[chosen] = 1
    np.testing.assert_array_equal(mirror, case["select_isselected"])


def images(case: Arrays) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Arguments of `localise` for each image."""
    logits, ids, target = inputs(case)
    features = torch.from_numpy(case["feats"].astype(np.float32))
    selected = torch.zeros(target.shape[:2], dtype=torch.bool)
    for image, mask in enumerate(case["spmask"]):
        chosen = ids[image][torch.from_numpy(mask)]
        selected[image, chosen[chosen >= 0]] = True
    return list(zip(features, logits, ids, target, selected, strict=True))


@cases("plbl_intra")
def test_pseudo_labels(case: Arrays, prefix: str) -> None:
    for image, arguments in enumerate(images(case)):
        for name, function in (("intra", localise), ("expand", expand)):
            found = function(*arguments).numpy()
            expected, decided = case[f"plbl_{name}"][image], ~case[f"tie_{name}"][image]
            np.testing.assert_array_equal(found[decided], expected[decided], err_msg=name)


@cases("thr")
def test_thresholds(case: Arrays, prefix: str) -> None:
    work = _prepare(*images(case)[0], temperature=1.0, normalise=False)
    prototypes = work.prototypes
    theta = THRESHOLDS["median"](_inside(work), prototypes.valid.shape)
    assert prototypes.regions.tolist() == case["thr_rows"].tolist()
    found = np.zeros_like(case["thr"])
    row, slot = prototypes.valid.nonzero(as_tuple=True)
    found[row, prototypes.classes[row, slot]] = theta[row, slot]
    np.testing.assert_allclose(found, case["thr"], rtol=1e-5)


@cases("stage2_ce")
def test_stage2(case: Arrays, prefix: str) -> None:
    loss = stage2_loss(inputs(case)[0], torch.from_numpy(case["plbl_expand"]))
    assert float(loss) == pytest.approx(float(case["stage2_ce"]), rel=2e-5)
