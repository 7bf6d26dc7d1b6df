"""The same labels and seed: the same snapshot, weights, scores and questions, byte by byte."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from backend_helpers import (
    at,
    make_image,
    make_label,
    make_project,
    make_query,
    make_schema,
    make_settings,
)
from training_helpers import grid, tiny_config, write_pool

from ml_backend import round_steps
from ml_backend.queries import plan_queries
from ml_backend.runtime import Runtime
from ml_backend.store import Image, Store
from training.pool_scores import PoolScores
from training.snapshot import Snapshot

SCHEMA = make_schema("Grass", "Brick")


def images(folder: Path) -> list[Image]:
    """Three pool images of region maps on disk."""
    map_ = grid(40, 56)
    return [
        make_image(
            4, name, source=str(image), path=str(image), width=56, height=40,
            regions_path=str(regions), regions_hash=map_.hash, region_count=map_.count,
        )
        for name, image, regions, _ in write_pool(folder, 3)
    ]  # fmt: skip


def replay(home: Path, pool: list[Image], order: random.Random, seed: int = 0) -> dict[str, Any]:
    """A round from a ledger that was filled in some order; what it leaves."""
    settings = make_settings(home, PIXBAL_DEVICE="cpu")
    with Store.open(settings.database_url) as store:
        config = tiny_config(seed=seed).to_json()
        store.add_project(make_project(4, SCHEMA, seed=seed, train_config=config))
        store.add_images(order.sample(pool, len(pool)))
        asked = [make_query(4, index, image_id=i.image_id, regions_hash=i.regions_hash)
                 for i in pool for index in range(0, i.region_count, 4)]  # fmt: skip
        store.plan_queries(asked)
        queries = store.queries(4)
        store.set_task_ids({q.id: q.id + 100 for q in queries})
        for query in order.sample(queries, len(queries)):
            names = (SCHEMA.names[query.region_index % 2],)
            store.apply_label(
                make_label(query.id, task_id=query.id + 100, query_id=query.id, classes=names,
                           seen_at=at(order.uniform(0, 99)))
            )  # fmt: skip
        store.start_round(4, 1, "labels", "first")
        runtime = Runtime(settings, store, None)  # type: ignore[arg-type]
        snapshot = round_steps.write_round_snapshot(runtime, 4, 1)
        folder = Path(round_steps.train_round(runtime, 4, 1, snapshot))
        round_steps.publish_version(runtime, 4, 1, str(folder))
        path = round_steps.score_current(runtime, runtime.project(4))
        next_ones = plan_queries(
            runtime.project(4), store.images(4, split="pool"), set(), PoolScores.load(path),
            SCHEMA.names, round_number=2, model_version="r1", budget_clicks=20,
        )  # fmt: skip
    return {
        "snapshot": Snapshot.load(Path(snapshot)).hash,
        "stage 1": (folder / "stage1.safetensors").read_bytes(),
        "stage 2": (folder / "model.safetensors").read_bytes(),
        "scores": path.read_bytes(),
        "questions": next_ones,
    }


@pytest.mark.guarantee(24)
def test_a_replayed_round_is_equal_byte_by_byte(tmp_path: Path) -> None:
    """Whatever the order in which images and labels came, and the time they were seen.

    Another seed gives other bytes, so the comparison can fail.
    """
    pool = images(tmp_path / "images")
    one = replay(tmp_path / "one", pool, random.Random(1))
    two = replay(tmp_path / "two", pool, random.Random(2))
    for part in one:
        assert one[part] == two[part], part
    assert len(one["questions"]) > 3
    other = replay(tmp_path / "other", pool, random.Random(1), seed=1)
    assert other["snapshot"] == one["snapshot"]
    for part in ("stage 1", "stage 2", "scores"):
        assert other[part] != one[part], part
