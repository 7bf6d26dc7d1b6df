"""Apply each sabotage to a copy of the project, run its tests there, and write how they failed.

    python tests/sabotage_run.py [--promise 11 | --new] [--out docs]

With `--promise` nothing is written; `--new` runs only those that the record does not hold as they
are now, and keeps the rest with the commit at which each was seen. Ends with 1 where a test did not
fail with its promise broken.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from reliability_texts import GUARANTEES
from sabotage import SABOTAGES, Sabotage

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "make sabotage"
WAIT_S = "60"  # what is broken does not come; no need to wait for it as long as for what works
LINKED = (".venv", ".venv-label-studio", ".cache")


@dataclass(frozen=True)
class Outcome:
    """What came of a test under a sabotage: failed, passed, skipped, error; its last words."""

    test: str
    outcome: str
    words: str


def copy_project(folder: Path) -> Path:
    """The files that git knows or would take, as they are now; environments are linked."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    copy = folder / "project"
    for name in done.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    for name in LINKED:
        if (ROOT / name).exists():
            (copy / name).symlink_to(ROOT / name)
    return copy


def apply(sabotage: Sabotage, project: Path) -> str:
    """Break the promise in the copy; returns the text of the file before.

    Raises:
        ValueError: the text to be replaced is not there once.
    """
    path = project / sabotage.file
    before = path.read_text(encoding="utf-8")
    if before.count(sabotage.old) != 1:
        raise ValueError(
            f"{sabotage.file} has {before.count(sabotage.old)} times the text of the sabotage "
            f"{sabotage.what!r}; expected once. Adapt tests/sabotage.py."
        )
    path.write_text(before.replace(sabotage.old, sabotage.new), encoding="utf-8")
    return before


def run_tests(sabotage: Sabotage, project: Path) -> list[Outcome]:
    """What each named test comes to in the copy."""
    return [_run(test, project) for test in sabotage.tests]


def _run(test: str, project: Path) -> Outcome:
    report = project.parent / "report.xml"
    report.unlink(missing_ok=True)
    environment = {
        **os.environ, "PYTHONPATH": str(project), "PIXBAL_TEST_WAIT_S": WAIT_S,
        "PIXBAL_DATA": os.environ.get("PIXBAL_DATA", str(ROOT.parent / "shared" / "data")),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--maxfail=1",
         f"--junitxml={report}", "-o", "junit_family=xunit1", f"tests/{test}"],
        cwd=project, env=environment, capture_output=True, check=False, timeout=1200,
    )  # fmt: skip
    if not report.is_file():
        return Outcome(test, "error", "pytest wrote no report")
    return Outcome(test, *read_report(report))


def read_report(path: Path) -> tuple[str, str]:
    """The worst outcome of a JUnit report and the words of it.

    An error is no failure: a sabotage that keeps a test from running shows nothing.
    """
    cases = list(ET.parse(path).getroot().iter("testcase"))
    for kind, outcome in (("error", "error"), ("failure", "failed"), ("skipped", "skipped")):
        for case in cases:
            found = case.find(kind)
            if found is not None:
                return outcome, _words(found.get("message") or found.text or "")
    return ("passed", "") if cases else ("error", "no test was found")


def _words(message: str) -> str:
    """The first line, without what differs from run to run."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    line = re.sub(r"/\S*/", ".../", line)
    line = re.sub(r"0x[0-9a-f]+", "0x...", line)
    return line[:160] + ("..." if len(line) > 160 else "")


def as_markdown(record: Mapping[str, Any]) -> str:
    """The page that people read, made of nothing but the record."""
    rows = record["sabotages"]
    seen = sum(all(t["outcome"] == "failed" for t in row["tests"]) for row in rows)
    commits = Counter((row["commit"], row["date"]) for row in rows)
    when = ", ".join(
        f"{count} at commit `{commit}`, {date}"
        for (commit, date), count in sorted(commits.items(), key=lambda item: item[0][1])
    )
    lines = [
        "# Promises broken on purpose",
        "",
        f"Made by `{record['command']}`; do not edit. Each line is a fault that was put into a "
        "copy of the project, and the tests that must fail then. The faults are in "
        "[tests/sabotage.py](../tests/sabotage.py).",
        "",
        f"{seen} of {len(rows)} faults were seen by every test named: {when}.",
        "",
        "| # | promise | fault | test | it said |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for test in row["tests"]:
            words = test["words"].replace("|", "\\|").replace("`", "'")
            said = f"`{words}`" if test["outcome"] == "failed" else f"**{test['outcome']}**"
            lines.append(
                f"| {row['promise']} | {GUARANTEES[row['promise']]} | {row['what']} "
                f"(`{row['file']}`) | `{test['test']}` | {said} |"
            )
    return "\n".join(lines) + "\n"


def patch_of(sabotage: Sabotage) -> str:
    """Names what is done to the source and which tests look: another one was not seen yet."""
    text = json.dumps([sabotage.file, sabotage.old, sabotage.new, *sabotage.tests])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_record(
    found: Sequence[tuple[Sabotage, Sequence[Outcome]]], kept: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of sabotage.json; `kept` rows, by `patch_of`, are of an earlier run."""
    from training.bench_report import describe_machine  # imports numpy

    run = {
        "commit": describe_machine()["commit"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    rows = dict(kept or {})
    for s, outs in found:
        tests = [asdict(o) for o in outs]
        rows[patch_of(s)] = {
            "promise": s.promise, "what": s.what, "file": s.file, "patch": patch_of(s),
            "tests": tests, **run,
        }  # fmt: skip
    order = {patch_of(s): number for number, s in enumerate(SABOTAGES)}
    shown = sorted(rows.values(), key=lambda row: order.get(row["patch"], -1))
    return {"sabotages": shown, "command": COMMAND}


def seen_before(folder: Path) -> dict[str, Any]:
    """Rows of the record, by what was done, that every test named has seen."""
    record = json.loads((folder / "sabotage.json").read_text(encoding="utf-8"))
    return {
        row["patch"]: row
        for row in record["sabotages"]
        if all(test["outcome"] == "failed" for test in row["tests"])
    }


def main() -> int:
    """Run all, or those of one promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--promise", type=int, help="Only these; nothing is written.")
    parser.add_argument("--new", action="store_true", help="Only what was not seen as it is now.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    before_now = seen_before(options.out) if options.new else {}
    kept = {p: before_now[p] for p in map(patch_of, SABOTAGES) if p in before_now}
    chosen = [
        s for s in SABOTAGES if options.promise in (None, s.promise) and patch_of(s) not in kept
    ]
    found: list[tuple[Sabotage, list[Outcome]]] = []
    with tempfile.TemporaryDirectory(prefix="pixbal-sabotage-") as folder:
        project = copy_project(Path(folder))
        for sabotage in chosen:
            started = time.monotonic()
            before = apply(sabotage, project)
            outcomes = run_tests(sabotage, project)
            (project / sabotage.file).write_text(before, encoding="utf-8")
            found.append((sabotage, outcomes))
            for outcome in outcomes:
                took = f"{time.monotonic() - started:.0f} s"
                print(f"{sabotage.promise:2} {outcome.outcome:7} {took:>6} {outcome.test}: "
                      f"{outcome.words}", flush=True)  # fmt: skip
    if options.promise is None:
        record = make_record(found, kept)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (options.out / "sabotage.json").write_text(text, encoding="utf-8")
        (options.out / "sabotage.md").write_text(as_markdown(record), encoding="utf-8")
    missed = [o for _, outcomes in found for o in outcomes if o.outcome != "failed"]
    print(f"{len(found)} faults, {len(missed)} not seen")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
