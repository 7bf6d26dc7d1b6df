"""`pixbal ask-again`: ask regions once more, without losing what was answered."""

from __future__ import annotations

import click

from ml_backend import cli_common


@click.command(
    "ask-again",
    epilog="Examples: pixbal ask-again --flagged  |  pixbal ask-again --task 812  |  "
    "pixbal ask-again --annotator 2 --last 5",
)
@click.option("--project", type=cli_common.ID, help="Label Studio project id.")
@click.option(
    "--task", type=cli_common.ID, help="The region that this Label Studio task asks about."
)
@click.option("--region", help="The region of this name, IMAGE:INDEX, as tasks carry it.")
@click.option("--flagged", is_flag=True, help="Answers that nobody may have looked at.")
@click.option("--annotator", help="What this user of Label Studio answered (the id, a number).")
@click.option("--last", type=click.IntRange(1), help="Only so many of the annotator's answers.")
def ask_again(
    project: int | None,
    task: int | None,
    region: str | None,
    flagged: bool,
    annotator: str | None,
    last: int | None,
) -> None:
    """Ask regions once more; the first answer counts until the new one is given."""
    from ml_backend import ask_again as again
    from ml_backend.runtime import Runtime

    ways = [task is not None, region is not None, flagged, annotator is not None]
    if sum(ways) != 1:
        raise click.UsageError("Give one of --task, --region, --flagged and --annotator.")
    if last is not None and annotator is None:
        raise click.UsageError("--last goes with --annotator.")
    settings, store, ls = cli_common.open_all()
    runtime = Runtime(settings, store, ls)
    row = runtime.project(cli_common.only_project(store, project))
    if task is not None:
        wanted = again.by_task(store, row.id, task)
    elif region is not None:
        wanted = again.by_region(region)
    elif annotator is not None:
        wanted = again.by_annotator(store, row.id, annotator, last)
    else:
        wanted = again.by_flags(store, row)
        if not wanted:
            click.echo("no answer is flagged")
            return
    click.echo(str(again.ask_again(runtime, row, wanted)))


COMMANDS = (ask_again,)
