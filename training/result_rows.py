"""Figures of all experiments in one list: docs/results.json, and docs/results.md made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from training.atomic import write_atomically
from training.files import read_json, write_json
from training.result_curves import GOALS, curve, reach, share_of_full
from training.results import Results, ResultsError

KEYS = (
    "experiment", "dataset", "size", "method", "clicks", "questions", "seconds", "budget_share",
    "miou_mean", "miou_std", "share_of_full", "seeds", "command", "commit", "machine",
)  # fmt: skip
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
_HEADER = (
    "method", "clicks", "budget", "questions", "seconds", "mIoU", "of full supervision", "seeds",
)  # fmt: skip
_AGAIN = "Remove the file and merge the results of all experiments again."


def results_rows(results: Results) -> list[dict[str, Any]]:
    """A row for each method and round, over the runs that are done.

    clicks, questions and seconds are means over seeds as whole numbers, budget_share = clicks /
    regions of the pool; miou_mean, miou_std and share_of_full are shares; miou_std is None for one
    seed, share_of_full where full supervision was not trained; seeds is their list.
    """
    return [
        {
            "experiment": results.experiment,
            "dataset": results.dataset,
            "size": results.size,
            "method": method,
            "clicks": round(point.clicks),
            "questions": round(point.questions),
            "seconds": round(point.seconds),
            "budget_share": point.clicks / results.pool_regions,
            "miou_mean": point.miou,
            "miou_std": point.std,
            "share_of_full": share_of_full(results, point.miou),
            "seeds": list(point.seeds),
            "command": results.command,
            "commit": results.commit,
            "machine": results.machine,
        }
        for method in results.methods
        for point in curve(results, method)
    ]


def merge_results(path: Path, results: Results) -> list[dict[str, Any]]:
    """Put the rows of `results` into the JSON list at `path`, in place of older rows of the same
    experiment, data set and size; returns all rows, sorted by these. Other rows stay.

    Raises: ResultsError if the file is no such list.
    """
    new = results_rows(results)
    mine = (results.experiment, results.dataset, results.size)
    kept = [row for row in read_rows(path) if _experiment(row) != mine] if path.exists() else []
    rows = sorted(kept + new, key=_experiment)  # stable: methods and rounds keep their order
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rows)
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows at `path`. Raises ResultsError if it is missing or holds anything else."""
    try:
        rows = read_json(path)
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read as JSON: {error}.", hint=_AGAIN) from error
    if not isinstance(rows, list):
        raise ResultsError(f"{path} holds no list of rows.", hint=_AGAIN)
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(KEYS):
            raise ResultsError(
                f"Row {index} of {path} does not have exactly the keys {', '.join(KEYS)}.",
                hint=_AGAIN,
            )
    return rows


def results_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A heading, command, commit, machine and a table for each experiment, in the rows' order."""
    lines: list[str] = []
    for (experiment, dataset, size), group in groupby(rows, key=_experiment):
        members = list(group)
        first = members[0]
        lines += [
            f"### {_plain(experiment)}: {_plain(dataset)}, size {_plain(size)}",
            "",
            f"{_code(first['command'])} at commit {_code(first['commit'])}; "
            f"{_plain(first['machine'])}.",
            "",
            f"| {' | '.join(_HEADER)} |",
            "|---" + "|--:" * (len(_HEADER) - 1) + "|",
            *(f"| {' | '.join(_cells(row))} |" for row in members),
            "",
            *_goals(members),
        ]
    return "\n".join(lines)


def write_markdown(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the tables between the marks BEGIN and END of a document; the text around stays.

    A document that does not exist yet is made with the marks.

    Raises: ResultsError if it exists without both marks, in order.
    """
    text = path.read_text("utf-8") if path.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    start, end = text.find(BEGIN), text.find(END)
    if not 0 <= start < end:
        raise ResultsError(
            f"{path} lacks the lines {BEGIN} and {END}.",
            hint="Put them where the tables belong.",
        )
    whole = f"{text[: start + len(BEGIN)]}\n\n{results_markdown(rows)}\n{text[end:]}".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(whole))


def _experiment(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return (row["experiment"], row["dataset"], row["size"])


def _goals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each method paid for 90 and 95 % of full supervision; nothing where that is unknown."""
    lines = []
    for goal in GOALS:
        reached = []
        for method, group in groupby(rows, key=lambda row: str(row["method"])):
            points = [(r["clicks"], r["seconds"], r["share_of_full"]) for r in group]
            if any(share is None for *_, share in points):
                return []
            costs = [
                reach([(float(p[axis]), float(p[2])) for p in points], goal) for axis in (0, 1)
            ]
            if costs[0] is not None and costs[1] is not None:
                reached.append(f"{_plain(method)} {costs[0]:,.0f} clicks, {costs[1]:,.0f} s")
        lines.append(f"{goal:.0%} of full supervision: {'; '.join(reached) or 'not reached'}.  ")
    return [*lines, ""]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    std, share = row["miou_std"], row["share_of_full"]
    return (
        _plain(row["method"]),
        f"{row['clicks']:,}",
        f"{100 * row['budget_share']:.2f} %",
        f"{row['questions']:,}",
        f"{row['seconds']:,}",
        f"{100 * row['miou_mean']:.1f}" + ("" if std is None else f" ± {100 * std:.1f}"),
        "" if share is None else f"{100 * share:.1f} %",
        ", ".join(str(seed) for seed in row["seeds"]),
    )


def _plain(text: str) -> str:
    """Text that neither ends a cell nor is read as markup."""
    marks = "\\`*_[]<>|&#"
    return " ".join("".join(f"\\{c}" if c in marks else c for c in text).split())


def _code(text: str) -> str:
    """Inline code around any text: the fence is longer than every run of backticks in it."""
    line = " ".join(text.split())
    runs = [len(list(group)) for mark, group in groupby(line) if mark == "`"]
    fence = "`" * (max(runs, default=0) + 1)
    return f"{fence} {line} {fence}" if runs else f"{fence}{line}{fence}"


def publish(folder: Path, results: Results) -> None:
    """Merge `results` into `folder`/results.json and write the tables of `folder`/results.md.

    Raises: ResultsError if one of them exists and is something else.
    """
    rows = merge_results(folder / "results.json", results)
    write_markdown(folder / "results.md", rows)
