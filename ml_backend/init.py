"""`pixbal init`: from images and classes to a connected project with its first questions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from label_config import ClassSchema, LabelConfigError, build
from label_config.classes import presets
from label_config.colors import close_pairs
from ml_backend.connect import connect, ensure_instructions
from ml_backend.errors import BackendError, Conflict
from ml_backend.gather import gather
from ml_backend.init_checks import (
    check_new,
    given,
    kept_settings,
    known_project,
    region_size_warning,
)
from ml_backend.instructions import project_instructions
from ml_backend.label_studio import LabelStudio
from ml_backend.locks import file_lock, project_lock
from ml_backend.masks import show_masks
from ml_backend.pool import Cut, ImportReport, import_images, import_lines
from ml_backend.predictions import NO_MODEL
from ml_backend.runtime import Runtime
from ml_backend.settings import Settings
from ml_backend.sources import Found, Source, printable
from ml_backend.store import Project, Store
from ml_backend.train_settings import train_config
from training.errors import TrainingError
from training.images import read_image
from training.model_check import check_model
from training.seeds import NO_SEEDS, REPAIR_OPENCV, has_seeds
from training.superpixels import default_method

SHOWN_PAIRS = 5


@dataclass(frozen=True)
class InitRequest:
    """What to set up; see `pixbal init --help`."""

    classes: str
    images: tuple[str, ...] = ()
    from_project: int | None = None
    heldout: str | None = None
    title: str = "PixBal regions"
    project: int | None = None
    template: str = "region_multiclass"
    method: str | None = None
    side: int = 32
    budget: float = 500.0
    train_every: int | None = None
    config: str = "cpu"
    overrides: tuple[str, ...] = ()
    seed: int = 0
    preticks: str = "auto"
    per_image: int | None = None
    smallest_share: float = 0.2
    push: bool = True
    # The fields that somebody gave, though they may equal a default; None: those that differ.
    given: frozenset[str] | None = None


@dataclass(frozen=True)
class InitReport:
    """What was done."""

    project: Project
    url: str
    created: bool
    images: ImportReport
    connected: tuple[tuple[str, str], ...]
    pushed: int
    open_questions: int = field(default=0)
    masks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    asked_to_push: bool = True

    def lines(self) -> list[str]:
        """The report for a terminal."""
        found = [
            *self.warnings,
            f"project {self.project.id}: {'created' if self.created else 'unchanged'}",
            *import_lines(self.images),
            *(f"{what}: {how}" for what, how in self.connected),
            self._questions(),
            *self.masks,
            *self.notes,
            f'Open {self.url} and press "Label All Tasks".',
        ]
        return found

    def _questions(self) -> str:
        """What was pushed, or why nothing was."""
        if self.pushed:
            return f"questions: {self.pushed} pushed, {self.open_questions} open"
        if self.open_questions:
            return f"questions: {self.open_questions} are open already, so none was pushed now"
        if not self.asked_to_push:
            command = f"`pixbal push --project {self.project.id}`"
            return f"questions: none pushed, as --no-push asks; {command} pushes them"
        return "questions: none pushed and none open; see `pixbal status`"


def initialise(
    settings: Settings,
    store: Store,
    ls: LabelStudio,
    request: InitRequest,
    progress: Callable[[int, int], None] | None = None,
) -> InitReport:
    """Create or adopt the project, import images, connect, push; again: changes nothing.

    Everything that can be checked is, before anything is downloaded or made.

    Raises:
        BackendError: nothing to import, another method or other classes than the project was made
            with, or Label Studio refuses (with what to do).
    """
    schema = ClassSchema.load(request.classes)
    known, notes = known_project(store, ls, request)
    if known is None:
        check_new(request, check_model)
        if request.project is not None:
            _check_adoptable(ls, request.project, _label_config(request, schema))
    else:
        _check_unchanged(known, request)
        notes += kept_settings(known, request)
    found = _gather(settings, store, ls, request, schema, known)
    _check_readable(found.sources, settings.max_pixels)
    project, created = (
        (_make_project(store, ls, request, schema), True) if known is None else (known, False)
    )
    with file_lock(project_lock(settings.home, project.id), what=f"import into {project.id}"):
        cut = Cut(settings.home, project.method, project.side_px, settings.max_pixels)
        images = import_images(store, project, found.sources, cut, progress=progress)
        # Earlier releases kept a second copy of what they had fetched.
        shutil.rmtree(settings.home / "incoming", ignore_errors=True)
    pool = store.images(project.id, split="pool", status="ready")
    if not pool:
        raise BackendError(
            f"none of the {len(found.sources)} images can be used",
            hint="; ".join(f"{name}: {reason}" for name, reason in images.unreadable[:3])
            or "All were removed from the project: `pixbal images add` with the same photos brings "
            "them back.",
        )
    current = project.model_version or NO_MODEL
    connected = connect(ls, settings, project.id, project.label_config, current)
    if created and request.project is None:
        # It was made with the project itself, just now.
        connected = [
            (what, "created" if what == "label config" else how) for what, how in connected
        ]
    text = project_instructions(settings, store, project)
    connected.insert(1, ("instructions", ensure_instructions(ls, project.id, text)))
    if project.state == "importing":  # until here the worker leaves it alone
        store.update_project(project.id, state="active")
    pushed = _first_questions(settings, store, ls, project) if request.push else 0
    if pushed:
        # The order of the queue hangs on it, and it needs a prediction to exist.
        again = connect(ls, settings, project.id, project.label_config, current)
        what, how = again[-1]  # the model version, which is set last
        # Label Studio sets that of a new project by itself, with the first questions.
        connected[-1] = (what, "created" if created and how == "unchanged" else how)
    return InitReport(
        project=project,
        url=settings.project_page(project.id),
        created=created,
        images=replace(images, notes=(*found.notes, *images.notes)),
        connected=tuple(connected),
        pushed=pushed,
        open_questions=len(store.queries(project.id, status="open")),
        masks=_masks(settings, store, ls, project.id, request.from_project),
        notes=notes,
        warnings=(
            *(method_warning(request) if created else ()),
            *(region_size_warning(project, pool) if created else ()),
            *color_warnings(request.classes, ClassSchema.from_json(project.schema_json)),
        ),
        asked_to_push=request.push,
    )


def method_warning(request: InitRequest) -> tuple[str, ...]:
    """What to say before a new project is cut by another method than the default one.

    It keeps its method for good, and the package that takes SEEDS away is installed unasked.
    """
    if request.method is not None or has_seeds():
        return ()
    return (
        f"WARNING: {NO_SEEDS} A new project is cut by SLIC instead, for good.",
        f"         {REPAIR_OPENCV} To have SLIC all the same without this warning: --method slic.",
    )


def _masks(
    settings: Settings, store: Store, ls: LabelStudio, region_project: int, source: int | None
) -> tuple[str, ...]:
    """Show masks in the project that the images came from, if its setup has a place for them."""
    if source is None:
        return ()
    shown = store.project(source)
    if shown is not None and shown.region_project not in (None, region_project):
        command = f"pixbal masks --project {source} --region-project {region_project}"
        return (
            f"masks in project {source} stay those of project {shown.region_project}; `{command}` "
            "changes that",
        )
    try:
        return tuple(show_masks(settings, store, ls, source, region_project).lines())
    except (BackendError, LabelConfigError) as error:
        return (f"masks are not shown in project {source}: {error}",)


def _gather(
    settings: Settings,
    store: Store,
    ls: LabelStudio,
    request: InitRequest,
    schema: ClassSchema,
    row: Project | None,
) -> Found:
    return gather(
        settings,
        ls,
        schema if row is None else ClassSchema.from_json(row.schema_json),
        images=request.images,
        from_project=request.from_project,
        heldout=request.heldout,
        stored=() if row is None else store.images(row.id),
    )


def color_warnings(classes: str, schema: ClassSchema) -> tuple[str, ...]:
    """Colours given by hand that look alike; those of a preset are its data set's own."""
    if classes in presets():
        return ()
    pairs = close_pairs(schema)
    color = {info.name: info.color for info in schema.classes}
    named = [
        f"{one!r} and {two!r} ({color[one]}, {color[two]})" for one, two, _ in pairs[:SHOWN_PAIRS]
    ]
    if not pairs:
        return ()
    more = f" and {len(pairs) - len(named)} more" if len(pairs) > len(named) else ""
    return (
        f"warning: classes whose colours look alike: {'; '.join(named)}{more}. A project keeps its "
        "colours: for other ones change them in the class list (or leave them out, and distinct "
        "ones are filled in) and make a project of another --title.",
    )


def _make_project(
    store: Store, ls: LabelStudio, request: InitRequest, schema: ClassSchema
) -> Project:
    label_config = _label_config(request, schema)
    project_id = request.project
    if project_id is None:
        project_id = ls.create_project(request.title, label_config)
    else:
        _adopt(ls, project_id, label_config)
    row = Project(
        id=project_id,
        title=request.title,
        schema_json=schema.to_json(),
        template=request.template,
        label_config=label_config,
        method=request.method or default_method(),
        side_px=request.side,
        seed=request.seed,
        budget_clicks=request.budget,
        train_every=request.train_every,
        preticks=request.preticks,
        smallest_share=request.smallest_share,
        train_config=train_config(request.config, request.overrides, request.seed).to_json(),
        acquisition="pixbal",
        model_version=None,
        created_at=datetime.now(UTC),
        # Killed from here on, it says so, and the next call goes on with it.
        state="importing",
        push_held=not request.push,
        per_image=_per_image(request),
    )
    store.add_project(row)
    return row


def _label_config(request: InitRequest, schema: ClassSchema) -> str:
    return build(schema, request.template, smallest_share=request.smallest_share)


def _per_image(request: InitRequest) -> int | None:
    """The paper's experiments had no limit; where somebody gives one, it is theirs."""
    if request.config.startswith("paper") and "per_image" not in given(request):
        return 0
    return request.per_image


def _check_readable(sources: Sequence[Source], max_pixels: int) -> None:
    """Where no image of the pool can be read, no project is made for them."""
    refused: list[str] = []
    for source in sources:
        if source.split != "pool":
            continue
        try:
            path = source.path if source.load is None else source.load()
            read_image(path, max_pixels=max_pixels)
        except (BackendError, TrainingError, OSError) as error:
            refused.append(f"{printable(source.name)}: {error}")
        else:
            return
    if refused:
        raise BackendError(
            f"none of the {len(refused)} images can be read", hint="; ".join(refused[:3])
        )


def _check_unchanged(row: Project, request: InitRequest) -> None:
    """Regions and classes of a project are fixed: labels would lose their meaning.

    Keys and colours that the class list leaves open are the project's, not those of a new one.
    """
    stored = ClassSchema.from_json(row.schema_json)
    classes = ClassSchema.load(request.classes, like=stored)
    fixed: Mapping[str, tuple[Any, Any]] = {
        "classes": (first_classes(classes, row), first_classes(stored, row)),
        "template": (request.template, row.template),
        "side": (request.side, row.side_px),
        "method": (request.method or row.method, row.method),
    }
    asked_for = {"classes", *given(request)}
    for name, (asked, stored) in fixed.items():
        option = f"--{name}"
        if name in asked_for and asked != stored:
            raise Conflict(
                f"project {row.id} ({row.title!r}) was made with another {option}"
                + ("" if option == "--classes" else f": {stored!r}, now asked for {asked!r}"),
                hint="Keep it, or make a second project with another --title."
                + (" Classes are added by `pixbal classes append`." * (option == "--classes")),
            )


def first_classes(schema: ClassSchema, row: Project) -> dict[str, Any]:
    """A class list without those appended to the project: it may be given with or without them."""
    kept = tuple(c for c in schema.classes if c.name not in row.classes_added)
    return replace(schema, classes=kept).to_json() if kept else schema.to_json()


def _adopt(ls: LabelStudio, project_id: int, label_config: str) -> None:
    """Take over an existing Label Studio project."""
    if not _check_adoptable(ls, project_id, label_config):
        ls.update_project(project_id, label_config=label_config)


def _check_adoptable(ls: LabelStudio, project_id: int, label_config: str) -> bool:
    """Refuse a project that holds other work; whether it has our labelling setup already."""
    found = ls.project(project_id)
    current = str(found.get("label_config") or "").strip()
    if current == label_config:
        return True
    if current not in ("", "<View></View>", "<View/>") and found.get("task_number"):
        raise Conflict(
            f"Label Studio project {project_id} has tasks and another labelling setup",
            hint="Leave --project out to make a new project; take its images with --from-project.",
        )
    return False


def _first_questions(settings: Settings, store: Store, ls: LabelStudio, project: Project) -> int:
    """Push the seeded random batch of a fresh project, or finish a push that was cut off."""
    from ml_backend.push_now import push_now

    queries = store.queries(project.id)
    if queries and all(q.status not in ("planned", "pushing") for q in queries):
        return 0
    push_now(Runtime(settings, store, ls), project.id, wait=True)
    return len([q for q in store.queries(project.id, status="open") if q not in queries])
