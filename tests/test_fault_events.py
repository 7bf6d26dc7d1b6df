"""Events lost, doubled, late and reordered between Label Studio and the backend."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from backend_helpers import WEBHOOK_SECRET, make_project, make_schema, open_queries
from fault_proxy import Fault, FaultProxy, random_plan

from label_config import Answer, answer_result
from ml_backend.connect import connect
from ml_backend.label_studio import LabelStudio
from ml_backend.processes import BackendServer, LabelStudioServer, free_port
from ml_backend.reconcile import reconcile
from ml_backend.round_steps import apply_pending_events
from ml_backend.settings import Settings
from ml_backend.store import Store

pytestmark = [pytest.mark.server, pytest.mark.slow]

SCHEMA = make_schema()
TASKS = 8
ACTIONS, ACTIONS_FULL = 40, 150  # of one schedule; the larger one for the published figures
WEBHOOK_FAULTS = {
    Fault.DROP: 0.3,
    Fault.TWICE: 0.3,
    Fault.LATE: 0.1,
    Fault.SLOW: 0.05,
    Fault.ERROR: 0.05,
    Fault.RESET: 0.05,
    Fault.LOST_ANSWER: 0.05,
    Fault.PASS: 0.1,
}


@dataclass
class Site:
    """A Label Studio project whose webhooks go through the proxy to a real backend."""

    api: requests.Session
    url: str
    project_id: int
    store: Store
    ls: LabelStudio
    proxy: FaultProxy
    tasks: list[int]
    live: dict[int, int] = field(default_factory=dict)  # annotation -> task

    def request(self, method: str, path: str, **body: Any) -> Any:
        """One call of Label Studio's API, which must succeed."""
        answer = self.api.request(method, f"{self.url}/api/{path}", json=body or None, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def annotate(self, task: int, draw: random.Random) -> None:
        skipped = draw.random() < 0.15
        body = {"result": _ticks(draw), "was_cancelled": skipped, "lead_time": 1.0}
        made = self.request("POST", f"tasks/{task}/annotations/", **body)
        self.live[int(made["id"])] = task

    def update(self, annotation: int, draw: random.Random) -> None:
        self.request("PATCH", f"annotations/{annotation}/", result=_ticks(draw))

    def delete(self, annotation: int) -> None:
        self.request("DELETE", f"annotations/{annotation}/")
        del self.live[annotation]

    def undo(self, annotation: int, draw: random.Random) -> None:
        """What an undo amounts to: the annotation is deleted and made again."""
        task = self.live[annotation]
        self.delete(annotation)
        self.annotate(task, draw)

    def delete_task(self, task: int) -> None:
        self.ls.delete_tasks(self.project_id, [task])
        self.tasks.remove(task)
        self.live = {a: t for a, t in self.live.items() if t != task}

    def export(self) -> dict[int, tuple[int, bool, tuple[str, ...]]]:
        """Label Studio's export: annotation -> task, skipped, ticked choices."""
        path = f"projects/{self.project_id}/export?exportType=JSON&download_all_tasks=true"
        return {
            int(a["id"]): (int(task["id"]), bool(a["was_cancelled"]), _choices(a))
            for task in self.request("GET", path)
            for a in task["annotations"]
        }

    def labels(self) -> dict[int, tuple[int, bool, tuple[str, ...]]]:
        """The label store in the words of the export."""
        order = {name: str(i) for i, name in enumerate(SCHEMA.names)}
        return {
            label.annotation_id: (
                int(label.task_id or 0),
                label.kind == "skipped",
                tuple(order[name] for name in label.classes),
            )
            for label in self.store.labels(self.project_id)
        }


def _ticks(draw: random.Random) -> list[dict[str, Any]]:
    names = tuple(n for n in SCHEMA.names if draw.random() < 0.5) or SCHEMA.names[:1]
    return answer_result(Answer("classes", names), SCHEMA, "region_multiclass")


def _choices(annotation: dict[str, Any]) -> tuple[str, ...]:
    """What was ticked; a skip carries ticks that mean nothing."""
    if annotation["was_cancelled"]:
        return ()
    return tuple(choice for item in annotation["result"] for choice in item["value"]["choices"])


@pytest.fixture(scope="module")
def site(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], Site]]:
    """Makes sites: one backend, one proxy, a project of its own for each."""
    home = tmp_path_factory.mktemp("faults")
    port = free_port()
    environ = {
        "PIXBAL_HOME": str(home),
        "PIXBAL_PORT": str(port),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "PIXBAL_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "PIXBAL_BASIC_PASSWORD": "basic-password",
        "PIXBAL_MEDIA_KEY": "media-key",
        "PIXBAL_LOG_LEVEL": "ERROR",
        "OMP_NUM_THREADS": "1",
    }
    ls = LabelStudio(label_studio.url, label_studio.token)
    api = requests.Session()
    api.headers["Authorization"] = f"Token {label_studio.token}"
    store = Store.open(f"sqlite:///{home}/pixbal.db")
    backend = BackendServer(env=environ, log=home / "backend.log", port=port)
    with backend, FaultProxy(backend.url) as proxy:
        settings = Settings.from_env({**environ, "PIXBAL_BACKEND_URL": proxy.url})

        def make(seed: int) -> Site:
            proxy.plan = lambda _: Fault.PASS
            project_id = ls.create_project(f"faults {seed}", make_project(1, SCHEMA).label_config)
            store.add_project(make_project(project_id, SCHEMA))
            connect(ls, settings, project_id, make_project(1, SCHEMA).label_config, "r0")
            data = {"crop": "http://x/c.jpg", "locator": "http://x/l.jpg"}
            rows = [{"data": {**data, "region": f"i:{n}"}} for n in range(TASKS)]
            tasks = ls.import_tasks(project_id, rows)
            open_queries(store, project_id, TASKS)
            queries = store.queries(project_id)
            store.set_task_ids({q.id: t for q, t in zip(queries, tasks, strict=True)})
            return Site(api, label_studio.url, project_id, store, ls, proxy, tasks)

        yield make
    api.close()
    ls.close()
    store.close()


def play(site: Site, draw: random.Random, actions: int) -> Counter[str]:
    """A random schedule; meanwhile the worker looks at what came, and late events arrive."""
    done: Counter[str] = Counter()
    for _ in range(actions):
        kinds = ["annotate"] * 4 + (["update"] * 4 + ["delete", "undo"]) * bool(site.live)
        kind = draw.choice(kinds + ["delete task"] * (len(site.tasks) > TASKS - 2) * bool(done))
        if kind == "annotate":
            site.annotate(draw.choice(site.tasks), draw)
        elif kind == "delete task":
            site.delete_task(draw.choice(site.tasks))
        else:
            annotation = draw.choice(sorted(site.live))
            if kind == "delete":
                site.delete(annotation)
            else:
                (site.update if kind == "update" else site.undo)(annotation, draw)
        done[kind] += 1
        if draw.random() < 0.1:
            site.proxy.flush()
        if draw.random() < 0.1:
            apply_pending_events(site.store)
        if draw.random() < 0.03:
            reconcile(site.store, site.ls, site.project_id, datetime.now(UTC))
    return done


@pytest.mark.guarantee(4)
@pytest.mark.guarantee(5)
@pytest.mark.parametrize("seed", range(3))
def test_random_schedules_end_in_label_studios_export(
    site: Callable[[int], Site],
    seed: int,
    full_size: bool,
    record_property: Callable[[str, object], None],
) -> None:
    """Whatever webhooks go through, one walk later the label store is Label Studio's export.

    Seen failing with the walk noting no answer that is missing here (tests/sabotage.py); the walk's
    deletions left out, and `updated_at` not compared, fail in `test_fault_ingest`.
    """
    draw = random.Random(seed)
    here = site(seed)
    here.proxy.plan = random_plan(seed, WEBHOOK_FAULTS)
    before = len(here.proxy.seen)
    done = play(here, draw, ACTIONS_FULL if full_size else ACTIONS)
    sent = len(here.proxy.seen) - before
    assert sent >= 0.9 * sum(done.values()), "Label Studio's webhooks do not go through the proxy"
    assert here.labels() != here.export(), "nothing was lost, so nothing is shown"
    here.proxy.flush()
    apply_pending_events(here.store)
    reconcile(here.store, here.ls, here.project_id, datetime.now(UTC))
    assert here.labels() == here.export()
    open_tasks = {t for t in here.tasks if t not in here.live.values()}
    queries = here.store.queries(here.project_id)
    assert {q.task_id for q in queries if q.status == "open"} == open_tasks
    assert {q.task_id for q in queries if q.status != "withdrawn"} == set(here.tasks)
    record_property("events", sum(done.values()))


@pytest.mark.guarantee(5)
def test_no_webhook_at_all(site: Callable[[int], Site]) -> None:
    """Every delivery is dropped. Seen failing as the test above."""
    here, draw = site(99), random.Random(99)
    here.proxy.plan = lambda _: Fault.DROP
    events = here.store.count_events()
    for task in here.tasks:
        here.annotate(task, draw)
    assert here.store.count_events() == events
    report = reconcile(here.store, here.ls, here.project_id, datetime.now(UTC))
    assert report.changed == TASKS
    assert here.labels() == here.export()
