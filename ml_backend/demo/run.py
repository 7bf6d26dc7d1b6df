"""Start everything, play rounds, report, stop."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ml_backend.copies import question_of
from ml_backend.demo.annotator import Annotator
from ml_backend.demo.data import DemoData, prepare_data
from ml_backend.demo.report import print_addresses, results_table
from ml_backend.demo.servers import Running, servers
from ml_backend.errors import BackendError
from ml_backend.init import InitRequest, initialise
from ml_backend.label_studio import LabelStudio
from ml_backend.store import Round, Store

ROUND_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class DemoOptions:
    """Where the demonstration lives and how long it is."""

    folder: Path
    out: Path
    rounds: int
    budget: float
    seed: int
    keep: bool


@dataclass(frozen=True)
class RoundResult:
    """One line of the report; `miou_before` is None where there was no model yet."""

    round: int
    regions: int
    clicks: int
    annotating_s: float
    training_s: float
    miou_before: float | None
    miou_after: float | None
    model_version: str


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Play the demonstration; returns what `demo.json` holds.

    Raises:
        BackendError: a server did not start, a round failed, or a question was lost or doubled.
    """
    console = Console()
    started = time.monotonic()
    data = prepare_data(options.folder, options.seed)
    console.print(f"images: {data.name}")
    # A demonstration begins anew each time; what was labelled after `--keep` stays.
    home = options.folder / ("kept" if options.keep else "run")
    if not options.keep:
        shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    with servers(home, console, keep=options.keep) as running:
        report = _play(options, data, running, console)
        report["seconds"] = round(time.monotonic() - started, 1)
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        console.print(results_table(report))
        print_addresses(console, running, report)
        if options.keep:
            console.print("Everything is left running; Ctrl+C stops it.")
            _wait_for_interrupt(running)
    console.print(f"stopped; the report is {options.out}")
    return report


def _play(
    options: DemoOptions, data: DemoData, running: Running, console: Console
) -> dict[str, Any]:
    settings = running.settings
    store = Store.open(settings.database_url)
    ls = LabelStudio.of(settings)
    init = initialise(
        settings,
        store,
        ls,
        InitRequest(
            classes=data.classes,
            images=(str(data.images),),
            heldout=str(data.heldout),
            title="PixBal demonstration",
            budget=options.budget,
            config="demo",
            seed=options.seed,
        ),
    )
    for line in init.lines():
        console.print(line, markup=False)
    project_id = init.project.id
    annotator = Annotator(
        running.label_studio.url,
        running.label_studio.token,
        store,
        project_id,
        data.masks,
        data.void,
    )
    done = len([r for r in store.rounds(project_id) if r.state == "done"])
    results = [
        _round(store, annotator, project_id, number, running, console)
        for number in range(done + 1, options.rounds + 1)
    ]
    report = {
        "data": data.name,
        "project": project_id,
        "images": len(store.images(project_id, split="pool", status="ready")),
        "heldout_images": len(store.images(project_id, split="heldout", status="ready")),
        "rounds": [asdict(r) for r in results],
        **audit(store, ls, project_id),
    }
    ls.close()
    store.close()
    return report


def _round(
    store: Store,
    annotator: Annotator,
    project_id: int,
    number: int,
    running: Running,
    console: Console,
) -> RoundResult:
    clicks_before = store.clicks(project_id)
    started = time.monotonic()
    # Exactly the open batch: the next one is pushed while the annotator might still be asking.
    regions = annotator.annotate_all(limit=len(store.queries(project_id, status="open")))
    annotated = time.monotonic()
    console.print(
        f"round {number}: {regions} regions answered in {annotated - started:.0f} s, training"
    )
    row = _wait_for_round(store, project_id, number, running)
    versions = {v.round: v for v in store.versions(project_id)}
    before, after = versions.get(number - 1), versions[number]
    return RoundResult(
        round=number,
        regions=regions,
        clicks=(row.clicks or 0) - clicks_before,
        annotating_s=round(annotated - started, 1),
        training_s=round(time.monotonic() - annotated, 1),
        miou_before=None if before is None else before.metrics.get("miou"),
        miou_after=after.metrics.get("miou"),
        model_version=after.name,
    )


def _wait_for_round(store: Store, project_id: int, number: int, running: Running) -> Round:
    deadline = time.monotonic() + ROUND_TIMEOUT_S
    while time.monotonic() < deadline:
        row = store.round(project_id, number)
        if row is not None and row.state == "done":
            return row
        if row is not None and row.state == "failed":
            raise BackendError(
                f"round {number} failed: {row.error}", hint=f"See {running.worker.log}."
            )
        if not running.worker.running:
            raise BackendError("the worker ended", hint=running.worker.log_tail())
        time.sleep(0.5)
    raise BackendError(
        f"round {number} did not end within {ROUND_TIMEOUT_S:.0f} s",
        hint=f"The worker's log ends with:\n{running.worker.log_tail()}",
    )


def audit(store: Store, ls: LabelStudio, project_id: int) -> dict[str, Any]:
    """Compare the ledger with Label Studio: every question one task, every answer one label.

    Raises:
        BackendError: a task is doubled, or an answered question has not exactly one annotation.
    """
    tasks = list(ls.tasks(project_id, with_annotations=True))
    asked = [question_of(task) for task in tasks]
    duplicates = len(asked) - len(set(asked))
    answered = {q.task_id for q in store.queries(project_id, status="answered")}
    counts = {int(t["id"]): len(t.get("annotations", [])) for t in tasks}
    wrong = [t for t in answered if counts.get(t or 0) != 1]
    unknown = [t for t, n in counts.items() if n and t not in answered]
    if duplicates or wrong or unknown:
        raise BackendError(
            f"{duplicates} doubled tasks, {len(wrong)} answered questions without exactly one "
            f"annotation, {len(unknown)} annotations not in the store",
            hint="This is a defect; please report it with demo-data/*.log.",
        )
    return {
        "tasks": len(tasks),
        "answered": len(answered),
        "open": len(store.queries(project_id, status="open")),
        "duplicate_tasks": duplicates,
    }


def _wait_for_interrupt(running: Running) -> None:
    try:
        while running.label_studio.running and running.backend.running and running.worker.running:
            time.sleep(1.0)
    except KeyboardInterrupt:
        return
    raise BackendError("a server ended by itself", hint=running.worker.log_tail())
