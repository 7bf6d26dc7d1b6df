"""The register of sabotages cannot go stale, and calls nothing seen that did not fail."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from reliability import marked_tests
from reliability_texts import GUARANTEES
from sabotage import SABOTAGES, Sabotage
from sabotage_run import Outcome, apply, as_markdown, make_record, patch_of, run_tests, seen_before

ROOT = Path(__file__).resolve().parents[1]


def test_every_promise_is_broken() -> None:
    assert sorted({s.promise for s in SABOTAGES}) == sorted(GUARANTEES)


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: f"{s.promise}: {s.what}")
def test_a_sabotage_fits_the_source(sabotage: Sabotage, tmp_path: Path) -> None:
    """Its text is there once, the broken file is still Python, its tests show that promise."""
    path = tmp_path / sabotage.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((ROOT / sabotage.file).read_bytes())
    before = apply(sabotage, tmp_path)
    assert path.read_text(encoding="utf-8") != before
    if path.suffix == ".py":
        ast.parse(path.read_text(encoding="utf-8"))
    marked = marked_tests(ROOT / "tests")
    for test in sabotage.tests:
        assert sabotage.promise in marked.get(f"tests/{test.split('[')[0]}", set()), test


def test_documents_hold_every_sabotage_and_each_was_seen() -> None:
    """Else: make sabotage"""
    record = json.loads((ROOT / "docs" / "sabotage.json").read_text(encoding="utf-8"))
    rows = record["sabotages"]
    recorded = [(r["promise"], r["what"], r["file"], [t["test"] for t in r["tests"]]) for r in rows]
    assert recorded == [(s.promise, s.what, s.file, list(s.tests)) for s in SABOTAGES]
    assert [r["patch"] for r in rows] == [patch_of(s) for s in SABOTAGES]
    assert [t for r in rows for t in r["tests"] if t["outcome"] != "failed"] == []
    page = (ROOT / "docs" / "sabotage.md").read_text(encoding="utf-8")
    assert page == as_markdown(record)


TESTS = """
import pytest

def test_fails():
    assert 1 == 2, "a | b"

def test_passes(): pass

def test_skips(): pytest.skip("not here")

@pytest.fixture
def broken(): raise RuntimeError("no start")

def test_errs(broken): pass

@pytest.mark.parametrize("n", [1, 2])
def test_one_of_two_fails(n): assert n == 1
"""


@pytest.mark.parametrize(
    ("test", "outcome", "words"),
    [
        ("test_a.py::test_fails", "failed", "AssertionError: a | b"),
        ("test_a.py::test_passes", "passed", ""),
        ("test_a.py::test_skips", "skipped", "not here"),
        ("test_a.py::test_errs", "error", "failed on setup"),
        ("test_a.py::test_one_of_two_fails", "failed", "assert 2 == 1"),
        ("test_a.py::test_that_is_not_there", "error", ""),
        ("test_b.py::test_import", "error", ""),
    ],
)
def test_only_a_failure_is_one(tmp_path: Path, test: str, outcome: str, words: str) -> None:
    """A test that a sabotage keeps from running has shown nothing."""
    tests = tmp_path / "project" / "tests"
    tests.mkdir(parents=True)
    (tests / "test_a.py").write_text(TESTS)
    (tests / "test_b.py").write_text("import nothing_of_this_name\ndef test_import(): pass\n")
    (found,) = run_tests(Sabotage(1, "x", "x", "x", "x", (test,)), tmp_path / "project")
    assert (found.test, found.outcome) == (test, outcome)
    assert words in found.words


@pytest.mark.parametrize("text", ["nothing of it", "old old"])
def test_a_text_that_is_not_there_once_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(ValueError, match=r"expected once\. Adapt tests/sabotage\.py"):
        apply(Sabotage(1, "x", "a.py", "old", "new", ()), tmp_path)


def test_the_page_shows_what_was_not_seen() -> None:
    sabotage = Sabotage(3, "x", "a.py", "old", "new", ("a", "b"))
    outcomes = [Outcome("a", "failed", "assert `1 | 2`"), Outcome("b", "passed", "")]
    record = make_record([(sabotage, outcomes)])
    assert record["sabotages"][0]["tests"] == [asdict(o) for o in outcomes]
    page = as_markdown(record)
    assert "0 of 1 faults were seen" in page
    assert "`assert '1 \\| 2'`" in page
    assert "**passed**" in page


def test_what_was_seen_before_keeps_its_commit_and_what_changed_is_new(tmp_path: Path) -> None:
    """A record of some rows is brought up to date by a run of the others."""
    first, second = SABOTAGES[:2]
    seen = [Outcome(test, "failed", "assert 0") for test in first.tests]
    old = make_record([(first, seen), (second, [Outcome("t", "passed", "")])])
    for row in old["sabotages"]:
        row["commit"] = "0123456789ab"
    (tmp_path / "sabotage.json").write_text(json.dumps(old))
    kept = seen_before(tmp_path)
    assert list(kept) == [patch_of(first)], "what no test saw is run again"
    record = make_record([(second, [Outcome("t", "failed", "assert 1")])], kept)
    assert [row["patch"] for row in record["sabotages"]] == [patch_of(first), patch_of(second)]
    assert record["sabotages"][0]["commit"] == "0123456789ab" != record["sabotages"][1]["commit"]
    assert "1 at commit `0123456789ab`" in as_markdown(record)
    assert patch_of(first) != patch_of(replace(first, new=first.new + " "))
