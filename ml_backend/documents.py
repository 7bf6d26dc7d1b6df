"""Tables of the README made from the code; `python -m ml_backend.documents` rewrites them."""

from __future__ import annotations

import re
from pathlib import Path

from ml_backend.cli import main
from ml_backend.settings import settings_table
from training.bench_report import Report, markdown
from training.files import read_json

ROOT = Path(__file__).resolve().parents[1]


def commands_table() -> str:
    """Every command and the first line of its help, as a markdown table."""
    rows = [
        f"| `pixbal {name}` | {command.get_short_help_str(limit=200)} |"
        for name, command in sorted(main.commands.items())
    ]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def bench_table() -> str:
    """What `pixbal bench --json docs/bench.json` found, missed targets and all."""
    return markdown(Report.from_json(read_json(ROOT / "docs" / "bench.json")))


def rewrite(text: str) -> str:
    """The README with its generated parts made anew; everything else as it is."""
    tables = (
        ("commands", commands_table()), ("settings", settings_table()), ("bench", bench_table()),
    )  # fmt: skip
    for name, table in tables:
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text = pattern.sub(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(rewrite(path.read_text(encoding="utf-8")), encoding="utf-8")
