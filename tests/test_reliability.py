"""The register of promises cannot go stale, and calls nothing held that was not shown."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from reliability import Result, as_markdown, combine, make_record, marked_tests, merged
from reliability_faults import FAULTS, Fault
from reliability_texts import FIGURES, GUARANTEES

ROOT = Path(__file__).resolve().parents[1]


def test_every_promise_has_a_marked_test() -> None:
    marked = marked_tests(ROOT / "tests")
    shown = set().union(*marked.values())
    assert sorted(set(GUARANTEES) - shown) == []
    assert shown <= set(GUARANTEES)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.what[:40])
def test_every_fault_that_people_met_has_tests_that_are_there(fault: Fault) -> None:
    for test in fault.tests:
        name, function = test.split("::")
        tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
        found = [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        assert function in found, test


def test_documents_name_the_marked_tests() -> None:
    """Else: make reliability"""
    record = json.loads((ROOT / "docs" / "reliability.json").read_text(encoding="utf-8"))
    named = {
        (name, row["id"]) for row in record["guarantees"] for name in (*row["tests"], row["test"])
    }
    marked = {(n, i) for n, ids in marked_tests(ROOT / "tests").items() for i in ids}
    assert named == marked
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert page == as_markdown(record)


@pytest.mark.parametrize(
    ("outcomes", "held"),
    [
        ([{"passed"}], True),
        ([{"passed"}, {"passed"}], True),
        ([], False),
        ([set()], False),
        ([{"skipped"}], False),
        ([{"passed", "skipped"}], False),
        ([{"passed"}, {"failed"}], False),
    ],
)
def test_held_means_that_every_test_ran_and_passed(outcomes: list[set[str]], held: bool) -> None:
    results = {f"t{i}": Result({3}, found) for i, found in enumerate(outcomes)}
    rows = make_record(results, {}, {})["guarantees"]
    assert [row["id"] for row in rows] == list(GUARANTEES)
    assert rows[2]["held"] is held
    assert not any(row["held"] for row in rows if row["id"] != 3)


def test_the_form_of_the_record() -> None:
    p = {"p50": 1.0, "p99": 2.0}
    figures = {"kill_points": 30, "webhook_ms": p, "other": 1}
    record = make_record({}, figures, {"kill_points": ["tests/test_a.py::test_b"]})
    assert set(FIGURES) <= set(record)
    assert (record["kill_points"], record["webhook_ms"], record["other"]) == (30, p, 1)
    assert record["events"] is None
    assert "| not measured |" in as_markdown(record)
    assert "`python -m pytest tests/test_a.py::test_b --reliability docs`" in as_markdown(record)


def test_a_run_of_some_tests_keeps_the_rest() -> None:
    """Its figures and outcomes replace the old ones; the page says what was run again."""
    everything = {"a": Result({1}, {"passed"}), "b": Result({1, 2}, {"failed"})}
    old = make_record(everything, {"kill_points": 3, "events": 5}, {"events": ["b"]})
    new = make_record({"b": Result({1, 2}, {"passed"})}, {"events": 7}, {"events": ["b"]})
    found = merged(old, new)
    assert [row["held"] for row in found["guarantees"][:3]] == [True, True, False]
    assert [row["tests"] for row in found["guarantees"][:2]] == [
        {"a": "passed", "b": "passed"}, {"b": "passed"},
    ]  # fmt: skip
    assert (found["kill_points"], found["events"]) == (3, 7)
    assert (found["commit"], found["date"]) == (old["commit"], old["date"])
    assert [run["tests"] for run in found["run_again"]] == [["b"]]
    assert f"Run again since, at commit `{new['commit']}`" in as_markdown(found)
    assert "Run again" not in as_markdown(old)
    assert merged(old, make_record(everything, {}, {}))["events"] is None
    broken = make_record({"a": Result({1}, {"failed"})}, {}, {})
    assert merged(found, broken)["guarantees"][0]["held"] is False


def test_figures_add_up_or_keep_the_worst() -> None:
    assert combine(None, 3) == 3
    assert combine(3, 4) == 7
    assert combine(0.2, 0.1) == 0.2
    assert combine({"p50": 1}, {"p50": 2}) == {"p50": 2}


SAMPLE = """
import pytest

@pytest.mark.guarantee(1)
def test_one(): pass

@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.guarantee(2))])
def test_two(x): pass

@pytest.mark.guarantee(3)
class TestGroup:
    @pytest.mark.guarantee(4)
    def test_three(self): pass

def test_unmarked(): pass
"""


def test_marks_are_found_in_the_source(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "test_whole.py").write_text(
        "import pytest\npytestmark = [pytest.mark.guarantee(5)]\ndef test_four(): pass\n"
    )
    name = tmp_path.name
    assert marked_tests(tmp_path) == {
        f"{name}/test_sample.py::test_one": {1},
        f"{name}/test_sample.py::test_two": {2},
        f"{name}/test_sample.py::TestGroup::test_three": {3, 4},
        f"{name}/test_whole.py::test_four": {5},
    }


OUTCOMES = """
import pytest

@pytest.mark.guarantee(1)
@pytest.mark.parametrize("n", [1, 2])
def test_counts(record_property, n): record_property("events", n)

@pytest.mark.guarantee(2)
def test_fails(): assert False

@pytest.mark.guarantee(3)
@pytest.mark.parametrize("n", [1, 2])
def test_skips(n):
    if n == 2: pytest.skip("not here")

@pytest.mark.guarantee(4)
@pytest.mark.xfail
def test_known_to_fail(): assert False

@pytest.fixture
def broken():
    yield
    raise RuntimeError

@pytest.mark.guarantee(5)
def test_tears_down_badly(broken): pass

def test_of_something_else(): raise AssertionError("must not run")
"""


def test_a_run_writes_what_it_found(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(
        f'[tool.pytest.ini_options]\npythonpath = ["{ROOT}", "{ROOT / "tests"}"]\n'
        'markers = ["guarantee(number): x"]\n'
    )
    pytester.makepyfile(test_outcomes=OUTCOMES)
    done = pytester.runpytest_subprocess("-p", "reliability", "--reliability", "out")
    done.assert_outcomes(passed=4, failed=1, skipped=1, xfailed=1, errors=1, deselected=1)
    record = json.loads((pytester.path / "out" / "reliability.json").read_text())
    assert [row["id"] for row in record["guarantees"] if row["held"]] == [1]
    assert record["events"] == 3
    assert [list(row["tests"].values()) for row in record["guarantees"][:6]] == [
        ["passed"], ["failed"], ["skipped"], ["skipped"], ["failed"], [],
    ]  # fmt: skip
    assert record["guarantees"][0]["test"] == "test_outcomes.py::test_counts"
    page = (pytester.path / "out" / "reliability.md").read_text()
    assert "| **no** |" in page
    assert "| **not shown** |" in page
