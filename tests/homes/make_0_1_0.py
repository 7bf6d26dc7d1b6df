"""How home_0.1.0.zip was made: by release 0.1.0 (commit 95457fe), with its code and test helpers.

    git worktree add old 95457fe && cp tests/homes/make_0_1_0.py old/tests/ && cd old
    PYTHONPATH=.:tests python tests/make_0_1_0.py home_0.1.0.zip

Two projects of four pictures. Project 4 has two finished rounds, answers of every kind, a deleted
one, a withdrawn question, a pre-tick and an open third batch; project 5 one round. Paths in the
rows begin with the folder named below, which whoever unpacks the archive replaces.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend_helpers import make_project, make_settings
from desk import SCHEMA, Desk, Site, _images
from training_helpers import tiny_config, write_pool

from label_config import Answer, answer_result
from ml_backend import workflow
from ml_backend.backup import make_backup
from ml_backend.pool import keep
from ml_backend.runtime import Runtime
from ml_backend.store import Image, Store
from ml_backend.worker import Worker
from training.config import ModelConfig
from training.images import content_id

HOME = Path("/tmp/pixbal-home-0.1.0")
ANSWERS = (
    Answer("classes", ("Grass",)), Answer("classes", ("Grass", "Brick")), Answer("nothing"),
    Answer("unsure"), Answer("classes", ("Brick",)),
)  # fmt: skip


def answer_some(desk: Desk, project_id: int) -> None:
    """Answers of every kind, by two annotators; the last open task is skipped."""
    todo = [t for t in desk.projects[project_id] if not t["annotations"]]
    for number, task in enumerate(todo):
        desk.last_id += 1
        task["annotations"].append({
            "id": desk.last_id, "task": task["id"],
            "result": answer_result(ANSWERS[number % len(ANSWERS)], SCHEMA, "region_multiclass"),
            "updated_at": datetime.now(UTC).isoformat(), "was_cancelled": task is todo[-1],
            "lead_time": 2.0 + number, "completed_by": 1 + number % 2,
        })  # fmt: skip


@contextmanager
def open_site() -> Any:
    settings = make_settings(
        HOME, PIXBAL_RETRY_S="0.2", PIXBAL_RECONCILE_S="0.2", PIXBAL_DEVICE="cpu"
    )
    model = ModelConfig(encoder="test_efficientnet", weights="none", short_side=32,
                        head_channels=8, low_level_channels=4)  # fmt: skip
    with Store.open(settings.database_url) as store:
        for project_id in (4, 5):
            store.add_project(make_project(
                project_id, SCHEMA, title=f"project {project_id}", budget_clicks=8, method="grid",
                side_px=8, train_config=tiny_config(model=model).to_json(),
            ))  # fmt: skip
            store.add_images(kept_images(project_id))
        store.add_images([Image(4, "0" * 24, "photos/broken.png", "", 0, 0, "", "", 0, "pool",
                                status="unreadable", reason="It cannot be decoded.")])  # fmt: skip
        worker = Worker(Runtime(settings, store, Desk()))  # type: ignore[arg-type]
        worker.keeper.start()
        workflow.configure(worker.runtime, worker.keeper)
        workflow.launch(settings)
        try:
            yield Site(worker, worker.runtime.ls)  # type: ignore[arg-type]
        finally:
            workflow.shut_down()
            worker.keeper.stop()


def kept_images(project_id: int) -> list[Image]:
    """Four pictures for the pool and a held-out one with its mask, in the home by content."""
    folder = HOME.with_name("pixbal-make") / f"p{project_id}"
    pool = [kept(row) for row in _images(project_id, folder)]
    _, image, regions, mask = write_pool(folder, 5)[-1]
    data = mask.read_bytes()
    mask_path = keep(data, HOME / "masks", content_id(data), ".png")
    row = replace(pool[0], source=str(image), path=str(image), regions_path=str(regions),
                  split="heldout", mask_path=str(mask_path))  # fmt: skip
    return [*pool, kept(row)]


def kept(row: Image) -> Image:
    data = Path(row.path).read_bytes()
    image_id = content_id(data)
    regions = HOME / "regions" / image_id[:2] / f"{image_id}-grid-8.npz"
    regions.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(row.regions_path, regions)
    blob = keep(data, HOME / "images", image_id, ".png")
    return replace(row, image_id=image_id, path=str(blob), regions_path=str(regions))


def play(site: Site) -> None:
    for number in (1, 2):
        site.until("questions", lambda: site.store.queries(4, status="open"))
        answer_some(site.desk, 4)
        site.until(f"round {number}", lambda n=number: ended(site, 4, n))
    site.train(1, project_id=5)
    site.until("the third batch", lambda: site.store.queries(4, status="open"))
    tasks = site.desk.projects[4]
    tasks[0]["annotations"].clear()  # an answer that was deleted
    tasks.pop(1)  # and a task
    site.until("the deletion", lambda: site.store.queries(4, status="withdrawn"))


def ended(site: Site, project_id: int, number: int) -> bool:
    row = site.store.round(project_id, number)
    return row is not None and row.state == "done"


def main(out: Path) -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    with open_site() as site:
        play(site)
        settings = site.worker.runtime.settings
        make_backup(settings, HOME / "backup.zip")
        for project_id in (4, 5):
            print(project_id, site.store.count_queries(project_id), site.store.rounds(project_id))
    for path in HOME.rglob("*-wal"):
        print("not merged into the database:", path)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(HOME.rglob("*")):
            parts = path.relative_to(HOME).parts
            if path.is_file() and parts[0] not in ("features", "media") and path.suffix != ".lock":
                archive.write(path, path.relative_to(HOME))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
