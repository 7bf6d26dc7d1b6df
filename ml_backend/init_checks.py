"""What `pixbal init` looks at before it downloads or makes anything."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Any

from ml_backend.errors import BackendError, Conflict
from ml_backend.failures import reason_of
from ml_backend.label_studio import LabelStudio, Refused
from ml_backend.project_settings import SETTINGS, CheckModel
from ml_backend.store import Image, Project, Store
from ml_backend.train_settings import differences, overridden, train_config
from ml_backend.trouble import FORGETTING, note_trouble
from training.config import TrainConfig
from training.superpixels import available_methods, default_method

if TYPE_CHECKING:
    from ml_backend.init import InitRequest

# Of a region's side where the network sees it: what is warned of, and what is advised. The
# features of its finest level are 4 px apart.
SMALLEST_SEEN_PX, GOOD_SEEN_PX = 8, 16
LARGEST_SIDE = 512

# Options of `init` that are settings of a project afterwards, by the field of the request.
CHANGEABLE: Mapping[str, str] = {
    "budget": "budget", "train_every": "train-every", "preticks": "preticks",
    "per_image": "per-image", "smallest_share": "smallest-share", "title": "title",
}  # fmt: skip


def given(request: InitRequest) -> frozenset[str]:
    """The fields that somebody gave: those the command line says, else all that differ."""
    if request.given is not None:
        return request.given
    return frozenset(f.name for f in fields(request) if getattr(request, f.name) != f.default)


def check_new(request: InitRequest, check_model: CheckModel) -> None:
    """Check everything about a project that is to be made; nothing is made or downloaded.

    Raises:
        BackendError, ConfigError: the first thing that would go wrong later, with what to do.
    """
    if not request.images and request.from_project is None:
        raise BackendError(
            "no images to import",
            hint="Give --images FOLDER, a glob or a .txt list, or --from-project N.",
        )
    _check_values(request)
    method = request.method or default_method()
    if method not in available_methods():
        raise BackendError(
            f"superpixel method {method!r} is not available here",
            hint=f"Available: {', '.join(available_methods())}.",
        )
    check_model(train_config(request.config, request.overrides, request.seed).model)


def known_project(
    store: Store, ls: LabelStudio, request: InitRequest
) -> tuple[Project | None, tuple[str, ...]]:
    """The project that an earlier call made, and what there is to say of those that are gone.

    One that Label Studio has no more is noted as such, and its title is free again.

    Raises:
        Refused: the project that was named by its id is gone.
    """
    notes: list[str] = []
    for row in store.projects():
        if row.template == "image_masks":
            continue
        if row.id != request.project and (request.project or row.title != request.title):
            continue
        try:
            ls.project(row.id)
        except Refused as error:
            if error.code != 404:
                raise
            note_trouble(store, row.id, reason_of(error), datetime.now(UTC))
            forget = f"`pixbal project forget --project {row.id}`"
            if row.id == request.project:
                raise Refused(
                    error.message,
                    f"It was deleted in Label Studio. {forget} removes what is left of it here; "
                    "leave --project out to make a new one.",
                    404,
                ) from error
            notes.append(
                f"project {row.id} of this title is gone in Label Studio and was left as it is; "
                f"{forget} removes what is left of it here"
            )
            continue
        if row.trouble == FORGETTING:
            raise Conflict(
                f"project {row.id} ({row.title!r}) is being forgotten",
                hint=f"`pixbal project forget --project {row.id}` again ends that; then this "
                "makes a new one.",
            )
        if row.state in ("paused", "archived"):
            notes.append(
                f"project {row.id} is {row.state}: nothing is pushed before "
                f"`pixbal project resume --project {row.id}`"
            )
        return row, tuple(notes)
    return None, tuple(notes)


def region_size_warning(project: Project, images: Sequence[Image]) -> tuple[str, ...]:
    """What to say where the model sees a region as a few pixels; `images`: those to label.

    Photos of twelve megapixels are shrunk before they reach the network; the side counts in theirs.
    """
    seen = TrainConfig.from_json(project.train_config).model.short_side
    if seen is None or not images:
        return ()
    short = round(median(min(image.width, image.height) for image in images))
    if project.side_px * seen >= SMALLEST_SEEN_PX * short:
        return ()
    better = min(ceil(GOOD_SEEN_PX * short / seen), LARGEST_SIDE)
    larger = f"pixbal project set --project {project.id} --set model.short_side="
    return (
        f"WARNING: a region of {project.side_px} px is {project.side_px * seen / short:.2g} px "
        f"where the model sees the image ({seen} of {short} px),",
        "         too small to tell what is in it. The side of a project never changes: make "
        f"another one, with another --title and --side {better},",
        f"         or let the model see more, which is slower: {larger}...",
    )


def kept_settings(row: Project, request: InitRequest) -> tuple[str, ...]:
    """What a repeated `init` asks for and does not change, and the command that changes it.

    Raises:
        BackendError, ConfigError: a value that no project could have.
    """
    _check_values(request)
    asked = given(request)
    kept, command = [], []
    for field, name in CHANGEABLE.items():
        setting = SETTINGS[name]
        if field not in asked or not hasattr(request, field):
            continue
        value, stored = getattr(request, field), getattr(row, setting.column)
        if value != stored:
            kept.append(f"{name} {setting.show(stored)} (asked for {setting.show(value)})")
            command += [f"--{name}", setting.show(value)]
    changed = _training_asked(row, request, asked)
    if changed:
        kept.append(f"training settings (asked for {', '.join(changed)})")
        command += ["--config", request.config] if "config" in asked else []
        command += [part for text in request.overrides for part in ("--set", text)]
    lines = []
    if kept:
        lines.append(f"kept as they were: {'; '.join(kept)}")
        words = shlex.join(["--project", str(row.id), *command])
        lines.append(f"  to change them: pixbal project set {words}")
    if "seed" in asked and request.seed != row.seed:
        lines.append(
            f"kept as it was: seed {row.seed} (asked for {request.seed}), which never changes: the "
            "first questions were drawn with it"
        )
    return tuple(lines)


def _check_values(request: InitRequest) -> None:
    """Refuse what `pixbal project set` would refuse: bounds of the command line let NaN pass."""
    for field, name in CHANGEABLE.items():
        setting = SETTINGS[name]
        try:
            setting.parse(setting.show(getattr(request, field)))
        except ValueError as error:
            raise BackendError(f"--{name}: {error}", hint=f"Give another --{name}.") from error


def _training_asked(row: Project, request: InitRequest, asked: frozenset[str]) -> list[str]:
    before = TrainConfig.from_json(row.train_config)
    if "config" in asked:
        after = train_config(request.config, request.overrides, row.seed)
    elif "overrides" in asked:
        after = overridden(before, request.overrides)
    else:
        return []
    return differences(_plain(before), _plain(after))


def _plain(config: TrainConfig) -> dict[str, Any]:
    return config.to_json()
