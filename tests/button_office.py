"""An office of workers, annotators and an admin over a fake Label Studio, for any order of acts.

The store, the worker's logic, `init` and the steps of a round are the real ones; training is quick
(`quick_trainer`), an engine's turn comes when its worker's look is over (`button_engine`), and the
steady clock is handed in.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from backend_helpers import make_settings
from button_engine import Book, Killed, TurnEngine
from fake_label_studio import FakeLabelStudio
from fake_label_studio_server import OWNER, FakeServer
from quick_trainer import QuickTrainer
from sqlalchemy.exc import DBAPIError

from label_config import Answer, ClassSchema, answer_result, read_answer
from ml_backend import ask_again, asking, project_states, version_use
from ml_backend.change_project import change_project
from ml_backend.classes import append_classes
from ml_backend.copies import question, question_of
from ml_backend.engine import Engine
from ml_backend.errors import BackendError, LeaseLost
from ml_backend.forget import FOLDERS, forget
from ml_backend.images import add_images, remove_images
from ml_backend.init import InitRequest, initialise
from ml_backend.leases import Keeper
from ml_backend.player import Player
from ml_backend.predictions import NO_MODEL
from ml_backend.push_now import push_now
from ml_backend.round_steps import why_no_push
from ml_backend.runtime import Runtime
from ml_backend.state import Step, next_step
from ml_backend.store import Project, Round, Store
from ml_backend.worker import Worker
from training.errors import TrainingError
from training.regions import RegionId

LOOK_S = 15.0  # between two looks of a worker: longer than any of its own pauses but back-off
BEATS = 6  # after so many without a sign of its holder a lease is lost
PATIENCE_S = 700.0  # longer than the longest back-off
EXPECTED = (BackendError, TrainingError, DBAPIError)


class Unexpected(logging.Handler):
    """Errors that the worker survives and that nobody raised on purpose."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, EXPECTED):
            self.found.append(f"{record.getMessage()}: {error!r}")


@dataclass
class Office:
    """One home, one Label Studio, workers "a" and "b".

    Attributes:
        late: messages of webhooks that are still on their way.
        done: rounds that were seen done, as they were then.
        answers: by project, the annotations that nobody has deleted.
        chosen: by project, the version that was put in use, and how many there were then.
        idle: by project that is paused or archived, what was asked and trained until then.
        forgotten: projects that are to have left nothing.
    """

    home: Path
    images: Path
    classes: Path
    trainer: QuickTrainer = field(default_factory=QuickTrainer)
    server: FakeServer = field(default_factory=FakeServer)
    book: Book = field(default_factory=Book)
    workers: dict[str, Worker] = field(default_factory=dict)
    late: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    done: dict[tuple[int, int], Round] = field(default_factory=dict)
    answers: dict[int, set[int]] = field(default_factory=dict)
    chosen: dict[int, tuple[str, int]] = field(default_factory=dict)
    idle: dict[int, Any] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.settings = make_settings(
            self.home, PIXBAL_RETRY_S="10", PIXBAL_RECONCILE_S="10", PIXBAL_DEVICE="cpu"
        )
        self.store = Store.open(self.settings.database_url)
        self.ls = FakeLabelStudio(self.server)
        self.unexpected = Unexpected()
        logging.getLogger("ml_backend").addHandler(self.unexpected)

    def close(self) -> None:
        logging.getLogger("ml_backend").removeHandler(self.unexpected)
        self.store.close()

    # -- the admin ----------------------------------------------------------------------------

    def tell(self, act: Callable[[], object]) -> bool:
        """Whether it was done; an error must say what to do."""
        said: BackendError | None = None
        try:
            act()
        except Killed:
            return False
        except BackendError as error:
            said = error
        assert said is None or said.hint, f"{said} does not say what to do"
        return said is None

    def init(self, title: str, *, push: bool = True) -> bool:
        """`pixbal init`."""
        request = InitRequest(
            classes=str(self.classes), images=(str(self.images),), title=title, budget=3,
            method="grid", side=8, config="demo", push=push,
        )  # fmt: skip
        return self.tell(lambda: initialise(self.settings, self.store, self.ls, request))

    def push_command(self, project_id: int) -> bool:
        """`pixbal push`."""
        runtime = Runtime(self.settings, self.store, self.ls)
        return self.tell(lambda: push_now(runtime, project_id))

    def ask_again(self, project_id: int, way: str, number: int) -> bool:
        """`pixbal ask-again` of a task, of an annotator's last answers, or of what is flagged."""
        runtime, project = Runtime(self.settings, self.store, self.ls), self.project(project_id)

        def act() -> None:
            wanted: list[tuple[RegionId, str]]
            if way == "task":
                tasks = [q.task_id for q in self.store.queries(project_id) if q.task_id]
                task = tasks[number % len(tasks)] if tasks else 1
                wanted = ask_again.by_task(self.store, project_id, task)
            elif way == "annotator":
                last = number % 3 + 1
                wanted = ask_again.by_annotator(self.store, project_id, str(OWNER), last)
            else:
                wanted = ask_again.by_flags(self.store, project)
            ask_again.ask_again(runtime, project, wanted)

        return self.tell(act)

    def activate(self, project_id: int, number: int) -> bool:
        """`pixbal version activate`: forth or back."""
        versions = self.store.versions(project_id)
        name = versions[number % len(versions)].name if versions else "r9"
        done = self.tell(lambda: version_use.activate(self.store, project_id, name))
        if done:
            self.chosen[project_id] = name, len(versions)
        return done

    def move(self, project_id: int, how: str) -> bool:
        """`pixbal project pause`, `resume` or `archive`."""
        move = {"pause": project_states.pause, "resume": project_states.resume,
                "archive": project_states.archive}[how]  # fmt: skip
        return self.tell(lambda: move(self.store, project_id))

    def forget(self, project_id: int, *, typed: bool = True) -> bool:
        """`pixbal project forget`; where the title is typed wrong, nothing is to happen."""
        title = self.project(project_id).title if typed else "another one"
        done = self.tell(
            lambda: forget(
                self.settings, self.store, lambda: self.ls, project_id, title, alive=lambda: True
            )
        )
        assert not (done and not typed)
        if done:
            self.forgotten.add(project_id)
            for key in [key for key in self.done if key[0] == project_id]:
                del self.done[key]
        return done

    def change(self, project_id: int, name: str, value: str) -> bool:
        """`pixbal project set`."""
        return self.tell(
            lambda: change_project(
                self.settings, self.store, lambda: self.ls, project_id, {name: value},
                check_model=lambda model: None,
            )
        )  # fmt: skip

    def remove_image(self, project_id: int, number: int) -> bool:
        """`pixbal images remove`."""
        images = self.store.images(project_id, split="pool")
        chosen = images[number % len(images)]
        return self.tell(lambda: remove_images(self.store, self.ls, project_id, [chosen]))

    def add_images(self, project_id: int) -> bool:
        """`pixbal images add`: those that were removed come back."""
        project, folder = self.project(project_id), str(self.images)
        return self.tell(lambda: add_images(self.settings, self.store, self.ls, project, [folder]))

    def append_class(self, project_id: int, name: str) -> bool:
        """`pixbal classes append`."""
        project = self.project(project_id)
        return self.tell(
            lambda: append_classes(self.settings, self.store, self.ls, project, [name])
        )

    def button(self, project_id: int, action: str) -> None:
        """A button on the page, or "Start training" in Label Studio."""
        asking.ask(self.store, project_id, action)

    # -- the annotators -----------------------------------------------------------------------

    def hear(self, how: str) -> None:
        """The last message of a webhook: delivered now, twice, late, or never."""
        action, payload = self.server.said[-1]
        if how == "late":
            self.late.append((action, payload))
        for _ in range({"now": 1, "twice": 2}.get(how, 0)):
            self.store.record_event(payload["project"]["id"], action, payload)

    def hear_late(self, number: int) -> None:
        """One of the messages that were on their way."""
        if self.late:
            action, payload = self.late.pop(number % len(self.late))
            self.store.record_event(payload["project"]["id"], action, payload)

    def schema(self, project: Project) -> ClassSchema:
        return ClassSchema.from_json(project.schema_json)

    def ticks(self, project_id: int, answer: Answer) -> list[dict[str, Any]]:
        """What is submitted."""
        project = self.project(project_id)
        found: list[dict[str, Any]] = answer_result(answer, self.schema(project), project.template)
        return found

    def unanswered(self, project_id: int) -> list[int]:
        """Tasks that an annotator can be handed."""
        there = self.server.projects.get(project_id)
        if there is None:
            return []
        return [task for task in sorted(there.tasks) if not there.of_task(task)]

    def annotate(
        self, project_id: int, task_id: int, answer: Answer, skip: bool, lead_time: float = 4.0
    ) -> None:
        """Somebody submits or skips."""
        result = self.ticks(project_id, answer)
        made = self.server.annotate(task_id, result, skip=skip, lead_time=lead_time)
        self.answers.setdefault(project_id, set()).add(made["id"])

    def answer_batch(self, project_id: int, answers: Sequence[Answer]) -> None:
        """Somebody answers whatever there is, and every message arrives."""
        for number, task in enumerate(self.unanswered(project_id)):
            self.annotate(project_id, task, answers[number % len(answers)], skip=False)
            self.hear("now")

    def delete_annotation(self, project_id: int, annotation_id: int) -> None:
        self.server.delete_annotation(annotation_id)
        self.answers[project_id].discard(annotation_id)

    def delete_task(self, project_id: int, task_id: int) -> None:
        there = self.server.projects[project_id]
        gone = {annotation["id"] for annotation in there.of_task(task_id)}
        self.server.delete_tasks(project_id, [task_id])
        self.answers[project_id] = self.answers.get(project_id, set()) - gone

    def delete_project(self, project_id: int) -> None:
        self.server.delete_project(project_id)
        self.answers.pop(project_id, None)

    # -- the workers --------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a worker; one of this name that runs is killed first."""
        self.workers.pop(name, None)
        keeper = Keeper(self.store, name, self.settings.lease_s, clock=self.clock)
        runtime = Runtime(replace(self.settings, worker_id=name), self.store, self.ls)
        engine: Engine = TurnEngine(Player(runtime, keeper, on_lost=_end), self.book)
        worker = Worker(runtime, keeper, engine, clock=self.clock)
        keeper.start()
        self.workers[name] = worker

    def kill(self, name: str) -> None:
        """kill -9: nothing is given back."""
        self.workers.pop(name, None)

    def clock(self) -> float:
        return self.seconds

    def look(self, name: str, passed_s: float = LOOK_S) -> None:
        """What a worker does when it looks, and then what its engine has queued."""
        worker = self.workers.get(name)
        if worker is None:
            self.seconds += passed_s
            return
        try:
            self._pass(passed_s)
            worker.rescue.look()
            worker.tick()
            worker.engine.run()  # type: ignore[attr-defined]
        except (Killed, LeaseLost):
            self.kill(name)
        except (BackendError, DBAPIError):
            pass  # as in Worker.run
        finally:
            self.server.faults.rules[:] = [r for r in self.server.faults.rules if r.times != 0]

    def answer_copies(self) -> None:
        """Somebody answers the newest of the tasks that ask one question, if nobody did."""
        for project_id, there in self.server.projects.items():
            asked: dict[Any, list[int]] = {}
            for task in there.tasks.values():
                asked.setdefault(question_of({"data": task.data}), []).append(task.id)
            for tasks in asked.values():
                if len(tasks) > 1 and not there.of_task(max(tasks)):
                    self.annotate(project_id, max(tasks), Answer("classes", ("Grass",)), False)

    def pushed_twice(self) -> None:
        """The next tasks are made twice, and copies are answered when a walk has seen them."""
        self.server.double("import_tasks")
        self.server.after("tasks", self.answer_copies, times=None)

    def _pass(self, seconds: float) -> None:
        """Time passes; hearts beat meanwhile, or all would seem to have stood still."""
        beats = 1 if seconds <= LOOK_S else BEATS
        for _ in range(beats):
            self.seconds += seconds / beats
            for beating in self.workers.values():
                beating.keeper.beat()

    def die_at(self, name: str, step: str) -> None:
        """The worker will end before this step of a round."""
        worker = self.workers.get(name)
        if worker is not None:
            worker.engine.dies_before = step  # type: ignore[attr-defined]

    def kill_at(self, method: str, *, after: bool) -> None:
        """Whoever makes this request next is killed, before it or when it is served."""

        def end() -> NoReturn:
            raise Killed(method)

        add = self.server.after if after else self.server.before
        add(method, end)

    def settle(self) -> None:
        """Nothing goes wrong any more, time passes, and the workers look until all is quiet."""
        self.server.heal()
        self.trainer.fails.clear()
        if not self.workers:
            self.start("a")
        for worker in self.workers.values():
            worker.engine.dies_before = None  # type: ignore[attr-defined]
        while self.late:
            self.hear_late(0)
        before: Any = None
        quiet = 0
        for _ in range(60):
            for name in list(self.workers):
                self.look(name, PATIENCE_S)
            now = self.fingerprint()
            quiet = quiet + 1 if now == before else 0
            if quiet == 3:
                return
            before = now
        raise AssertionError(f"it never comes to rest; the last difference: {now}")

    def fingerprint(self) -> Any:
        """What may not change while nobody does anything: rows, tasks, and what was worked."""
        store = self.store
        return (
            [replace(p, trouble_at=None) for p in store.projects()],
            [row for p in store.projects() for row in store.queries(p.id)],
            [row for p in store.projects() for row in store.rounds(p.id)],
            [(number, sorted(p.tasks)) for number, p in self.server.projects.items()],
            len(self.trainer.scored),
            len(self.trainer.trained),
            len(self.server.asked("import_tasks", "import_predictions", "delete_tasks")),
        )

    def story(self, project: Project) -> str:
        """A project in a few words, for the message of what does not hold."""
        rounds = [
            (r.number, r.state, r.trigger, r.labels, r.version, r.error, r.retry_in_s)
            for r in self.store.rounds(project.id)
        ]
        queries = [(q.round, q.status, q.task_id) for q in self.store.queries(project.id)]
        refused = [(e.action, e.error) for e in self.store.failed_events(project.id)]
        return f"project {project.id}, rounds {rounds}, questions {queries}, kept aside {refused}"

    # -- what must hold -----------------------------------------------------------------------

    def project(self, project_id: int) -> Project:
        found = self.store.project(project_id)
        assert found is not None
        return found

    def check_always(self) -> None:
        """After every act: what was finished stays finished, and no answer is thrown away."""
        assert self.unexpected.found == []
        for project in self.store.projects():
            for row in self.store.rounds(project.id):
                key = (project.id, row.number)
                before = self.done.get(key)
                if before is not None:
                    assert row == before, "a done round was changed"
                elif row.state == "done":
                    self.done[key] = row
            names = {version.name for version in self.store.versions(project.id)}
            assert project.model_version in {None, NO_MODEL} | names
            assert project.current_version in {None} | names
            self._check_idle(project)
        self._check_forgotten()
        for project_id, there in self.server.projects.items():
            kept = self.answers.get(project_id, set())
            assert set(there.annotations) == kept, "an answer was deleted in Label Studio"

    def _check_idle(self, project: Project) -> None:
        """A project that is paused or archived gets no question and no round."""
        if project.state not in ("paused", "archived"):
            self.idle.pop(project.id, None)
            return
        asked = len(self.server.asked("import_tasks", project=project.id))
        tries = [(r.number, r.attempts) for r in self.store.rounds(project.id)]
        before = self.idle.setdefault(project.id, (asked, tries))
        assert (asked, tries) == before, f"it is {project.state}: {self.story(project)}"

    def _check_forgotten(self) -> None:
        known = {project.id for project in self.store.projects()}
        for project_id in self.forgotten:
            assert project_id not in known
            rows = self.store.count_rows(project_id)
            rows.pop("event")  # messages that come late are kept with the reason
            assert not any(rows.values()), f"project {project_id} is forgotten and left {rows}"
            left = [name for name in FOLDERS if (self.home / name / f"p{project_id}").exists()]
            assert not left, f"project {project_id} is forgotten and left files: {left}"

    def check_settled(self) -> None:
        """Where nothing goes wrong: both sides agree, and every project can move or says why not.

        Raises AssertionError with what does not hold.
        """
        self.check_always()
        for project in self.store.projects():
            if project.state == "archived":
                assert why_no_push(project)
                continue
            if project.id not in self.server.projects:
                assert project.trouble, f"project {project.id} is gone and nobody says so"
                continue
            assert project.trouble is None, project.trouble
            self._check_questions(project)
            self._check_answers(project)
            self._check_version(project)
            self._check_moves(project)

    def _check_questions(self, project: Project) -> None:
        there = self.server.projects[project.id]
        ours = {question(q): q for q in self.store.queries(project.id)}
        asked: dict[Any, list[int]] = {}
        for task in there.tasks.values():
            key = question_of({"data": task.data})
            assert key in ours, f"task {task.id} asks what nobody knows"
            asked.setdefault(key, []).append(task.id)
        for key, tasks in asked.items():
            empty = [task for task in tasks if not there.of_task(task)]
            assert len(empty) <= (len(tasks) == len(empty)), f"{key} is asked by {tasks}"
        for query in ours.values():
            assert query.status not in ("planned", "pushing") or why_no_push(project)
            answers = there.of_task(query.task_id or 0)
            if query.status == "open":
                assert query.task_id in there.tasks, f"{query} has no task"
                assert not answers, f"{query} is open and answered"
            if query.status in ("answered", "skipped"):
                assert answers, f"{query} has no answer"
            if query.status == "withdrawn":
                assert question(query) not in asked, f"{query} is asked all the same"

    def _check_answers(self, project: Project) -> None:
        there = self.server.projects[project.id]
        labels = {label.annotation_id: label for label in self.store.labels(project.id)}
        assert labels.keys() == there.annotations.keys()
        for annotation in there.annotations.values():
            label = labels[annotation["id"]]
            said = read_answer(annotation["result"], self.schema(project), project.template)
            wanted = ("skipped", ()) if annotation["was_cancelled"] else (said.kind, said.classes)
            assert (label.kind, label.classes) == wanted
            assert label.query_id is not None or self._has_answered_copy(project, annotation)

    def _has_answered_copy(self, project: Project, annotation: dict[str, Any]) -> bool:
        """Two tasks asked one question and both were answered: one of them is the ledger's."""
        there = self.server.projects[project.id]
        key = question_of({"data": there.tasks[annotation["task"]].data})
        return any(
            question(q) == key and q.task_id != annotation["task"] and q.status != "open"
            for q in self.store.queries(project.id)
        )

    def _check_version(self, project: Project) -> None:
        there = self.server.projects[project.id]
        used = there.fields["model_version"] or None
        versions = self.store.versions(project.id)
        chosen, count = self.chosen.get(project.id, (None, 0))
        newest = versions[-1].name if versions else None
        assert project.current_version == (chosen if count == len(versions) else newest)
        if why_no_push(project):
            return
        if self.store.queries(project.id, status="open"):
            wanted = project.current_version or NO_MODEL
            found = (used, project.model_version)
            says = f"Label Studio and we use {found}, not {wanted}"
            assert found == (wanted, wanted), f"{says}: {self.story(project)}"
            self._check_scores(project, wanted)

    def _check_scores(self, project: Project, version: str) -> None:
        """What Label Studio hands out has the scores that it orders by."""
        there = self.server.projects[project.id]
        ready = {i.image_id for i in self.store.images(project.id, split="pool", status="ready")}
        for query in self.store.queries(project.id, status="open"):
            assert query.image_id in ready, f"{query} is about an image that was removed"
            assert query.model_version == version, f"{query} has scores of another version"
            shown = {p["model_version"] for p in there.tasks[query.task_id or 0].predictions}
            assert version in shown, f"{query} comes last: {shown}"

    def _check_moves(self, project: Project) -> None:
        """Whether somebody or something can go on; if not, why not is written."""
        worker = next(iter(self.workers.values()))
        state = worker.cycle.state(project)
        step = next_step(state)
        assert step in (Step.WAIT, Step.DONE), f"{step} stands still: {self.story(project)}"
        assert not state.running, "a round runs and nobody plays it"
        assert not state.requested, "somebody asked for training and hears nothing"
        assert not state.push_requested, "somebody asked for questions and hears nothing"
        last = (self.store.rounds(project.id) or [None])[-1]
        failed = last is not None and last.state == "failed"
        if failed:
            assert last is not None
            assert last.error, "a round failed and does not say why"
        why = step is Step.DONE or state.open_queries or failed or why_no_push(project)
        assert why, f"nothing moves: {state}, {self.story(project)}"


def _end(error: LeaseLost) -> NoReturn:
    raise Killed(str(error))


@contextlib.contextmanager
def open_office(home: Path, images: Path, classes: Path) -> Iterator[Office]:
    """An office whose trainer is at work."""
    office = Office(home, images, classes)
    try:
        with office.trainer.at_work():
            yield office
    finally:
        office.close()
