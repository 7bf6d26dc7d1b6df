"""The ML backend protocol as Label Studio 1.23 speaks it: thin, quick, never a training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request

from label_config import ClassSchema, LabelConfigError, read
from ml_backend import bodies
from ml_backend.errors import BadRequest, Conflict, NotFound, NotReady
from ml_backend.ingest import HANDLERS, REGION_TEMPLATES, positive_int
from ml_backend.media import IMAGE_ID, picture
from ml_backend.payloads import predicted_tasks, project_id, stored_payload
from ml_backend.predictions import NO_MODEL, no_prediction, region_prediction
from ml_backend.services import Services
from ml_backend.store import Project, Query, Store
from training.regions import RegionId

routes = Blueprint("protocol", __name__)

ACTION = re.compile(r"[A-Z_]{1,64}", re.ASCII)
STORED_ACTIONS = frozenset({*HANDLERS, "START_TRAINING"})


def services() -> Services:
    """What this app works with."""
    found: Services = current_app.extensions["pixbal"]
    return found


@routes.get("/")
@routes.get("/health")
def health() -> Response:
    """Alive, and the store answers; a store that does not makes it 503."""
    services().store.ping()
    return jsonify(status="UP", model_class="PixBal")


@routes.post("/setup")
def setup() -> Response:
    """The version Label Studio shows. `access_token` and `hostname` are not looked at."""
    body = bodies.read_json(request)
    return jsonify(model_version=shown_version(services().store, _project(body)))


@routes.get("/versions")
def versions() -> Response:
    """Names of the published versions: of every project, since Label Studio names none."""
    store = services().store
    asked = request.args.get("project")
    ids = [project_id(asked)] if asked else [project.id for project in store.projects()]
    names = [version.name for i in ids for version in store.versions(i)]
    return jsonify(versions=list(dict.fromkeys(names)))


@routes.post("/predict")
def predict() -> Response:
    """One prediction per task, in their order."""
    body = bodies.read_json(request, bodies.MAX_PREDICT_BODY)
    project = _project(body)
    label_config = bodies.member(body, "label_config", str)
    tasks = predicted_tasks(body)
    if project.template in REGION_TEMPLATES:
        check_config(project, label_config)
        results = region_predictions(services().store, project, tasks)
    elif project.template == "image_masks":
        from ml_backend.mask_predictions import mask_predictions

        here = services()
        results = mask_predictions(here.settings, here.store, project, label_config, tasks)
    else:
        raise Conflict(f"Projects of the template {project.template!r} get no predictions.")
    return jsonify(results=results)


@routes.post("/webhook")
def webhook() -> tuple[Response, int]:
    """Store the event and answer; the worker applies it. A second delivery changes nothing."""
    body = bodies.read_json(request)
    action = bodies.member(body, "action", str)
    if not ACTION.fullmatch(action):
        raise BadRequest(f"Expected an action in capitals, got {action[:80]!r}.")
    number = positive_int(bodies.member(body, "project", dict).get("id"), "project.id")
    if action not in STORED_ACTIONS:
        return jsonify(ok=True, stored=False), 200
    payload = stored_payload(action, number, body)
    project = services().store.project(number)
    if project is None:
        raise _unknown(number)
    if project.template == "image_masks":
        # Masks teach nothing here, and with them each event would be megabytes.
        return jsonify(ok=True, stored=False), 200
    event, is_new = services().store.record_event(number, action, payload)
    return jsonify(ok=True, stored=True, new=is_new, event=event.id), 201 if is_new else 200


@routes.post("/job_status")
def job_status() -> Response:
    """The newest round of the project, or of every project where none is named."""
    has_body = request.content_length or "Transfer-Encoding" in request.headers
    body = bodies.read_json(request) if has_body else {}
    store = services().store
    known = [_project(body)] if "project" in body else store.projects()
    last = [rounds[-1] for project in known if (rounds := store.rounds(project.id))]
    records = [jsonable(asdict(row)) for row in last]
    running = [row for row in records if row["state"] not in ("done", "failed")]
    return jsonify(ok=True, round=(running or records or [None])[0], rounds=records)


@routes.get("/media/<signature>/<int:project>/<image_id>/<int:index>/<kind>.jpg")
def media(signature: str, project: int, image_id: str, index: int, kind: str) -> Response:
    """A region picture. Label Studio's page fetches it from another origin, hence CORS."""
    here = services()
    data = picture(here.settings, here.store, signature, project, image_id, index, kind)
    response = Response(data, mimetype="image/jpeg")
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response


def current_version(project: Project) -> str:
    """The version in use; "r0" stands for "no model yet"."""
    return project.model_version or NO_MODEL


def shown_version(store: Store, project: Project) -> str:
    """The version whose predictions Label Studio shows: of masks, the one that would draw them."""
    if project.template != "image_masks":
        return current_version(project)
    from ml_backend.mask_predictions import serving_version

    try:
        return serving_version(store, project).name
    except NotReady:
        return NO_MODEL


def check_config(project: Project, label_config: str) -> None:
    """Refuse a labelling setup whose answers would mean something else than the project's.

    Colours, hotkeys, texts and style may differ.

    Raises:
        Conflict: it is no setup of ours any more, or of other classes.
    """
    hint = f"Put the labelling setup of project {project.id} back; `pixbal doctor` shows it."
    try:
        parsed = _parsed(label_config)
    except LabelConfigError as error:
        raise Conflict(f"The labelling setup was changed: {error}", hint) from error
    schema = ClassSchema.from_json(project.schema_json)
    found = (parsed.template, parsed.schema.names, parsed.schema.undefined)
    if found != (project.template, schema.names, schema.undefined):
        raise Conflict("The classes of the labelling setup are not those of the project.", hint)


# The setup comes with every request and hardly ever changes.
_parsed = lru_cache(maxsize=32)(read)


def region_predictions(
    store: Store, project: Project, tasks: list[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Predictions of stored questions; a task that asks none of them gets an empty one."""
    schema = ClassSchema.from_json(project.schema_json)
    version = current_version(project)
    by_task = store.queries_by_task(project.id, [task["id"] for task in tasks])
    results = []
    for task in tasks:
        query = by_task.get(task["id"]) or _query_by_region(store, project, task.get("data"))
        results.append(
            region_prediction(query, schema, project.template, version)
            if query
            else no_prediction(version)
        )
    return results


def _query_by_region(store: Store, project: Project, data: Any) -> Query | None:
    """By the region the task names; for a task whose id did not reach the store yet."""
    if not isinstance(data, Mapping) or not isinstance(data.get("region"), str):
        return None
    image_id, _, index = data["region"].rpartition(":")
    if not re.fullmatch(r"\d{1,9}", index, re.ASCII) or not IMAGE_ID.fullmatch(image_id):
        return None
    region = RegionId(image_id, int(index))
    asking = data.get("asking", 1)
    if not isinstance(asking, int) or isinstance(asking, bool) or not 0 < asking < 2**31:
        return None
    query = store.query_by_region(project.id, region.image_id, region.index, asking)
    return query if query and query.regions_hash == data.get("regions_hash") else None


def _project(body: Mapping[str, Any]) -> Project:
    number = project_id(bodies.member(body, "project", (str, int)))
    project = services().store.project(number)
    if project is None:
        raise _unknown(number)
    return project


def _unknown(number: int) -> NotFound:
    return NotFound(
        f"Project {number} is unknown here.",
        "Connect it with `pixbal init`; a backend added by hand knows no images.",
    )


def jsonable(value: Any) -> Any:
    """A value as JSON has it: times as text, and null for numbers JSON does not know."""
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and value - value != 0.0:  # infinite or not a number
        return None
    return value
