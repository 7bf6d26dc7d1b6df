"""A training as the worker does it, to keep a core busy: `python -m ml_backend.load_trainer ...`.

It trains round after round on made-up street scenes, and applies the events that come in meanwhile.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from label_config import ClassSchema
from ml_backend.memory import resident_bytes
from ml_backend.priority import stand_back
from ml_backend.round_steps import apply_pending_events
from ml_backend.store import Store
from training.config import CONFIGS
from training.rounds import run_round
from training.scenes import make_scene
from training.snapshot import Snapshot, SnapshotItem, write_snapshot
from training.superpixels import segment

POLL_S = 1.0  # as the worker's PIXBAL_POLL_S


def write_training_data(folder: Path, images: int = 6) -> Snapshot:
    """A snapshot of street scenes, every third region answered."""
    rng, items = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    schema = ClassSchema.preset("camvid")
    for number in range(images):
        image, mask = make_scene(rng, 180, 240)
        regions = segment(image, "grid", 24)
        path, map_path = folder / f"{number}.png", folder / f"{number}.npz"
        Image.fromarray(image).save(path)
        regions.save(map_path)
        labels = {
            int(region): [int(c) for c in np.unique(mask[regions.ids == region])]
            for region in range(0, regions.count, 3)
        }
        items.append(SnapshotItem(f"scene{number}", path, map_path, labels))
    return write_snapshot(
        folder / "snapshot", classes=schema.names, undefined=True, items=items, heldout=[]
    )


def train(home: Path, data: Path, rounds: int, epochs: int) -> None:
    """Train `rounds` rounds (0: until killed); a line of JSON says when each is done."""
    config = CONFIGS["demo"].with_overrides(
        [
            f"stage1.epochs={epochs}", f"stage2.epochs={epochs}", "model.short_side=120",
            "stage1.steps_per_epoch=4", "stage2.steps_per_epoch=4", "device=cpu", "threads=1",
        ]
    )  # fmt: skip
    number = 0
    while rounds == 0 or number < rounds:
        number += 1
        out = home / f"r{number}"
        run_round(data, config, out, cache_dir=home / "features")
        shutil.rmtree(out)
        print(json.dumps({"round": number, "rss": resident_bytes(None)}), flush=True)


def apply_events(database: str, stop: threading.Event) -> None:
    """What the worker does between two looks at its projects."""
    with Store.open(database) as store:
        while not stop.wait(POLL_S):
            apply_pending_events(store)
        apply_pending_events(store)


def main(home: Path, data: Path, rounds: int, epochs: int, database: str) -> None:
    """Train; where a database is given, apply its events in a thread beside it."""
    home.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    beside = threading.Thread(target=apply_events, args=(database, stop))
    if database:
        beside.start()
    stand_back()
    try:
        train(home, data, rounds, epochs)
    finally:
        stop.set()
        if database:
            beside.join()


if __name__ == "__main__":
    folder, snapshot, count, length, url = sys.argv[1:]
    main(Path(folder), Path(snapshot), int(count), int(length), url)
