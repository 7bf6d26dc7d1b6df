"""What `pixbal bench` found: rows, the machine they were measured on, JSON and markdown."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from training.bench_timing import Times
from training.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "numpy", "opencv-contrib-python-headless", "scikit-image")


@dataclass(frozen=True)
class Row:
    """One measurement; None where there is nothing to say.

    `value` is wall-clock time where it is a time, and `cpu` the same in CPU time where one thread
    works alone. `baseline` took turns with it. Ratio and target are judged by CPU time where there
    is one: other programs on the machine do not enter it.
    """

    group: str
    what: str
    value: float | None  # None: could not be measured here; `note` says why
    unit: str
    cpu: float | None = None
    baseline: float | None = None
    cpu_baseline: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


def timed(
    group: str,
    what: str,
    ours: Times,
    baseline: Times | None = None,
    *,
    most_ms: float = math.inf,
    most_ratio: float = math.inf,
    one_thread: bool = True,
    note: str = "",
) -> Row:
    """A row of times in ms; `one_thread` False (a GPU, several processes) leaves CPU time out."""
    clock = 1 if one_thread else 0
    ratio = None if baseline is None else ours[clock] / max(baseline[clock], 1e-9)
    targets = [f"at most {most_ms:g} ms"] * (most_ms < math.inf)
    targets += [f"at most {most_ratio:g}x"] * (most_ratio < math.inf)
    met = ours[clock] <= most_ms and (ratio is None or ratio <= most_ratio)
    return Row(
        group,
        what,
        ours.wall_ms,
        "ms",
        ours.cpu_ms if one_thread else None,
        None if baseline is None else baseline.wall_ms,
        baseline.cpu_ms if baseline is not None and one_thread else None,
        ratio,
        ", ".join(targets),
        met if targets else None,
        note,
    )


def measured(
    group: str,
    what: str,
    value: float,
    unit: str,
    *,
    most: float = math.inf,
    least: float = -math.inf,
    note: str = "",
    **fields: float | None,
) -> Row:
    """A row of a number that is no time; `fields` are cpu, baseline, ratio of Row."""
    target = f"at most {most:g} {unit}" if most < math.inf else ""
    target = f"at least {least:g} {unit}" if least > -math.inf else target
    met = least <= value <= most if target else None
    return Row(group, what, value, unit, target=target.strip(), met=met, note=note, **fields)


def absent(group: str, what: str, unit: str, note: str, target: str = "") -> Row:
    """A row that cannot be measured here; `note` says why and where it can."""
    return Row(group, what, None, unit, target=target, note=note)


@dataclass(frozen=True)
class Report:
    """Machine, options and rows of one run."""

    machine: Mapping[str, Any]
    options: Mapping[str, Any]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` is the inverse."""
        rows = [asdict(row) for row in self.rows]
        return {"machine": dict(self.machine), "options": dict(self.options), "rows": rows}

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read `to_json` output. Raises DataError."""
        try:
            rows = tuple(Row(**row) for row in values["rows"])
            return cls(dict(values["machine"]), dict(values["options"]), rows)
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(
                f"This is no result of a benchmark: {error!r}.",
                hint="Make one with `pixbal bench --json FILE`.",
            ) from error


def describe_machine() -> dict[str, Any]:
    """Processor, cores, load now, GPU, versions of what does the work, and the commit."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "load": [round(value, 2) for value in os.getloadavg()],
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """As the kernel names it; virtual machines tell little, so family and model come along."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {key.strip(): value.strip() for key, value in pairs}
    name = facts.get("model name", platform.machine())
    if "cpu family" in facts and "model" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def _commit() -> str | None:
    """Short hash of the checkout, with "+" for changes to what is tracked; None outside one."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def number(value: float | None) -> str:
    """Three digits; thousands with commas; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


HEADER = ("what", "wall", "CPU", "baseline", "ratio", "target", "met")


def cells(row: Row) -> tuple[str, ...]:
    """The cells of a row below HEADER; baseline by the clock that the ratio is made by."""
    what = f"{row.what} ({row.note})" if row.note else row.what
    base = row.baseline if row.cpu_baseline is None else row.cpu_baseline
    met = {True: "yes", False: "**missed**", None: ""}[row.met]
    return (
        what,
        "-" if row.value is None else f"{number(row.value)} {row.unit}".strip(),
        "" if row.cpu is None else number(row.cpu),
        "" if base is None else number(base),
        "" if row.ratio is None else f"{number(row.ratio)}x",
        row.target,
        met,
    )


def markdown(report: Report) -> str:
    """The machine in words, then the table, with a line for each group."""
    lines = [*machine_lines(report), "", f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    group = ""
    for row in report.rows:
        if row.group != group:
            group = row.group
            lines.append(f"| **{group}** |" + " |" * (len(HEADER) - 1))
        lines.append(f"| {' | '.join(cells(row))} |")
    return "\n".join(lines)


def machine_lines(report: Report) -> list[str]:
    """How and on what it was measured, as two sentences of markdown."""
    machine, versions = report.machine, report.machine["versions"]
    used = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if version)
    load = ", ".join(f"{value:g}" for value in machine["load"])
    commit = f" at commit `{machine['commit']}`" if machine["commit"] else ""
    return [
        f"`pixbal bench`{commit}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['gpu'] or 'no GPU'}, load at the start {load} (1, 5, 15 min); "
        f"OMP_NUM_THREADS={machine['omp_num_threads'] or 'unset'}; "
        f"Python {machine['python']}, {used}.",
        "",
        f"Medians of {report.options['repeats']}; what is compared takes turns, on one thread. "
        "Times in ms: by the wall clock, and, where one thread works alone, of CPU. Baseline, "
        "ratio and target are judged by CPU time where it is given, else by the wall clock.",
    ]
