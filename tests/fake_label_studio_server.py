"""The state of a Label Studio 1.23 on SQLite, in memory: what its API does to it.

`test_fake_contract` holds it against a real server.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from xml.etree import ElementTree

from fake_label_studio_faults import Faults, HttpError, Kind, Rule

T = TypeVar("T")
Row = dict[str, Any]
SAMPLINGS = ("Sequential sampling", "Uniform sampling", "Uncertainty sampling")
OWNER = 1  # whose token the client has
_NOT_FOUND = {"detail": "Not found."}


def invalid(**errors: object) -> HttpError:
    """The answer to a body that breaks a rule."""
    return HttpError(400, {"detail": "Validation error", "validation_errors": errors})


@dataclass
class FakeTask:
    """A task with its predictions; its annotations are the project's."""

    id: int
    data: Any
    created_at: datetime
    updated_at: datetime
    predictions: list[Row] = field(default_factory=list)


@dataclass
class FakeProject:
    """A project with everything in it."""

    id: int
    fields: Row
    tasks: dict[int, FakeTask] = field(default_factory=dict)
    annotations: dict[int, Row] = field(default_factory=dict)
    webhooks: dict[int, Row] = field(default_factory=dict)
    ml_backends: dict[int, Row] = field(default_factory=dict)
    storages: dict[int, Row] = field(default_factory=dict)

    def of_task(self, task_id: int) -> list[Row]:
        """The annotations of a task, skips included, the oldest first."""
        return [a for _, a in sorted(self.annotations.items()) if a["task"] == task_id]

    def versions(self) -> dict[str, int]:
        """How many predictions each version has."""
        found: dict[str, int] = {}
        for task in self.tasks.values():
            for prediction in task.predictions:
                name = prediction["model_version"]
                found[name] = found.get(name, 0) + 1
        return found


@dataclass
class FakeServer:
    """Label Studio itself; `FakeLabelStudio` is a client of it, and there may be several.

    Args:
        now: the server's clock, UTC.
        sleep: how time passes in a slow request.
        draw: for the orders that Label Studio leaves to chance.
    """

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = lambda seconds: None
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    projects: dict[int, FakeProject] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    release: str = "1.23.2"
    # What its webhooks would send: (action, payload).
    said: list[tuple[str, Row]] = field(default_factory=list)
    # What was asked of it: (method, project, what was sent).
    requests: list[tuple[str, int | None, Any]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.faults = Faults(self.sleep)
        self._last: dict[str, int] = {}
        self._locks: dict[int, int] = {}  # user -> the task handed out to him
        self._latest = datetime.min.replace(tzinfo=UTC)

    # -- faults -------------------------------------------------------------------------------

    def fail(self, method: str, code: int = 500, **rule: Any) -> Rule:
        """The next requests of a method ("*": all) are refused; see `Rule` for the rest."""
        return self.faults.add(Kind.STATUS, method, code=code, **rule)

    def half_make(self, method: str, code: int = 500, **rule: Any) -> Rule:
        """It is done, and refused all the same."""
        return self.faults.add(Kind.HALF, method, code=code, **rule)

    def go_away(self, method: str = "*", *, times: int | None = None, **rule: Any) -> Rule:
        """Nobody listens, for ever unless `times` is given."""
        return self.faults.add(Kind.AWAY, method, times=times, **rule)

    def reset(self, method: str, **rule: Any) -> Rule:
        """Connections break before anything is done."""
        return self.faults.add(Kind.RESET, method, **rule)

    def lose_answer(self, method: str, **rule: Any) -> Rule:
        """It is done, and the caller never hears of it."""
        return self.faults.add(Kind.LOST, method, **rule)

    def double(self, method: str, **rule: Any) -> Rule:
        """It is done twice, as where something between repeats a request."""
        return self.faults.add(Kind.TWICE, method, **rule)

    def slow(self, method: str, seconds: float, **rule: Any) -> Rule:
        """It takes so long; longer than the client waits, and the answer is lost."""
        return self.faults.add(Kind.SLOW, method, seconds=seconds, **rule)

    def before(self, method: str, call: Callable[[], object], **rule: Any) -> Rule:
        """Somebody does something just before the request is served."""
        return self.faults.add(Kind.BEFORE, method, call=call, **rule)

    def after(self, method: str, call: Callable[[], object], **rule: Any) -> Rule:
        """Somebody does something when the request is served and the answer still on its way."""
        return self.faults.add(Kind.AFTER, method, call=call, **rule)

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self.faults.rules.clear()

    def asked(self, *methods: str, project: int | None = None) -> list[tuple[str, Any]]:
        """Requests so far, of these methods: (method, what was sent)."""
        return [
            (name, sent)
            for name, about, sent in self.requests
            if name in methods and project in (None, about)
        ]

    def serve(
        self, method: str, project: int | None, sent: Any, timeout_s: float, do: Callable[[], T]
    ) -> T:
        """One request: noted, then done or failed; HttpError or an error of httpx."""
        with self.lock:
            self.requests.append((method, project, deepcopy(sent)))
            return self.faults.pass_through(method, project, timeout_s, do)

    # -- what people do in the browser --------------------------------------------------------

    def annotate(
        self,
        task_id: int,
        result: Sequence[Row],
        *,
        skip: bool = False,
        user: int = OWNER,
        lead_time: float = 1.0,
        annotation_id: int | None = None,
        updated_at: object = None,
    ) -> Row:
        """Submit (or skip) a task; an id or a time may be given where a test needs it."""
        with self.lock:
            project = self._project_of_task(task_id)
            made_at = self._tick()
            annotation = {
                "id": annotation_id or self._next("annotation"),
                "task": task_id,
                "project": project.id,
                "result": deepcopy(list(result)),
                "was_cancelled": skip,
                "completed_by": user,
                "lead_time": lead_time,
                "created_at": text_of(made_at),
                "updated_at": text_of(made_at) if updated_at is None else updated_at,
                "ground_truth": False,
                "parent_prediction": None,
            }
            project.annotations[int(annotation["id"])] = annotation
            project.tasks[task_id].updated_at = made_at
            if self._locks.get(user) == task_id:
                del self._locks[user]
            self._say("ANNOTATION_CREATED", project, annotation=annotation, task={"id": task_id})
            return deepcopy(annotation)

    def change(self, annotation_id: int, **fields: Any) -> Row:
        """Update an annotation: its result, `was_cancelled` ..."""
        with self.lock:
            project, annotation = self._find_annotation(annotation_id)
            moved = self._tick()
            annotation.update({"updated_at": text_of(moved), **deepcopy(fields)})
            project.tasks[annotation["task"]].updated_at = moved
            about = {"id": annotation["task"]}
            self._say("ANNOTATION_UPDATED", project, annotation=annotation, task=about)
            return deepcopy(annotation)

    def delete_annotation(self, annotation_id: int) -> None:
        """Delete an annotation."""
        with self.lock:
            project, annotation = self._find_annotation(annotation_id)
            del project.annotations[annotation_id]
            project.tasks[annotation["task"]].updated_at = self._tick()
            self._say("ANNOTATIONS_DELETED", project, annotations=[{"id": annotation_id}])

    def delete_tasks(self, project_id: int, ids: Collection[int]) -> None:
        """Delete tasks with their annotations; those that are not there are no error."""
        project = self.project(project_id)
        gone = sorted(set(ids) & project.tasks.keys())
        for task_id in gone:
            del project.tasks[task_id]
        project.annotations = {
            i: a for i, a in project.annotations.items() if a["task"] in project.tasks
        }
        if gone:
            self._say("TASKS_DELETED", project, tasks=[{"id": i} for i in gone])

    def delete_project(self, project_id: int) -> None:
        """Delete a project with everything in it."""
        self.project(project_id)
        del self.projects[project_id]

    # -- set-up of a test ---------------------------------------------------------------------

    def add_project(self, project_id: int, label_config: str = "<View/>", **fields: Any) -> Row:
        """A project with a chosen id."""
        self._last["project"] = max(self._last.get("project", 0), project_id)
        made = {
            "id": project_id,
            "title": f"project {project_id}",
            "label_config": label_config,
            "sampling": SAMPLINGS[0],
            "model_version": "",
            "show_collab_predictions": True,
            "maximum_annotations": 1,
            "expert_instruction": "",
            "show_instruction": False,
            **fields,
        }
        self.projects[project_id] = FakeProject(project_id, made)
        return made

    def add_task(
        self, project_id: int, task_id: int, data: Any, predictions: Sequence[Row] = ()
    ) -> FakeTask:
        """A task with a chosen id."""
        now = self._tick()
        rows = [{"id": self._next("prediction"), **deepcopy(row)} for row in predictions]
        made = FakeTask(task_id, deepcopy(data), now, now, rows)
        self.projects[project_id].tasks[task_id] = made
        return made

    # -- what the API does --------------------------------------------------------------------

    def create_project(self, fields: Row) -> int:
        """Make a project; its id is never that of another one."""
        if len(str(fields.get("title", ""))) < 3:
            raise invalid(title=["Ensure this field has at least 3 characters."])
        self._check_fields(None, fields)
        number = self._next("project")
        self.add_project(number, **fields)
        return number

    def project(self, project_id: int) -> FakeProject:
        """A project, or 404."""
        found = self.projects.get(project_id)
        if found is None:
            raise HttpError(404, _NOT_FOUND)
        return found

    def describe_project(self, project_id: int) -> Row:
        """The project as the API sends it."""
        project = self.project(project_id)
        return {**deepcopy(project.fields), "task_number": len(project.tasks)}

    def update_project(self, project_id: int, fields: Row) -> None:
        """Change fields."""
        project = self.project(project_id)
        self._check_fields(project, fields)
        if fields.get("show_collab_predictions") is False:
            project.fields["model_version"] = ""
        project.fields.update(deepcopy(fields))
        if not project.fields["show_collab_predictions"]:
            project.fields["model_version"] = ""

    def validate_config(self, project_id: int, label_config: str) -> None:
        """Refuse a setup that is not one, or that lacks the controls of annotations."""
        self._check_config(self.project(project_id), label_config)

    def import_tasks(self, project_id: int, tasks: Sequence[Row]) -> list[int]:
        """Add tasks; on SQLite the first id follows the highest of all projects."""
        project = self.project(project_id)
        wanted = keys_of(str(project.fields["label_config"]))
        for number, task in enumerate(tasks):
            missing = [key for key in wanted if key not in (task.get("data") or {})]
            if missing:
                raise invalid(
                    non_field_errors=[f'Error at item {number}: "{missing[0]}" key is expected']
                )
        highest = max((i for p in self.projects.values() for i in p.tasks), default=0)
        ids = [highest + 1 + offset for offset in range(len(tasks))]
        last_version = None
        for task_id, task in zip(ids, tasks, strict=True):
            made = self.add_task(project_id, task_id, task.get("data"))
            for prediction in task.get("predictions") or ():
                made.predictions.append(self._prediction(prediction))
                last_version = made.predictions[-1]["model_version"]
        if not project.fields["model_version"] and last_version is not None:
            project.fields["model_version"] = last_version
        return ids

    def import_predictions(self, project_id: int, predictions: Sequence[Row]) -> int:
        """Add predictions to tasks; those with a score outside [0, 1] are dropped."""
        project = self.project(project_id)
        for prediction in predictions:
            if prediction.get("task") not in project.tasks:
                raise HttpError(400, {"detail": f'{prediction} contains invalid "task" field'})
        good = [p for p in predictions if p.get("score") is None or 0 <= p["score"] <= 1]
        for prediction in good:
            task = project.tasks[prediction["task"]]
            task.predictions.append(self._prediction(prediction))
        return len(good)

    def next_task(self, project_id: int, user: int = OWNER) -> Row:
        """What "Label All Tasks" hands out; locked for this user."""
        project = self.project(project_id)
        solved = {a["task"] for a in project.annotations.values() if a["completed_by"] == user}
        labelled = {a["task"] for a in project.annotations.values() if not a["was_cancelled"]}
        left = [t for i, t in sorted(project.tasks.items()) if i not in solved | labelled]
        mine = [t for t in left if t.id == self._locks.get(user)]
        taken = {task_id for other, task_id in self._locks.items() if other != user}
        free = mine or self._ordered(project, [t for t in left if t.id not in taken])
        if not free:
            raise HttpError(404, {"detail": f"There are no tasks for user{user}@example.com"})
        self._locks[user] = free[0].id
        return {"id": free[0].id, "data": deepcopy(free[0].data), "project": project_id}

    def _ordered(self, project: FakeProject, tasks: list[FakeTask]) -> list[FakeTask]:
        sampling, version = project.fields["sampling"], project.fields["model_version"]
        if sampling == SAMPLINGS[0]:
            return tasks
        scores = {
            t.id: [p["score"] for p in t.predictions if p["model_version"] == version]
            for t in tasks
        }
        if sampling == SAMPLINGS[2] and any(scores.values()):
            scored = [t for t in tasks if scores[t.id]]
            # No score comes first, as SQLite orders nothing before numbers.
            return sorted(
                scored,
                key=lambda t: min(-float("inf") if s is None else s for s in scores[t.id]),
            )
        return self.draw.sample(tasks, len(tasks))

    def add_webhook(self, project_id: int, fields: Row) -> Row:
        """Make a webhook."""
        return self._add("webhook", self.project(project_id).webhooks, fields)

    def add_ml_backend(self, project_id: int, fields: Row) -> Row:
        """Connect an ML backend, which leaves traces: a webhook, and its title as version."""
        project = self.project(project_id)
        row = {"state": "CO", "readable_state": "Connected", "error_message": None, **fields}
        made = self._add("ml_backend", project.ml_backends, row)
        hook = f"{str(row['url']).rstrip('/')}/webhook"
        if all(h["url"] != hook for h in project.webhooks.values()):
            self.add_webhook(
                project_id,
                {"url": hook, "headers": {}, "actions": [], "is_active": True,
                 "send_for_all_actions": True, "send_payload": True},
            )  # fmt: skip
        if project.fields["show_collab_predictions"] and not project.fields["model_version"]:
            project.fields["model_version"] = row["title"]
        return made

    def update_ml_backend(self, backend_id: int, fields: Row) -> None:
        """Change an ML backend; without its address and project that is a 500."""
        if "url" not in fields or "project" not in fields:
            raise HttpError(500, "healthcheck_() missing 1 required positional argument: 'url'")
        row = self.row("ml_backends", backend_id)
        project = self.project(fields["project"])
        before = row["title"]
        row.update(deepcopy(fields))
        if project.fields["model_version"] == before:
            project.fields["model_version"] = row["title"]

    def row(self, table: str, row_id: int) -> Row:
        """A webhook, ML backend or storage by its id, or 404."""
        for project in self.projects.values():
            rows: dict[int, Row] = getattr(project, table)
            if row_id in rows:
                return rows[row_id]
        raise HttpError(404, _NOT_FOUND)

    def rows(self, table: str, project_id: int) -> Callable[[], list[Row]]:
        """Reads webhooks, ML backends or storages of a project, once it is asked."""
        return lambda: list(deepcopy(getattr(self.project(project_id), table)).values())

    def owner(self, table: str, row_id: int) -> int | None:
        """The project that has such a row, or task."""
        found = (i for i, p in self.projects.items() if row_id in getattr(p, table))
        return next(found, None)

    def delete_row(self, table: str, row_id: int) -> None:
        """Delete one of them."""
        row = self.row(table, row_id)
        for project in self.projects.values():
            if getattr(project, table).pop(row_id, None) is None or table != "ml_backends":
                continue
            if project.fields["model_version"] == row["title"]:
                project.fields["model_version"] = ""

    def add_storage(self, project_id: int, fields: Row) -> Row:
        """Make a local storage."""
        return self._add("storage", self.project(project_id).storages, fields)

    def annotations_of(self, task_id: int) -> list[Row]:
        """The annotations of a task."""
        return deepcopy(self._project_of_task(task_id).of_task(task_id))

    def predictions_of(self, task_id: int) -> list[Row]:
        """The predictions of a task, the oldest first; 400 where it is not there."""
        for project in self.projects.values():
            if task_id in project.tasks:
                rows = project.tasks[task_id].predictions
                return [{**deepcopy(row), "task": task_id} for row in rows]
        raise invalid(
            task=["Select a valid choice. That choice is not one of the available choices."]
        )

    def update_prediction(self, prediction_id: int, fields: Row) -> Row:
        """Change a prediction; its task counts as changed."""
        for project in self.projects.values():
            for task in project.tasks.values():
                for row in task.predictions:
                    if row["id"] == prediction_id:
                        row.update(deepcopy(fields))
                        task.updated_at = self._tick()
                        return deepcopy(row)
        raise HttpError(404, _NOT_FOUND)

    # -- inside -------------------------------------------------------------------------------

    def _check_fields(self, project: FakeProject | None, fields: Row) -> None:
        if fields.get("sampling") not in (None, *SAMPLINGS):
            raise invalid(sampling=[f'"{fields["sampling"]}" is not a valid choice.'])
        if "label_config" in fields:
            self._check_config(project, fields["label_config"])
        wanted = fields.get("model_version")
        if project is None or not wanted or wanted == project.fields["model_version"]:
            return
        titles = {row["title"] for row in project.ml_backends.values()}
        if wanted not in titles | project.versions().keys():
            says = "Model version doesn't exist either as live model or as static predictions."
            raise invalid(model_version=[says])

    def _check_config(self, project: FakeProject | None, label_config: str) -> None:
        try:
            tree = ElementTree.fromstring(label_config)
        except ElementTree.ParseError as error:
            raise invalid(label_config=[f"Validation failed: {error}"]) from error
        names = {tag.get("name") for tag in tree.iter()}
        for annotation in project.annotations.values() if project else ():
            for item in annotation["result"]:
                if item["from_name"] not in names:
                    says = f"Created annotations are incompatible: {item['from_name']}"
                    raise invalid(label_config=[says])

    def _prediction(self, sent: Mapping[str, Any]) -> Row:
        return {
            "id": self._next("prediction"),
            "result": deepcopy(sent["result"]),
            "score": sent.get("score"),
            "model_version": sent.get("model_version", "undefined"),
        }

    def _add(self, kind: str, rows: dict[int, Row], fields: Row) -> Row:
        made = {"id": self._next(kind), **deepcopy(fields)}
        rows[made["id"]] = made
        return made

    def _next(self, kind: str) -> int:
        """Ids of everything but tasks are never used again."""
        self._last[kind] = self._last.get(kind, 0) + 1
        return self._last[kind]

    def _tick(self) -> datetime:
        """The time; never the same twice, since real requests take some."""
        earliest = self._latest + datetime.resolution
        self._latest = max(self.now(), earliest)
        return self._latest

    def _project_of_task(self, task_id: int) -> FakeProject:
        for project in self.projects.values():
            if task_id in project.tasks:
                return project
        raise HttpError(404, _NOT_FOUND)

    def _find_annotation(self, annotation_id: int) -> tuple[FakeProject, Row]:
        for project in self.projects.values():
            if annotation_id in project.annotations:
                return project, project.annotations[annotation_id]
        raise HttpError(404, _NOT_FOUND)

    def _say(self, action: str, project: FakeProject, **payload: Any) -> None:
        about = {"id": project.id, "title": project.fields["title"]}
        message = {"action": action, "project": about, **payload}
        self.said.append((action, deepcopy(message)))


def keys_of(label_config: str) -> list[str]:
    """Task data keys that a setup needs: the values of its objects, "$key"."""
    try:
        tags = ElementTree.fromstring(label_config).iter()
    except ElementTree.ParseError:
        return []
    values = [str(tag.get("value", "")) for tag in tags if tag.get("name")]
    return [value[1:] for value in values if value.startswith("$")]


def text_of(when: datetime) -> str:
    """A time as the API writes it."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
