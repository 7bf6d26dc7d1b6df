"""Questions into Label Studio: planned, pushed in pages, never twice; open ones scored anew."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from label_config import ClassSchema
from ml_backend.copies import Walk, remove_copies
from ml_backend.errors import LabelStudioError
from ml_backend.label_studio import LabelStudio
from ml_backend.media import picture_urls, write_local_pictures
from ml_backend.predictions import region_prediction
from ml_backend.queries import plan_queries, scored, scored_names
from ml_backend.settings import Settings
from ml_backend.store import Project, Query, Store
from ml_backend.tasks import task_payload
from ml_backend.ticks import tick_decision
from training.pool_scores import PoolScores
from training.regions import RegionId

log = logging.getLogger(__name__)

PAGE = 500  # Label Studio's own import batch


@dataclass(frozen=True)
class Batch:
    """The questions to push: for which round, by the scores of which version.

    Attributes:
        round: the round that will train on the answers.
        version: name of the version that scored the pool.
        top_up: choose again where every question of this batch was handled without a usable label.
        choose: whether new regions may be chosen at all; else only what is there is pushed.
    """

    round: int
    version: str
    scores: PoolScores
    top_up: bool = False
    choose: bool = True


def push_questions(
    settings: Settings, store: Store, ls: LabelStudio, project: Project, batch: Batch
) -> int:
    """Plan and push a batch; doing it again pushes nothing twice.

    Planned rows come first (one transaction), then pages of tasks. A page is marked before it is
    sent, so that a page whose answer was lost is looked up in Label Studio and adopted.

    Only for whoever holds the lease of the project's questions: two at once would each push the
    same page.

    Returns:
        How many regions were pushed by this call.
    """
    adopt_uncertain(store, ls, project.id)
    if _lacks_questions(store, project.id, batch):
        _plan(store, project, batch)
    pushed = 0
    planned = store.queries(project.id, status="planned")
    planned.sort(key=lambda q: (-q.score, q.image_id, q.region_index))
    for start in range(0, len(planned), PAGE):
        pushed += _push_page(settings, store, ls, project, planned[start : start + PAGE])
    _rescore_open(store, ls, project, batch.version, batch.scores)
    _activate(store, ls, project, batch.version)
    return pushed


def _lacks_questions(store: Store, project_id: int, batch: Batch) -> bool:
    """Whether new regions are to be chosen for a batch.

    Regions that are asked again are no batch: where they wait they are pushed alone, and the batch
    of a round is chosen whether some of them carry its number or not.
    """
    if not batch.choose:
        return False
    before = store.queries(project_id, round=batch.round)
    chosen = any(q.asking == 1 for q in before)
    if not batch.top_up:
        return not chosen
    if any(q.asking > 1 for q in store.queries(project_id, status="planned")):
        return False
    return not chosen or not any(q.status in ("planned", "open") for q in before)


def _plan(store: Store, project: Project, batch: Batch) -> None:
    queries = store.queries(project.id)
    open_clicks = sum(q.expected_clicks for q in queries if q.status in ("open", "planned"))
    planned = plan_queries(
        project,
        store.images(project.id, split="pool", status="ready"),
        {RegionId(q.image_id, q.region_index) for q in queries},
        batch.scores,
        scored_names(ClassSchema.from_json(project.schema_json), batch.scores),
        round_number=batch.round,
        model_version=batch.version,
        budget_clicks=project.budget_clicks - open_clicks,
        ticks_shown=tick_decision(store, project).shown,
    )
    store.plan_queries(planned)
    log.info("project %s: %s questions planned for round %s", project.id, len(planned), batch.round)


def adopt_uncertain(store: Store, ls: LabelStudio, project_id: int) -> int:
    """Resolve pages whose import may or may not have happened, by asking Label Studio.

    A region that has a task there is adopted; of several (two imports raced) one stays, see
    `copies`; a region without a task is planned again.
    """
    uncertain = store.queries(project_id, status="pushing")
    if not uncertain:
        return 0
    walk = Walk(uncertain)
    for task in ls.tasks(project_id, with_annotations=True):
        walk.note(task)
    found = walk.groups()
    remove_copies(store, ls, project_id, found)
    adopted = {group.query_id: group.kept for group in found}
    store.set_task_ids(adopted)
    store.set_query_status([q.id for q in uncertain if q.id not in adopted], "planned")
    log.info(
        "project %s: adopted %s of %s uncertain tasks", project_id, len(adopted), len(uncertain)
    )
    return len(adopted)


def _push_page(
    settings: Settings, store: Store, ls: LabelStudio, project: Project, page: Sequence[Query]
) -> int:
    schema = ClassSchema.from_json(project.schema_json)
    files = {i.image_id: i.source for i in store.images(project.id)}
    payloads = [
        task_payload(
            query,
            picture_urls(settings, query),
            region_prediction(query, schema, project.template, query.model_version),
            image=files.get(query.image_id, ""),
        )
        for query in page
    ]
    if settings.media == "local-files":
        write_local_pictures(settings, store, page)
    store.set_query_status([q.id for q in page], "pushing")
    task_ids = ls.import_tasks(project.id, payloads)
    if len(task_ids) != len(page):
        raise LabelStudioError(
            f"Label Studio made {len(task_ids)} tasks of {len(page)}",
            hint="The questions stay marked; the next try looks them up and adopts them.",
        )
    store.set_task_ids({q.id: t for q, t in zip(page, task_ids, strict=True)})
    return len(page)


def _rescore_open(
    store: Store, ls: LabelStudio, project: Project, version: str, scores: PoolScores
) -> None:
    """Give open questions the score and ticks of the version in use.

    Only predictions of the project's current version take part in the order, so a question without
    one would come after all others.
    """
    schema = ClassSchema.from_json(project.schema_json)
    names = scored_names(schema, scores)
    stale = [
        q
        for q in store.queries(project.id, status="open")
        if q.model_version != version and q.task_id is not None and q.image_id in scores.images
    ]
    shown = tick_decision(store, project).shown if stale else False
    for start in range(0, len(stale), PAGE):
        page = stale[start : start + PAGE]
        renewed = [scored(q, project, names, version, scores, shown) for q in page]
        have = ls.tasks_with_prediction(project.id, [q.task_id for q in page if q.task_id], version)
        said = {q.task_id or 0: region_prediction(q, schema, project.template, version)
                for q in renewed}  # fmt: skip
        for task_id in sorted(have & said.keys()):
            _renew_prediction(ls, task_id, version, said.pop(task_id))
        ls.import_predictions(project.id, [{"task": task, **it} for task, it in said.items()])
        store.update_query_scores(renewed)


def _renew_prediction(ls: LabelStudio, task_id: int, version: str, said: dict[str, Any]) -> None:
    """Change what a version said of a task before: it is in use again, or a try was cut off.

    Ticks may have been decided otherwise then. In place, since an annotator's page that is open
    names the prediction: with that gone, her answer would be refused.
    """
    for prediction in ls.predictions(task_id):
        if prediction["model_version"] == version:
            ls.update_prediction(int(prediction["id"]), **said)


def _activate(store: Store, ls: LabelStudio, project: Project, version: str) -> None:
    """Make the version the one whose scores order the queue, here and in Label Studio."""
    if not store.queries(project.id, status="open"):
        # Label Studio accepts only a version that some prediction carries.
        store.update_project(project.id, model_version=version)
        return
    ls.update_project(project.id, model_version=version)
    store.update_project(project.id, model_version=version)
