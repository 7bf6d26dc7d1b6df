"""The register of promises: which tests show each, what the last run of them found.

`make reliability` runs every test marked `guarantee(N)` (also as `pytest --reliability=docs`) and
writes docs/reliability.json and docs/reliability.md. Tests give figures with `record_property`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from reliability_faults import FAULTS
from reliability_texts import FIGURES, GUARANTEES

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "make reliability"


@dataclass
class Result:
    """What one test function came to, over all its parameters."""

    guarantees: set[int] = field(default_factory=set)
    outcomes: set[str] = field(default_factory=set)  # passed, failed, skipped

    @property
    def outcome(self) -> str:
        """The worst; "not run" where there is none."""
        worst = ("failed", "skipped", "passed")
        return next((name for name in worst if name in self.outcomes), "not run")


class Register:
    """Collects outcomes and figures while pytest runs; writes them at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[str, Result] = {}
        self.figures: dict[str, Any] = {}
        self.sources: dict[str, list[str]] = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the marked tests only."""
        kept, dropped = [], []
        for item in items:
            numbers = {n for mark in item.iter_markers("guarantee") for n in mark.args}
            (kept if numbers else dropped).append(item)
            if numbers:
                self.results.setdefault(name_of(item.nodeid), Result()).guarantees |= numbers
        if dropped:
            config.hook.pytest_deselected(items=dropped)
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended; an error in its set-up or tear-down counts as failed."""
        name = name_of(report.nodeid)
        if report.when == "call" or report.outcome != "passed":
            expected = report.outcome == "skipped" or not hasattr(report, "wasxfail")
            outcome = report.outcome if expected else "failed"
            self.results.setdefault(name, Result()).outcomes.add(outcome)
        if report.when == "teardown":
            for key, value in report.user_properties:
                self.figures[key] = combine(self.figures.get(key), value)
                if name not in self.sources.setdefault(key, []):
                    self.sources[key].append(name)

    def pytest_sessionfinish(self) -> None:
        """Write both files; a run of some tests brings an older record of all up to date."""
        record = make_record(self.results, self.figures, self.sources)
        path = self.folder / "reliability.json"
        if path.is_file():
            record = merged(json.loads(path.read_text(encoding="utf-8")), record)
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")
        (self.folder / "reliability.md").write_text(as_markdown(record), encoding="utf-8")


def name_of(node_id: str) -> str:
    """The test function of a node id, without its parameters."""
    return node_id.split("[", 1)[0]


def combine(before: Any, value: Any) -> Any:
    """Counts add up, shares and times keep the worst, anything else the last."""
    if before is None or not isinstance(value, type(before)) or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return before + value
    if isinstance(value, float):
        return max(before, value)
    return value


def make_record(
    results: Mapping[str, Result], figures: Mapping[str, Any], sources: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The content of reliability.json. A promise is held only where every test of it passed."""
    from training.bench_report import describe_machine  # imports numpy

    rows = []
    for number in GUARANTEES:
        tests = {name: r.outcome for name, r in results.items() if number in r.guarantees}
        rows.append(
            {
                "id": number,
                "test": next(iter(tests), None),
                "held": bool(tests) and set(tests.values()) == {"passed"},
                "tests": tests,
            }
        )
    machine = describe_machine()
    named = {name: figures.get(name) for name in FIGURES}
    return {
        "guarantees": rows,
        **named,
        **{name: value for name, value in sorted(figures.items()) if name not in FIGURES},
        "commands": {
            name: f"python -m pytest {' '.join(tests)} --reliability docs"
            for name, tests in sorted(sources.items())
        },
        "command": COMMAND,
        "machine": machine,
        "commit": machine["commit"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """An older record with what was run again; the newer one alone where it has all tests."""
    known = {name for row in old["guarantees"] for name in row["tests"]}
    again = {name for row in new["guarantees"] for name in row["tests"]}
    if not again < known:
        return dict(new)
    newer = {row["id"]: row["tests"] for row in new["guarantees"]}
    rows = []
    for row in old["guarantees"]:
        tests = row["tests"] | newer[row["id"]]
        rows.append(row | {"tests": tests, "held": set(tests.values()) == {"passed"}})
    figures = {name: new[name] for name in new["commands"]}
    run = {"tests": sorted(again), "commit": new["commit"], "date": new["date"]}
    return {
        **old, **figures, "guarantees": rows, "commands": old["commands"] | new["commands"],
        "run_again": [*old.get("run_again", []), run],
    }  # fmt: skip


def as_markdown(record: Mapping[str, Any]) -> str:
    """The page that people read, made of nothing but the record."""
    rows = record["guarantees"]
    machine = record["machine"]
    held = sum(row["held"] for row in rows)
    lines = [
        "# What is promised, and what shows it",
        "",
        f"Made by `{record['command']}`, which runs every test below; do not edit. "
        f"A promise counts as held only if each of its tests ran and passed.",
        "",
        f"{held} of {len(rows)} held at commit `{record['commit']}`, {record['date']}: "
        f"{machine.get('cpu', 'unknown processor')}, {machine.get('cores', '?')} cores. "
        "[operations.md](operations.md) says what each failure looks like and what to do.",
        "",
        *(
            f"Run again since, at commit `{run['commit']}`, {run['date']}: "
            f"{', '.join(f'`{name}`' for name in run['tests'])}.\n"
            for run in record.get("run_again", ())
        ),
        "| # | promise | tests | held |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['id']} | {GUARANTEES[row['id']]} | {_tests(row['tests'])} | {_held(row)} |"
        for row in rows
    ]
    lines += ["", "## Figures", "", "| figure | value | command |", "|---|---|---|"]
    for name, meaning in FIGURES.items():
        command = record["commands"].get(name)
        shown = f"`{command}`" if command else ""
        lines.append(f"| {meaning} (`{name}`) | {_value(record[name])} | {shown} |")
    return "\n".join([*lines, *_faults()]) + "\n"


def _faults() -> list[str]:
    return [
        "",
        "## Faults of release 0.1.0 that people met",
        "",
        "| point | what went wrong | shown gone by | how that was seen failing |",
        "|---|---|---|---|",
        *(
            f"| {fault.point} | {fault.what} | {_tests(dict.fromkeys(fault.tests, 'passed'))} "
            f"| {fault.seen} |"
            for fault in FAULTS
        ),
    ]


def _tests(tests: Mapping[str, str]) -> str:
    shown = [
        f"`{name.removeprefix('tests/')}`" + ("" if outcome == "passed" else f" ({outcome})")
        for name, outcome in tests.items()
    ]
    return "<br>".join(shown) or "none"


def _held(row: Mapping[str, Any]) -> str:
    if row["held"]:
        return "yes"
    return "**no**" if "failed" in row["tests"].values() else "**not shown**"


def _value(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(part)}" for key, part in value.items())
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def marked_tests(folder: Path) -> dict[str, set[int]]:
    """Marked tests in the source, name -> promises, found without importing anything."""
    found: dict[str, set[int]] = {}
    for path in sorted(folder.glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        every = _numbers(
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node.targets[0])
        )
        for name, decorators in _functions(tree.body):
            numbers = every | _numbers(decorators)
            if numbers:
                found[f"{folder.name}/{path.name}::{name}"] = numbers
    return found


def _functions(body: Iterable[ast.stmt]) -> Iterator[tuple[str, list[ast.expr]]]:
    """Test functions, also those of test classes: name, decorators of both."""
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield node.name, node.decorator_list
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            for name, decorators in _functions(node.body):
                yield f"{node.name}::{name}", [*node.decorator_list, *decorators]


def _numbers(expressions: Iterable[ast.expr]) -> set[int]:
    return {
        int(argument.value)
        for expression in expressions
        for node in ast.walk(expression)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.guarantee"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    }


@pytest.fixture(scope="session")
def full_size(request: pytest.FixtureRequest) -> bool:
    """Whether figures are to be published: longer schedules, the loads as promised."""
    return request.config.getoption("--reliability") is not None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --reliability."""
    parser.addoption(
        "--reliability",
        metavar="DIR",
        default=None,
        help="run the tests marked guarantee(N), loads at full size, and write reliability.* there",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start the register where it was asked for."""
    folder = config.getoption("--reliability")
    if folder is not None:
        config.pluginmanager.register(Register(Path(folder).resolve()), "reliability-register")
