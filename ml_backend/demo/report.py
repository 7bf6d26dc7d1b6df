"""What the demonstration shows at its end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from ml_backend.demo.servers import Running


def results_table(report: dict[str, Any]) -> Table:
    """One line per round; the same numbers as in `demo.json`."""
    table = Table(title=f"{report['data']}: {report['images']} images, {report['tasks']} tasks")
    columns = (
        "round",
        "regions",
        "clicks",
        "annotating s",
        "training s",
        "mIoU before",
        "mIoU after",
    )
    for column in (*columns, "model version"):
        table.add_column(column)
    for row in report["rounds"]:
        before, after = row["miou_before"], row["miou_after"]
        table.add_row(
            str(row["round"]),
            str(row["regions"]),
            str(row["clicks"]),
            f"{row['annotating_s']:.0f}",
            f"{row['training_s']:.0f}",
            "no model" if before is None else f"{before:.3f}",
            "-" if after is None else f"{after:.3f}",
            row["model_version"],
        )
    return table


def print_addresses(console: Console, running: Running, report: dict[str, Any]) -> None:
    """Where to look and how to log in; the password is that of a server made for this."""
    server = running.label_studio
    console.print(f"Label Studio: {running.settings.project_page(report['project'])}")
    console.print(f"log in as: {server.user}   password: {server.password}", markup=False)
    console.print(f"backend: {running.settings.public_url}")
