"""Whole-image masks for brush and polygon labels. Torch is imported at the first prediction."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from label_config import ClassSchema, LabelConfigError
from label_config.brush import mask_result
from label_config.mask_control import Kind, MaskControl, read_mask_control
from ml_backend.errors import BackendError, Conflict, NotReady
from ml_backend.ingest import REGION_TEMPLATES
from ml_backend.mask_images import Picture, picture_of
from ml_backend.polygons import polygon_result
from ml_backend.predictions import no_prediction
from ml_backend.settings import Settings
from ml_backend.store import Project, Store, VersionRow
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.model import SegmentationModel

log = logging.getLogger(__name__)

# By kind of control: masks by class name, width, height, control -> Label Studio's result.
RESULTS: Mapping[
    Kind, Callable[[Mapping[str, bytes], int, int, MaskControl], list[dict[str, Any]]]
] = {"brush": mask_result, "polygon": polygon_result}

# Part of every key: another number has all masks drawn again. 2: something else is left blank.
_DRAWING = 2

# One prediction at a time: two threads of one model need twice the memory and are not faster.
_lock = threading.Lock()
_loaded: tuple[str, SegmentationModel] | None = None


def fitting_projects(store: Store, project: Project) -> list[Project]:
    """The region projects whose classes are those of a mask project; more may have been added."""
    names = ClassSchema.from_json(project.schema_json).names
    return [
        other
        for other in store.projects()
        if other.template in REGION_TEMPLATES
        and ClassSchema.from_json(other.schema_json).names[: len(names)] == names
    ]


def region_project(store: Store, project: Project) -> Project:
    """The region project whose model draws a project's masks: the one that it names.

    Where it names none, as before release 0.2: the only one of the same classes.

    Raises:
        NotReady: it is unknown here, or which one is meant is not clear.
    """
    if project.region_project is not None:
        named = store.project(project.region_project)
        if named is not None:
            return named
        found = f"The region project {project.region_project} of project {project.id} is gone here."
    else:
        fitting = fitting_projects(store, project)
        if len(fitting) == 1:
            return fitting[0]
        numbers = ", ".join(str(other.id) for other in fitting) or "none"
        found = (
            f"Project {project.id} names no region project, and those with its classes are: "
            f"{numbers}."
        )
    raise NotReady(
        found,
        f"Run `pixbal masks --project {project.id} --region-project M`, where M is the project "
        "whose model draws the masks.",
    )


def serving_version(store: Store, project: Project) -> VersionRow:
    """The version that draws a project's masks: the one in use in its region project.

    Raises:
        NotReady: none is published yet, or as `region_project`.
    """
    region = region_project(store, project)
    found: VersionRow | None
    if region.current_version is not None:
        found = store.version(region.id, region.current_version)
    else:
        found = next(reversed(store.versions(region.id)), None)
    if found is None:
        raise NotReady(
            f"Project {region.id}, whose model draws the masks of project {project.id}, has no "
            "version in use yet.",
            f"Finish a round of project {region.id} first; `pixbal status` shows how far it is.",
        )
    return found


@dataclass(frozen=True)
class Drawing:
    """What a project's masks are drawn with: a version, and the place they go to.

    Attributes:
        project_ids: whose stored images may be the picture of a task.
        names: the classes in the order of the version's outputs.
    """

    settings: Settings
    store: Store
    project_ids: tuple[int, ...]
    version: VersionRow
    names: tuple[str, ...]
    control: MaskControl

    def picture(self, task: Mapping[str, Any]) -> Picture:
        """The picture that the control of the setup is about; as `picture_of`."""
        key = self.control.value_key
        return picture_of(self.settings, self.store, self.project_ids, key, task)

    def key(self, picture: Picture) -> str:
        """Names what `draw` makes: equal where weights, picture and labels are. 12 hex digits."""
        control = self.control
        labels = [control.kind, control.from_name, control.to_name, dict(control.stored)]
        parts = [_DRAWING, self.version.weights_hash, picture.image_id, self.names, labels]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def draw(self, picture: Picture, pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Label Studio's result; the id of each of its regions begins with the key.

        Pixels of something else are left blank, those of classes without a label too.

        Raises:
            TrainingError: the model cannot be read.
            BackendError: the model is not the one that was published.
        """
        mask = _predict(self.settings, self.version, pixels)
        height, width = mask.shape
        masks = {
            name: np.equal(mask, index).astype(np.uint8).tobytes()
            for index, name in enumerate(self.names)
            if name in self.control.stored and np.any(mask == index)
        }
        result = RESULTS[self.control.kind](masks, width, height, self.control)
        return [{**item, "id": f"{self.key(picture)}-{item['id']}"} for item in result]


def drawing_for(settings: Settings, store: Store, project: Project, label_config: str) -> Drawing:
    """What the masks of a project are drawn with, in the labels of the setup as it is now.

    Raises:
        Conflict: the setup has no place for masks of the project's classes.
        NotReady: as `serving_version`.
    """
    version = serving_version(store, project)
    region = store.project(version.project_id)
    schema = ClassSchema.from_json((region or project).schema_json)
    try:
        control = read_mask_control(label_config, schema)
    except LabelConfigError as error:
        raise Conflict(error.message, error.hint) from error
    project_ids = (project.id, version.project_id)
    return Drawing(settings, store, project_ids, version, schema.names, control)


def mask_predictions(
    settings: Settings,
    store: Store,
    project: Project,
    label_config: str,
    tasks: list[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One prediction per task, from the version in use, for the labels of the setup as it is now.

    A task whose image cannot be read gets an empty prediction: it must not take the others with
    it.

    Raises:
        Conflict: the setup has no place for masks of the project's classes.
        NotReady: no model version is published yet, or which project's is not clear.
    """
    drawing = drawing_for(settings, store, project, label_config)
    return [_one(drawing, project, task) for task in tasks]


def _one(drawing: Drawing, project: Project, task: Mapping[str, Any]) -> dict[str, Any]:
    empty = no_prediction(drawing.version.name)
    try:
        picture = drawing.picture(task)
        pixels = picture.pixels(drawing.settings.max_pixels)
    except (BackendError, TrainingError, OSError) as error:
        log.warning("project %s: task %s: %s", project.id, task.get("id"), error)
        return empty
    return {**empty, "result": drawing.draw(picture, pixels)}


def _predict(
    settings: Settings, version: VersionRow, pixels: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    from training.predict import predict_mask

    with _lock:
        mask: NDArray[np.uint8] = predict_mask(_model(settings, version), pixels)
    return mask


def _model(settings: Settings, version: VersionRow) -> SegmentationModel:
    """The version's model; the one before it is let go."""
    global _loaded
    if _loaded is None or _loaded[0] != version.weights_hash:
        import torch

        from training.device import pick_device
        from training.versions import Version, load_model

        torch.set_num_threads(settings.threads)
        found = Version.load(Path(version.path))
        if found.weights_hash != version.weights_hash:
            raise BackendError(
                f"Version {version.name} on disk is not the one that was published.",
                "Restore PIXBAL_HOME from a backup.",
                status=500,
            )
        _loaded = (version.weights_hash, load_model(found, pick_device(settings.device)))
    return _loaded[1]
