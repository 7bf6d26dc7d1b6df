"""A simulated annotator: takes the next task, looks at the ground truth, ticks, submits."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from label_config import Answer, ClassSchema, answer_result
from ml_backend.errors import LabelStudioError
from ml_backend.store import Store
from training.images import read_mask
from training.oracle import region_targets
from training.regions import RegionId, RegionMap

REQUEST_TIMEOUT_S = 60.0


@dataclass
class Annotator:
    """Works through Label Studio's own API, exactly as its page does: /next, then submit.

    Attributes:
        masks: ground truth by the image's source path.
        void: mask value without a class; regions that hold only void get "Nothing listed".
    """

    url: str
    token: str
    store: Store
    project_id: int
    masks: dict[str, Path]
    void: int
    handed_out: list[int] = field(default_factory=list)
    _targets: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def annotate_all(self, limit: int) -> int:
        """Answer open tasks until none is left or `limit` are done; returns how many."""
        with requests.Session() as session:
            session.trust_env = False  # a server of the demonstration, on this machine
            session.headers["Authorization"] = f"Token {self.token}"
            for done in range(limit):
                task = self._next(session)
                if task is None:
                    return done
                self.handed_out.append(int(task["id"]))
                self._submit(session, task)
        return limit

    def _next(self, session: requests.Session) -> dict[str, Any] | None:
        answer = session.get(
            f"{self.url}/api/projects/{self.project_id}/next", timeout=REQUEST_TIMEOUT_S
        )
        if answer.status_code == 404:
            return None
        _check(answer, "asking for the next task")
        task: dict[str, Any] = answer.json()
        return task

    def _submit(self, session: requests.Session, task: dict[str, Any]) -> None:
        started = time.monotonic()
        region = RegionId.parse(str(task["data"]["region"]))
        project = self.store.project(self.project_id)
        if project is None:
            raise LabelStudioError(f"project {self.project_id} is unknown here")
        schema = ClassSchema.from_json(project.schema_json)
        answer = self.answer(region, schema)
        response = session.post(
            f"{self.url}/api/tasks/{task['id']}/annotations/",
            json={
                "result": answer_result(answer, schema, project.template),
                "lead_time": time.monotonic() - started,
                "was_cancelled": False,
            },
            timeout=REQUEST_TIMEOUT_S,
        )
        _check(response, f"submitting task {task['id']}")

    def answer(self, region: RegionId, schema: ClassSchema) -> Answer:
        """The classes that the ground truth shows inside a region, borders trimmed."""
        row = self._image_targets(region.image_id, schema)[region.index]
        names = tuple(name for c, name in enumerate(schema.names) if row[c])
        if names:
            return Answer("classes", names)
        # Without an undefined class there is no "Nothing listed" to press.
        return Answer("nothing" if schema.undefined else "unsure", ())

    def _image_targets(self, image_id: str, schema: ClassSchema) -> NDArray[np.uint8]:
        if image_id not in self._targets:
            image = self.store.image(self.project_id, image_id)
            if image is None or image.source not in self.masks:
                raise LabelStudioError(f"no ground truth for image {image_id}")
            self._targets[image_id] = region_targets(
                read_mask(self.masks[image.source]),
                RegionMap.load(Path(image.regions_path)),
                num_classes=len(schema.names),
                void=self.void,
                undefined=schema.undefined,
            )
        return self._targets[image_id]


def _check(answer: requests.Response, doing: str) -> None:
    if answer.status_code >= 400:
        raise LabelStudioError(
            f"Label Studio answered {answer.status_code} when {doing}: {answer.text[:200]}",
            hint="Its log is in the demonstration's folder.",
        )
