"""`pixbal masks`: an image project of somebody is shown what the model predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from label_config import ClassSchema
from label_config.mask_control import MaskControl, read_mask_control
from ml_backend.connect import TITLE, connect
from ml_backend.errors import Conflict, NotFound, NotReady
from ml_backend.from_project import task_sources
from ml_backend.ingest import REGION_TEMPLATES
from ml_backend.label_studio import Change, LabelStudio
from ml_backend.locks import file_lock, project_lock
from ml_backend.mask_predictions import fitting_projects, serving_version
from ml_backend.mask_redraw import Redrawn, redraw
from ml_backend.pool import Cut, ImportReport, import_images
from ml_backend.settings import Settings
from ml_backend.store import Project, Store

# Of a region project's row, what says how that one is getting on.
NOT_TAKEN_OVER: Mapping[str, Any] = MappingProxyType(
    {"model_version": None, "current_version": None, "state": "active", "push_held": False,
     "trouble": None, "trouble_at": None}
)  # fmt: skip
# What a second call brings up to date.
FOLLOWED = (
    "title", "schema_json", "label_config", "method", "side_px", "region_project", "classes_added"
)  # fmt: skip


@dataclass(frozen=True)
class MasksReport:
    """What was done.

    Attributes:
        before: the region project whose model drew the masks until now, where it is another one.
        version: the version that draws them; None before the first one.
        redrawn: the tasks whose masks were looked at.
    """

    project: Project
    change: Change
    control: MaskControl
    images: ImportReport
    connected: tuple[tuple[str, str], ...]
    before: int | None = None
    version: str | None = None
    redrawn: list[Redrawn] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report for a terminal."""
        control, missing = self.control, self.control.missing
        was = "" if self.before is None else f" (until now by that of project {self.before})"
        again = sum(step.changed for step in self.redrawn)
        failed = [step for step in self.redrawn if step.problem]
        return [
            f"masks in project {self.project.id}: {self.change}; {control.kind} labels "
            f"{control.from_name!r}, {len(control.stored)} of "
            f"{len(control.stored) + len(missing)} classes",
            *([f"  no label for {', '.join(missing)}: not drawn"] if missing else []),
            f"  images: {self.images.added} added, {self.images.known} known, "
            f"{len(self.images.unreadable)} refused",
            *(f"  refused {name[:200]}: {reason}" for name, reason in self.images.unreadable),
            *(f"  {what}: {how}" for what, how in self.connected),
            f"  drawn by the model of project {self.project.region_project}{was}: "
            f"{self.version or 'no version is in use yet'}",
            f"  masks shown before: {again} drawn again, "
            f"{len(self.redrawn) - again - len(failed)} right as they are, {len(failed)} failed",
            *(f"  task {step.task_id}: {step.problem}" for step in failed),
        ]


def show_masks(
    settings: Settings,
    store: Store,
    ls: LabelStudio,
    project_id: int,
    region_project: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MasksReport:
    """Register a Label Studio project of whole images, import its images, connect it, and draw
    again what it shows of another model, picture or setup; a second time changes nothing.

    Its labelling setup and the order of its tasks stay as they are.

    Args:
        region_project: whose model draws the masks; where not given, the one named before, else
            the only one there is.

    Raises:
        LabelConfigError: its setup has no brush or polygon labels of the region project's classes.
        Conflict: it is a region project.
        NotFound: the region project is unknown here, or must be named.
        BackendError: Label Studio refuses (with what to do).
    """
    region = _region(store, project_id, region_project)
    found = ls.project(project_id)
    label_config = str(found.get("label_config") or "")
    control = read_mask_control(label_config, ClassSchema.from_json(region.schema_json))
    known = store.project(project_id)
    row = replace(
        region,
        id=project_id,
        title=str(found.get("title") or ""),
        template="image_masks",
        label_config=label_config,
        region_project=region.id,
        created_at=datetime.now(UTC),
        **NOT_TAKEN_OVER,
    )
    change = _record(store, row)
    with file_lock(project_lock(settings.home, project_id), what=f"import into {project_id}"):
        images = _import(settings, store, ls, row, region, control.value_key, progress)
    connected = connect(ls, settings, project_id, label_config, TITLE, sampling=None)
    before = None if known is None else known.region_project
    report = MasksReport(
        row,
        change,
        control,
        images,
        tuple(connected),
        before=None if before == region.id else before,
    )
    try:
        version = serving_version(store, row).name
    except NotReady:
        return report
    redrawn = list(redraw(settings, store, ls, row))
    # Last: killed before, the worker finds it undone.
    store.update_project(project_id, model_version=version)
    return replace(report, version=version, redrawn=redrawn)


def _region(store: Store, project_id: int, named: int | None) -> Project:
    """The region project that is named now, or was before, or that alone can be meant."""
    regions = {p.id: p for p in store.projects() if p.template in REGION_TEMPLATES}
    known = store.project(project_id)
    hint = (
        f"Region projects: {sorted(regions) or 'none; make one with `pixbal init`'}. Run `pixbal "
        f"masks --project {project_id} --region-project M`, where M is the one whose model draws "
        "the masks."
    )
    if known is not None and known.template in REGION_TEMPLATES:
        raise Conflict(
            f"Project {project_id} asks about regions; it shows no masks.",
            hint="Name the project whose tasks are whole images.",
        )
    if named is None and known is not None:
        named = known.region_project
    if named is not None:
        if named not in regions:
            raise NotFound(f"Project {named} is no region project known here.", hint)
        return regions[named]
    fitting = list(regions.values()) if known is None else fitting_projects(store, known)
    if len(fitting) != 1:
        raise NotFound(f"{len(fitting)} region projects could draw these masks.", hint)
    return fitting[0]


def _record(store: Store, row: Project) -> Change:
    known = store.project(row.id)
    if known is None:
        store.add_project(row)
        return "created"
    before, now = asdict(known), asdict(row)
    changes = {key: now[key] for key in FOLLOWED if now[key] != before[key]}
    if changes:
        # Not known to be shown any more: what was drawn so far is looked at again.
        changes["model_version"] = None
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
    """Bring in the images under `key` that neither project has.

    They are known by their address: a task may show another picture than it did, or several.
    """
    stored = [i for p in (row, region) for i in store.images(p.id, status="ready")]
    names = {i.source for i in stored}
    skipped = 0

    def known(_task_id: int, url: Any) -> bool:
        nonlocal skipped
        is_known = url in names
        skipped += is_known
        return is_known

    sources = task_sources(settings, ls, row.id, key, known)
    cut = Cut(settings.home, row.method, row.side_px, settings.max_pixels)
    report = import_images(store, row, sources, cut, progress=progress)
    return replace(report, known=report.known + skipped)
