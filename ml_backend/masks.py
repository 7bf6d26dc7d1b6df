"""`pixbal masks`: an image project of somebody is shown what the model predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from label_config import ClassSchema
from label_config.mask_control import MaskControl, read_mask_control
from ml_backend.connect import TITLE, connect
from ml_backend.errors import Conflict, NotFound
from ml_backend.from_project import task_sources
from ml_backend.ingest import REGION_TEMPLATES
from ml_backend.label_studio import Change, LabelStudio
from ml_backend.locks import file_lock, project_lock
from ml_backend.pool import Cut, ImportReport, import_images
from ml_backend.settings import Settings
from ml_backend.store import Project, Store


@dataclass(frozen=True)
class MasksReport:
    """What was done."""

    project: Project
    change: Change
    control: MaskControl
    images: ImportReport
    connected: tuple[tuple[str, str], ...]

    def lines(self) -> list[str]:
        """The report for a terminal."""
        control, missing = self.control, self.control.missing
        return [
            f"masks in project {self.project.id}: {self.change}; {control.kind} labels "
            f"{control.from_name!r}, {len(control.stored)} of "
            f"{len(control.stored) + len(missing)} classes",
            *([f"  no label for {', '.join(missing)}: not drawn"] if missing else []),
            f"  images: {self.images.added} added, {self.images.known} known, "
            f"{len(self.images.unreadable)} refused",
            *(f"  refused {name[:200]}: {reason}" for name, reason in self.images.unreadable),
            *(f"  {what}: {how}" for what, how in self.connected),
        ]


def show_masks(
    settings: Settings,
    store: Store,
    ls: LabelStudio,
    project_id: int,
    region_project: int,
    progress: Callable[[int, int], None] | None = None,
) -> MasksReport:
    """Register a Label Studio project of whole images, import its images, connect it; again:
    changes nothing. Its labelling setup and the order of its tasks stay as they are.

    Raises:
        LabelConfigError: its setup has no brush or polygon labels of the region project's classes.
        Conflict: it is a region project.
        NotFound: the region project is unknown here.
        BackendError: Label Studio refuses (with what to do).
    """
    region = store.project(region_project)
    if region is None or region.template not in REGION_TEMPLATES:
        raise NotFound(
            f"Project {region_project} is no region project known here.",
            "Name one that `pixbal status` lists with --region-project.",
        )
    found = ls.project(project_id)
    label_config = str(found.get("label_config") or "")
    control = read_mask_control(label_config, ClassSchema.from_json(region.schema_json))
    row = replace(
        region,
        id=project_id,
        title=str(found.get("title") or ""),
        template="image_masks",
        label_config=label_config,
        model_version=None,
        created_at=datetime.now(UTC),
    )
    change = _record(store, row)
    with file_lock(project_lock(settings.home, project_id), what=f"import into {project_id}"):
        images = _import(settings, store, ls, row, region, control.value_key, progress)
    connected = connect(ls, settings, project_id, label_config, TITLE, sampling=None)
    return MasksReport(row, change, control, images, tuple(connected))


def _record(store: Store, row: Project) -> Change:
    known = store.project(row.id)
    if known is None:
        store.add_project(row)
        return "created"
    if known.template in REGION_TEMPLATES:
        raise Conflict(
            f"Project {row.id} asks about regions; it shows no masks.",
            hint="Name the project whose tasks are whole images.",
        )
    before = asdict(known)
    kept = ("id", "created_at", "model_version")
    changes = {k: v for k, v in asdict(row).items() if k not in kept and v != before[k]}
    store.update_project(row.id, **changes)
    return "updated" if changes else "unchanged"


def _import(
    settings: Settings,
    store: Store,
    ls: LabelStudio,
    row: Project,
    region: Project,
    key: str,
    progress: Callable[[int, int], None] | None,
) -> ImportReport:
    """Bring in the images that neither project has."""
    stored = [i for p in (row, region) for i in store.images(p.id, status="ready")]
    tasks, names = {i.ls_task_id for i in stored}, {i.source for i in stored}
    skipped = 0

    def known(task_id: int, url: Any) -> bool:
        nonlocal skipped
        is_known = task_id in tasks or url in names
        skipped += is_known
        return is_known

    sources = task_sources(settings, ls, row.id, key, known)
    cut = Cut(settings.home, row.method, row.side_px, settings.max_pixels)
    report = import_images(store, row, sources, cut, progress=progress)
    return replace(report, known=report.known + skipped)
