"""Which labels training uses, and how many of them are new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from ml_backend.store import Label, Project, Query, Store
from ml_backend.store.rows import ANSWER_KINDS
from training.regions import RegionId
from training.snapshot import Snapshot

TRAINABLE_KINDS = frozenset({"classes", "nothing"})


@dataclass(frozen=True)
class RegionLabel:
    """What training is told about a region: classes, and whether "Something else" is in it too."""

    classes: tuple[str, ...] = ()
    other: bool = False

    @property
    def content(self) -> tuple[frozenset[str], bool]:
        """What it says, whatever the order of the ticks."""
        return frozenset(self.classes), self.other


def trainable_labels(store: Store, project_id: int) -> dict[RegionId, RegionLabel]:
    """The label of each region that says something about classes.

    The newest live annotation of a region counts; that of a later asking replaces what was said
    before, once somebody answered it. Skips and "Can't tell" are answers, but they say nothing
    about classes, so they are left out; so is "Something else" where the project has no undefined
    class, and every answer about an image that was removed.
    """
    project = store.project(project_id)
    undefined = project is not None and bool(project.schema_json.get("undefined", True))
    found: dict[RegionId, RegionLabel] = {}
    for region, label in answers_by_region(store, project_id).items():
        # Rows written by 0.1 say "Something else" by their kind alone.
        other = undefined and (label.other or label.kind == "nothing")
        if label.kind in TRAINABLE_KINDS and (label.classes or other):
            found[region] = RegionLabel(label.classes, other)
    return found


def answers_by_region(store: Store, project_id: int) -> dict[RegionId, Label]:
    """The answer that counts for each region, whatever it says; none about removed images."""
    queries = {q.id: q for q in store.queries(project_id)}
    removed = {i.image_id for i in store.images(project_id, split="pool", status="removed")}
    answers: dict[RegionId, tuple[int, Label]] = {}
    for query_id, label in store.effective_labels(project_id).items():
        query = queries.get(query_id)
        if query is None or label.kind not in ANSWER_KINDS or query.image_id in removed:
            continue
        region = RegionId(query.image_id, query.region_index)
        if region not in answers or answers[region][0] < query.asking:
            answers[region] = query.asking, label
    return {region: label for region, (_, label) in sorted(answers.items())}


def possible_classes(store: Store, project: Project) -> dict[RegionId, tuple[str, ...]]:
    """By region, the classes that were appended after it was answered, so that it may hold them."""
    added = {name: datetime.fromisoformat(at) for name, at in project.classes_added.items()}
    if not added:
        return {}
    return {
        region: later
        for region, label in answers_by_region(store, project.id).items()
        if (later := tuple(n for n, at in added.items() if label.updated_at < at))
    }


def counting_labels(queries: Iterable[Query], labels: Mapping[int, Label]) -> dict[RegionId, Label]:
    """The label that counts for each region: of its newest asking that was answered, else the
    newest one of any kind.

    Args:
        labels: the label that counts for each query id.
    """
    found: dict[RegionId, tuple[tuple[bool, int], Label]] = {}
    for query in queries:
        label = labels.get(query.id)
        if label is None:
            continue
        region = RegionId(query.image_id, query.region_index)
        rank = label.kind in ANSWER_KINDS, query.asking
        if region not in found or found[region][0] < rank:
            found[region] = rank, label
    return {region: label for region, (_, label) in found.items()}


def trained_labels(snapshot: Snapshot) -> dict[RegionId, RegionLabel]:
    """The labels a snapshot was made of, in the form of `trainable_labels`."""
    names = snapshot.classes
    return {
        RegionId(item.image_id, index): RegionLabel(
            tuple(names[c] for c in classes if c < len(names)), len(names) in classes
        )
        for item in snapshot.items
        for index, classes in item.labels.items()
    }


def count_changes(now: dict[RegionId, RegionLabel], before: dict[RegionId, RegionLabel]) -> int:
    """Labels that were added, changed or withdrawn; the order of ticks does not matter."""
    added_or_changed = sum(
        region not in before or before[region].content != label.content
        for region, label in now.items()
    )
    return added_or_changed + sum(region not in now for region in before)
