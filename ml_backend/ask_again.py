"""A region is asked again: another question about it, and the answers before are kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from label_config import ClassSchema
from ml_backend.errors import BadRequest, NotFound
from ml_backend.flagged import Flagged, flagged
from ml_backend.queries import scored, scored_names
from ml_backend.round_steps import name_in_use, next_round, scores_in_use, why_no_push
from ml_backend.runtime import Runtime
from ml_backend.store import Label, Project, Query, Store
from ml_backend.ticks import tick_decision
from training.errors import RegionMapError
from training.regions import RegionId

WAITING = ("planned", "pushing", "open")


@dataclass(frozen=True)
class Asked:
    """What came of it: questions planned, and why others were not."""

    planned: int
    waiting: int  # a question about the region is open, or on its way
    gone: int  # its image is not in the pool any more
    held: str | None = None  # why nothing is pushed now

    def __str__(self) -> str:
        parts = [f"{self.planned} question{'' if self.planned == 1 else 's'} to be asked again"]
        if self.waiting:
            parts.append(f"{self.waiting} already waiting for an answer")
        if self.gone:
            parts.append(f"{self.gone} of images that are not in the pool any more")
        text = ", ".join(parts)
        if not self.planned:
            return f"{text}."
        return f"{text}. {self.held or 'The worker pushes them in a moment.'}"


def newest_askings(store: Store, project_id: int) -> dict[RegionId, Query]:
    """The newest question about each region that was ever asked."""
    return newest_of(store.queries(project_id))


def newest_of(queries: Iterable[Query]) -> dict[RegionId, Query]:
    """The newest asking of each region."""
    found: dict[RegionId, Query] = {}
    for query in queries:
        region = RegionId(query.image_id, query.region_index)
        if region not in found or found[region].asking < query.asking:
            found[region] = query
    return found


def ask_again(runtime: Runtime, project: Project, wanted: Sequence[tuple[RegionId, str]]) -> Asked:
    """Plan another question about each of the regions.

    A region about which a question waits is left alone: an answer to that one is a new answer.

    Args:
        wanted: regions that were asked before, and why they are asked again.

    Raises:
        NotFound: one of them was never asked.
    """
    store = runtime.store
    newest = newest_askings(store, project.id)
    unknown = [str(region) for region, _ in wanted if region not in newest]
    if unknown:
        raise NotFound(
            f"Project {project.id} never asked about the region {unknown[0]}.",
            "Tasks carry theirs as `region`; a question that was not asked yet comes by itself.",
        )
    ready = {i.image_id for i in store.images(project.id, split="pool", status="ready")}
    reasons = {newest[region].id: why for region, why in wanted}
    queries = [newest[region] for region in dict.fromkeys(region for region, _ in wanted)]
    free = [q for q in queries if q.status not in WAITING]
    known = [q for q in free if q.image_id in ready]
    # The worker pushes what is planned by itself. A request of ours would ask for new regions.
    planned = store.plan_queries(_anew(runtime, project, known, reasons))
    return Asked(
        planned,
        # Somebody else may have planned the same meanwhile: an asking is there once.
        waiting=len(queries) - len(free) + len(known) - planned,
        gone=len(free) - len(known),
        held=why_no_push(project),
    )


def _anew(
    runtime: Runtime, project: Project, queries: Sequence[Query], reasons: dict[int, str]
) -> list[Query]:
    """The next askings, by the version in use where it has scored the pool, else as they were."""
    if not queries:
        return []
    store = runtime.store
    number = next_round(store.rounds(project.id))
    schema = ClassSchema.from_json(project.schema_json)
    scores, version = scores_in_use(runtime, project), name_in_use(project)
    shown = tick_decision(store, project).shown
    rows = []
    for query in queries:
        row = replace(
            query, id=0, asking=query.asking + 1, round=number, status="planned", task_id=None,
            reason=reasons[query.id],
        )  # fmt: skip
        if scores is not None:
            row = scored(row, project, scored_names(schema, scores), version, scores, shown)
        rows.append(row)
    return rows


# What to ask again


def by_task(store: Store, project_id: int, task_id: int) -> list[tuple[RegionId, str]]:
    """The region of a task.

    Raises:
        NotFound: the task asks no question of ours.
    """
    query = store.query_by_task(project_id, task_id)
    if query is None:
        raise NotFound(
            f"Project {project_id} asked no question with the task {task_id}.",
            "The number stands in the address of the open task: `task=...`.",
        )
    return [(RegionId(query.image_id, query.region_index), f"asked for (task {task_id})")]


def by_region(text: str) -> list[tuple[RegionId, str]]:
    """A region by its name, "IMAGE:INDEX".

    Raises:
        BadRequest: that is no such name.
    """
    try:
        return [(RegionId.parse(text), "asked for")]
    except RegionMapError as error:
        raise BadRequest(error.message, "Give it as tasks carry it: IMAGE:INDEX.") from error


def flagged_answers(store: Store, project: Project) -> list[Flagged]:
    """Answers that nobody may have looked at, of regions about which no question waits."""
    return flagged_of(project, store.queries(project.id), store.effective_labels(project.id))


def flagged_of(
    project: Project, queries: Sequence[Query], labels: Mapping[int, Label]
) -> list[Flagged]:
    """The same of rows that were read already."""
    newest = {query.id for query in newest_of(queries).values()}
    found = flagged(
        [(query, labels[query.id]) for query in queries if query.id in labels], project.template
    )
    return [item for item in found if item.query.id in newest]


def by_flags(store: Store, project: Project) -> list[tuple[RegionId, str]]:
    """The regions of `flagged_answers`."""
    return [
        (RegionId(item.query.image_id, item.query.region_index), item.reason)
        for item in flagged_answers(store, project)
    ]


def by_annotator(
    store: Store, project_id: int, annotator: str, last: int | None = None
) -> list[tuple[RegionId, str]]:
    """Regions that an annotator answered, the `last` ones of them where a number is given.

    Raises:
        NotFound: nobody of that id answered anything.
    """
    labels = [label for label in store.labels(project_id) if label.kind != "skipped"]
    own = [label for label in labels if label.annotator == annotator and label.query_id is not None]
    if not own:
        raise NotFound(
            f"Nobody with the id {annotator} answered a question of project {project_id}.",
            f"Known: {_names(labels)} (Label Studio's user ids).",
        )
    queries = {query.id: query for query in store.queries(project_id)}
    own.sort(key=lambda label: (label.updated_at, label.annotation_id), reverse=True)
    regions: dict[RegionId, str] = {}
    for label in own:
        query = queries[label.query_id or 0]
        regions.setdefault(
            RegionId(query.image_id, query.region_index), f"asked for (answers of {annotator})"
        )
    return list(regions.items())[:last]


def _names(labels: Collection[Label]) -> str:
    found = sorted({label.annotator for label in labels if label.annotator is not None})
    return ", ".join(found) or "nobody yet"
