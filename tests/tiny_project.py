"""A project of a few tiny pictures on real processes that stop at named points of a round."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import requests
from kill_points import FOLDER, Points
from servers import ROOT
from stack import Stack
from training_helpers import write_pool

from ml_backend.errors import BackendError
from ml_backend.init import InitRequest, initialise
from ml_backend.processes import LabelStudioServer, WorkerProcess
from training.regions import RegionId

HERE = Path(__file__).parent
IMAGES = 4
# Two epochs of two steps on small pictures with a random encoder: a second or two.
TINY = (
    "stage1.epochs=2", "stage1.steps_per_epoch=2", "stage2.epochs=2", "stage2.steps_per_epoch=2",
    "stage1.batch_size=2", "stage2.batch_size=2", "model.short_side=32", "model.weights=\"none\"",
    "model.head_channels=8", "model.low_level_channels=4",
)  # fmt: skip


class TinyProject:
    """One project, its processes, and the points at which they stop."""

    def __init__(self, folder: Path, label_studio: LabelStudioServer, **extra: str) -> None:
        self.points = Points(folder / "points")
        extra |= {
            FOLDER: str(folder / "points"),
            "PIXBAL_RECONCILE_S": "3",
            "PYTHONPATH": f"{HERE}:{ROOT}",
        }
        self.stack = Stack(folder / "stack", label_studio, extra=extra)
        stack = self.stack
        stack.backend.command = tuple(
            "kill_wsgi:app" if word == "ml_backend.wsgi:app" else word
            for word in stack.backend.command
        )
        stack.worker.command = (sys.executable, str(HERE / "kill_points.py"))
        pool = write_pool(folder / "images", IMAGES)
        self.masks = {str(image.resolve()): mask for _, image, _, mask in pool}
        listing = folder / "pool.txt"
        listing.write_text("".join(f"{image}\n" for image in self.masks))
        classes = folder / "classes.json"
        classes.write_text('{"undefined": true, "classes": ["Grass", "Brick"]}')
        stack.backend.start()
        stack.worker.start()
        request = InitRequest(
            classes=str(classes), images=(str(listing),), title=folder.name, budget=5,
            method="grid", side=10, config="demo", overrides=TINY,
        )  # fmt: skip
        self.project_id = initialise(stack.settings, stack.store, stack.ls, request).project.id

    def annotate(self) -> None:
        """Answer every open question; a Label Studio that dies meanwhile ends this early."""
        annotator = self.stack.annotator(self.project_id, self.masks)
        annotator.void = 255
        with contextlib.suppress(requests.RequestException, BackendError):
            annotator.annotate_all(limit=len(self.stack.store.queries(self.project_id)))

    def another_worker(self, log: Path, **environment: str) -> WorkerProcess:
        """A worker with the same points, on the same home."""
        worker = WorkerProcess(env={**self.stack.environment, **environment}, log=log)
        worker.command = self.stack.worker.command
        return worker

    def wait_at(self, point: str) -> None:
        """Wait until a process stands at a point."""
        self.stack.wait_for(f"the point {point!r}", lambda: self.points.reached(point))

    def check(self, rounds: int) -> None:
        """Exactly one of everything, here and in Label Studio."""
        stack, project_id = self.stack, self.project_id
        stack.wait_for("questions", lambda: stack.store.queries(project_id, status="open"), 60)
        recorded = stack.store.rounds(project_id)
        assert [(r.number, r.state) for r in recorded] == [
            (n, "done") for n in range(1, rounds + 1)
        ]
        versions = stack.store.versions(project_id)
        assert [v.name for v in versions] == [f"p{project_id}-r{n}" for n in range(1, rounds + 1)]
        folder = stack.settings.home / "versions" / f"p{project_id}"
        assert sorted(p.name for p in folder.iterdir()) == [f"r{v.round}" for v in versions]
        assert [Path(v.path).name for v in versions] == [f"r{v.round}" for v in versions]
        # No label is missing, none is there twice, and training saw all of them.
        tasks = list(stack.ls.tasks(project_id, with_annotations=True))
        there = [int(a["id"]) for task in tasks for a in task["annotations"]]
        here = [label.annotation_id for label in stack.store.labels(project_id)]
        assert sorted(there) == sorted(here)
        answered = stack.store.queries(project_id, status="answered")
        assert recorded[-1].labels == len(answered) == len(there)
        # No task twice, none that nobody knows, none that is gone.
        queries = stack.store.queries(project_id)
        ledger = {q.task_id: str(RegionId(q.image_id, q.region_index)) for q in queries}
        assert {int(task["id"]): task["data"]["region"] for task in tasks} == ledger
        assert len(set(ledger.values())) == len(ledger) == len(queries)
        assert {q.status for q in queries} == {"answered", "open"}
        assert stack.ls.project(project_id)["model_version"] == f"p{project_id}-r{rounds}"
        project = stack.store.project(project_id)
        assert project is not None
        assert project.model_version == f"p{project_id}-r{rounds}"
