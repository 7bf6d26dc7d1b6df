"""The rows of the store as values: frozen, typed, no session behind them. Times are UTC, aware."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

ProjectState = Literal["importing", "active", "paused", "archived"]
Preticks = Literal["auto", "always", "never"]
ImageStatus = Literal["ready", "unreadable", "removed"]
Split = Literal["pool", "heldout"]
QueryStatus = Literal["planned", "pushing", "open", "answered", "skipped", "withdrawn"]
LabelKind = Literal["classes", "nothing", "unsure", "empty", "skipped", "invalid"]

# What somebody said about a region; a label of another kind counts only where none of these is.
ANSWER_KINDS = ("classes", "nothing", "unsure")


def utc_now() -> datetime:
    """Now, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Project:
    """A Label Studio project that PixBal serves; `id` is Label Studio's.

    Attributes:
        preticks: whether questions carry ticks in advance; "auto": where agreement says so.
        model_version: the version that Label Studio orders its queue by; None before a push.
        state: an "importing" project is not pushed from yet; a "paused" one neither trains nor
            asks, its answers are kept; an "archived" one is shown to nobody.
        push_held: nobody pushes until somebody asks for it (`init --no-push`).
        trouble: why Label Studio refuses this project, for people; None where it does not.
        per_image: most questions of one image in a batch; None chooses by the batch, 0 is no limit.
        smallest_share: annotators leave out a class that covers less of the outline.
        current_version: the version in use: the last published, or the one rolled back to.
        region_project: of a project of masks, the one whose versions draw them.
        classes_added: when a class was appended, by its name (ISO, UTC); {} for the first ones.
    """

    id: int
    title: str
    schema_json: dict[str, Any]
    template: str
    label_config: str
    method: str
    side_px: int
    seed: int
    budget_clicks: float
    train_every: int | None
    train_config: dict[str, Any]
    acquisition: str
    model_version: str | None = None
    created_at: datetime = field(default_factory=utc_now)
    preticks: str = "auto"
    state: str = "active"
    push_held: bool = False
    trouble: str | None = None
    trouble_at: datetime | None = None
    per_image: int | None = None
    smallest_share: float = 0.0
    current_version: str | None = None
    region_project: int | None = None
    classes_added: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """An image of a project; `path` is the kept copy, `source` the name people know."""

    project_id: int
    image_id: str
    source: str
    path: str
    width: int
    height: int
    regions_path: str
    regions_hash: str
    region_count: int
    split: str
    mask_path: str | None = None
    status: str = "ready"
    reason: str | None = None
    ls_task_id: int | None = None


@dataclass(frozen=True)
class Query:
    """One question: a region and the how-manieth asking of it. `score` is PixBal: higher is sooner.

    Attributes:
        control: shown without ticks in advance, so that agreement with them can be measured.
        reason: why the region was asked again; None for the first asking.
    """

    id: int
    project_id: int
    image_id: str
    region_index: int
    regions_hash: str
    round: int
    status: str
    task_id: int | None
    score: float
    expected_clicks: float
    preticks: tuple[str, ...]
    model_version: str
    asking: int = 1
    control: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Event:
    """One thing Label Studio, or a person, told the backend; the payload holds no secret."""

    id: int
    project_id: int | None
    action: str
    payload: dict[str, Any]
    digest: str
    received_at: datetime
    processed_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True)
class Label:
    """One annotation. `updated_at` is Label Studio's clock, `seen_at` ours.

    A deleted one stays as a tombstone; its task is unknown where the deletion came first. `other`
    is "Something else", which combines with classes; alone it is kind "nothing".
    """

    annotation_id: int
    project_id: int
    task_id: int | None
    query_id: int | None
    kind: str
    classes: tuple[str, ...]
    clicks: int
    lead_time_s: float | None
    annotator: str | None
    updated_at: datetime
    deleted: bool
    seen_at: datetime
    other: bool = False


@dataclass(frozen=True)
class Round:
    """One training round; `state` is the step it is in, "done" or "failed".

    A failed one with `retry_in_s` is tried again by itself after that pause. `note` tells what else
    a person may want to know, such as that it was taken over from a lost worker. `train_config` is
    frozen with its snapshot.
    """

    project_id: int
    number: int
    trigger: str
    workflow_id: str
    state: str
    stage: str | None = None
    epoch: int | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    eta_s: float | None = None
    started_at: datetime = field(default_factory=utc_now)
    finished_at: datetime | None = None
    error: str | None = None
    version: str | None = None
    labels: int | None = None
    clicks: int | None = None
    attempts: int = 1
    retry_in_s: float | None = None
    note: str | None = None
    train_config: dict[str, Any] | None = None


@dataclass(frozen=True)
class VersionRow:
    """A published model version; `path` is its folder."""

    project_id: int
    name: str
    round: int
    path: str
    metrics: dict[str, Any]
    weights_hash: str
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True)
class Lease:
    """The right to work on something; `token` rises whenever it changes hands.

    The holder counts `beat` up while it lives; `renewed_at` is its clock, for people only. Nobody
    holds it where `holder` is None.
    """

    name: str
    holder: str | None
    token: int
    beat: int
    renewed_at: datetime
    taken_from: str | None = None
    taken_at: datetime | None = None
