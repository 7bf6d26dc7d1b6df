"""More classes for a project: in Label Studio at once, in training from the next snapshot on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from label_config import ClassInfo, ClassSchema
from label_config.append import appended
from label_config.builder import append_to_setup
from ml_backend.connect import ensure_instructions
from ml_backend.errors import BackendError, LabelStudioError
from ml_backend.heldout_masks import VOID
from ml_backend.instructions import project_instructions
from ml_backend.label_studio import LabelStudio
from ml_backend.locks import file_lock, project_lock
from ml_backend.pool import keep
from ml_backend.settings import Settings
from ml_backend.store import Project, Store
from training.images import ACCEPTED_PIXELS, content_id, read_mask


@dataclass(frozen=True)
class AppendedClasses:
    """What was done.

    Attributes:
        classes: the appended ones.
        new: False where the project had them already, and only the setup was looked at.
        heldout: held-out images, whose masks were made without these classes.
        mask_projects: projects that show masks by this one's models.
    """

    classes: tuple[ClassInfo, ...]
    new: bool
    heldout: int
    mask_projects: tuple[int, ...]

    def lines(self) -> list[str]:
        """The report for a terminal."""
        found = [
            f"{'appended' if self.new else 'there already:'} {info.name}: key "
            f"{info.hotkey or 'none'}, colour {info.color}"
            for info in self.classes
        ]
        found.append(
            "The labelling setup in Label Studio has them; whoever labels reloads the page. "
            "Training takes them in with the next snapshot; in regions answered before they stay "
            "possible until those are asked again."
        )
        if self.heldout:
            found.append(
                f"The masks of the {self.heldout} held-out images were made without them: where "
                "they occur there, give new ones with `pixbal images heldout replace FOLDER`."
            )
        found += [
            f"Project {number} shows masks: add the labels there, then `pixbal masks --project "
            f"{number}`."
            for number in self.mask_projects
        ]
        return found


def append_classes(
    settings: Settings,
    store: Store,
    ls: LabelStudio,
    project: Project,
    names: Sequence[str],
    colors: Sequence[str | None] = (),
) -> AppendedClasses:
    """Append classes to a project and to its labelling setup; again: changes nothing.

    Raises:
        LabelConfigError: names that no class can have, or in use by a class of the first list.
        BackendError: Label Studio refuses; the classes are kept, and calling again goes on.
    """
    with file_lock(project_lock(settings.home, project.id), what=f"import into {project.id}"):
        project = store.project(project.id) or project
        before = ClassSchema.from_json(project.schema_json)
        new = not set(names) <= set(project.classes_added)
        schema = appended(before, names, colors) if new else before
        setup = append_to_setup(project.label_config, schema)
        if new:
            _void_stays_void(settings, store, project.id, len(before.names))
            _record(store, project, schema, setup, names)
        try:
            ls.update_project(project.id, label_config=setup)
            kept = store.project(project.id) or project
            ensure_instructions(ls, project.id, project_instructions(settings, store, kept))
        except LabelStudioError as error:
            raise BackendError(
                f"{', '.join(names)} are classes of project {project.id} now, but Label Studio's "
                f"labelling setup has not got them: {error.message}",
                hint="Run it again.",
                status=error.status,
            ) from error
        if new:
            # Nobody could tick them before this moment.
            _record(store, project, schema, setup, names)
    held = store.images(project.id, split="heldout", status="ready")
    masks = [p.id for p in store.projects() if p.region_project == project.id]
    added = tuple(info for info in schema.classes if info.name in names)
    return AppendedClasses(added, new, len(held), tuple(masks))


def _record(
    store: Store, project: Project, schema: ClassSchema, setup: str, names: Sequence[str]
) -> None:
    now = datetime.now(UTC).isoformat()
    store.update_project(
        project.id,
        schema_json=schema.to_json(),
        label_config=setup,
        classes_added={**project.classes_added, **dict.fromkeys(names, now)},
    )


def _void_stays_void(settings: Settings, store: Store, project_id: int, classes: int) -> None:
    """Masks of earlier releases may store void as the number of classes: the next class's index."""
    for image in store.images(project_id, split="heldout", status="ready"):
        if image.mask_path is None:
            continue
        mask = read_mask(Path(image.mask_path), ACCEPTED_PIXELS)
        if not np.any((mask >= classes) & (mask != VOID)):
            continue
        buffer = io.BytesIO()
        PILImage.fromarray(np.where(mask < classes, mask, np.uint8(VOID))).save(buffer, "PNG")
        data = buffer.getvalue()
        path = keep(data, settings.home / "masks", content_id(data), ".png")
        store.put_image(replace(image, mask_path=str(path)))
