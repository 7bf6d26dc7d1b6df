"""A simulated annotator: takes the next task, looks at the ground truth, ticks, submits."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from label_config import Answer, ClassSchema, answer_result, read
from label_config.layouts import OTHER_ALIAS
from ml_backend.errors import LabelStudioError
from ml_backend.store import Project, Store
from training.images import read_mask
from training.oracle import dominant_targets, region_targets
from training.regions import RegionId, RegionMap

REQUEST_TIMEOUT_S = 60.0


@dataclass
class Annotator:
    """Works through Label Studio's own API, exactly as its page does: /next, then submit.

    Attributes:
        masks: ground truth by the image's source path.
        void: mask value without a class; what it covers is answered with "Something else".
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
        setup = read(project.label_config)
        answer = self.answer(region, project)
        response = session.post(
            f"{self.url}/api/tasks/{task['id']}/annotations/",
            json={
                "result": answer_result(
                    answer, setup.schema, setup.template, undefined_alias=setup.undefined_alias
                ),
                "lead_time": time.monotonic() - started,
                "was_cancelled": False,
            },
            timeout=REQUEST_TIMEOUT_S,
        )
        _check(response, f"submitting task {task['id']}")

    def answer(self, region: RegionId, project: Project) -> Answer:
        """What the ground truth shows inside a region, in words that the project's setup offers.

        Borders are trimmed, and classes under the project's smallest share left out; one tick only
        where the setup takes one.
        """
        setup = read(project.label_config)
        row = self._image_targets(region.image_id, project, setup.schema)[region.index]
        names = tuple(name for c, name in enumerate(setup.schema.names) if row[c])
        other = setup.schema.undefined and bool(row[-1])
        if names:
            # In an older setup "Nothing listed" would hide the classes.
            return Answer("classes", names, other and setup.undefined_alias == OTHER_ALIAS)
        # Without an undefined class there is no "Something else" to press.
        return Answer("nothing" if other else "unsure")

    def _image_targets(
        self, image_id: str, project: Project, schema: ClassSchema
    ) -> NDArray[np.uint8]:
        if image_id not in self._targets:
            image = self.store.image(self.project_id, image_id)
            if image is None or image.source not in self.masks:
                raise LabelStudioError(f"no ground truth for image {image_id}")
            mask, regions = read_mask(self.masks[image.source]), Path(image.regions_path)
            self._targets[image_id] = self._row_of_each(
                mask, RegionMap.load(regions), project, schema
            )
        return self._targets[image_id]

    def _row_of_each(
        self, mask: NDArray[np.uint8], regions: RegionMap, project: Project, schema: ClassSchema
    ) -> NDArray[np.uint8]:
        """Classes of every region as the project asks for them, (R, K)."""
        if project.template == "region_dominant":
            return dominant_targets(
                mask, regions, len(schema.names), void=self.void, undefined=schema.undefined
            )
        return region_targets(
            mask, regions, len(schema.names), void=self.void, undefined=schema.undefined,
            min_share=project.smallest_share,
        )  # fmt: skip


def _check(answer: requests.Response, doing: str) -> None:
    if answer.status_code >= 400:
        raise LabelStudioError(
            f"Label Studio answered {answer.status_code} when {doing}: {answer.text[:200]}",
            hint="Its log is in the demonstration's folder.",
        )
