"""Whole-image masks for brush and polygon labels. Torch is imported at the first prediction."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from label_config import ClassSchema, LabelConfigError
from label_config.brush import mask_result
from label_config.mask_control import Kind, MaskControl, read_mask_control
from ml_backend.errors import BackendError, Conflict, NotReady
from ml_backend.mask_images import find_image, task_pixels
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

# One prediction at a time: two threads of one model need twice the memory and are not faster.
_lock = threading.Lock()
_loaded: tuple[str, SegmentationModel] | None = None


def serving_version(store: Store, project: Project) -> VersionRow:
    """The version that draws a project's masks: its own newest one, else that of the newest
    project with the same classes.

    Raises:
        NotReady: none is published yet.
    """
    names = ClassSchema.from_json(project.schema_json).names
    same = [
        other
        for other in store.projects()
        if other.id == project.id or ClassSchema.from_json(other.schema_json).names == names
    ]
    same.sort(key=lambda other: (other.id == project.id, other.created_at))
    for other in reversed(same):
        versions = store.versions(other.id)
        if versions:
            return versions[-1]
    raise NotReady(
        f"No model version with the classes of project {project.id} is published yet.",
        "Finish a round of a region project with the same classes first.",
    )


def mask_predictions(
    settings: Settings,
    store: Store,
    project: Project,
    label_config: str,
    tasks: list[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One prediction per task, from the newest model, for the labels of the setup as it is now.

    A task whose image cannot be read gets an empty prediction: it must not take the others with
    it.

    Raises:
        Conflict: the setup has no place for masks of the project's classes.
        NotReady: no model version is published yet.
    """
    schema = ClassSchema.from_json(project.schema_json)
    try:
        control = read_mask_control(label_config, schema)
    except LabelConfigError as error:
        raise Conflict(error.message, error.hint) from error
    version = serving_version(store, project)
    return [_one(settings, store, project, version, control, task) for task in tasks]


def _one(
    settings: Settings,
    store: Store,
    project: Project,
    version: VersionRow,
    control: MaskControl,
    task: Mapping[str, Any],
) -> dict[str, Any]:
    empty = no_prediction(version.name)
    image = find_image(store, (project.id, version.project_id), task)
    try:
        pixels = task_pixels(settings, image, control.value_key, task)
    except (BackendError, TrainingError, OSError) as error:
        log.warning("project %s: task %s: %s", project.id, task.get("id"), error)
        return empty
    mask = _predict(settings, version, pixels)
    height, width = mask.shape
    masks = {
        name: np.equal(mask, index).astype(np.uint8).tobytes()
        for index, name in enumerate(ClassSchema.from_json(project.schema_json).names)
        if name in control.stored and np.any(mask == index)
    }
    return {**empty, "result": RESULTS[control.kind](masks, width, height, control)}


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
