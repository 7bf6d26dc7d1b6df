"""Which labels training uses, and how many of them are new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ml_backend.store import Label, Query, Store
from ml_backend.store.rows import ANSWER_KINDS
from training.regions import RegionId
from training.snapshot import Snapshot

TRAINABLE_KINDS = frozenset({"classes", "nothing"})


def trainable_labels(store: Store, project_id: int) -> dict[RegionId, tuple[str, ...]]:
    """Class names per labelled region; () for "Nothing listed".

    The newest live annotation of a region counts; that of a later asking replaces what was said
    before, once somebody answered it. Skips and "Can't tell" are answers, but they say
    nothing about classes, so they are left out; so is "Nothing listed" where the project has no
    undefined class.
    """
    project = store.project(project_id)
    undefined = project is not None and bool(project.schema_json.get("undefined", True))
    queries = {q.id: q for q in store.queries(project_id)}
    answers: dict[RegionId, tuple[int, Label]] = {}
    for query_id, label in store.effective_labels(project_id).items():
        query = queries.get(query_id)
        if query is None or label.kind not in ANSWER_KINDS:
            continue
        region = RegionId(query.image_id, query.region_index)
        if region not in answers or answers[region][0] < query.asking:
            answers[region] = query.asking, label
    return {
        region: label.classes
        for region, (_, label) in sorted(answers.items())
        if label.kind in TRAINABLE_KINDS and (undefined or label.kind != "nothing")
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


def trained_labels(snapshot: Snapshot) -> dict[RegionId, tuple[str, ...]]:
    """The labels a snapshot was made of, in the form of `trainable_labels`."""
    names = snapshot.classes
    return {
        RegionId(item.image_id, index): tuple(names[c] for c in classes if c < len(names))
        for item in snapshot.items
        for index, classes in item.labels.items()
    }


def count_changes(
    now: dict[RegionId, tuple[str, ...]], before: dict[RegionId, tuple[str, ...]]
) -> int:
    """Labels that were added, changed or withdrawn; the order of ticks does not matter."""
    added_or_changed = sum(
        region not in before or set(before[region]) != set(classes)
        for region, classes in now.items()
    )
    return added_or_changed + sum(region not in now for region in before)
