"""Commands about one project: init, masks, push, train, status, reconcile, export, lead-times."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ml_backend import cli_common

project_option = click.option("--project", type=cli_common.ID, help="Label Studio project id.")


def _parse_per_image(context: click.Context, option: click.Parameter, value: str) -> int | None:
    from ml_backend.project_settings import SETTINGS

    try:
        parsed: int | None = SETTINGS["per-image"].parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return parsed


@click.command(
    epilog="Examples: pixbal init --images photos/ --classes camvid  |  "
    "pixbal init --from-project 7 --classes classes.json --budget 300"
)
@click.option("--images", multiple=True, help="Folder, glob in quotes, or .txt list of images.")
@click.option(
    "--from-project", type=cli_common.ID, help="Take the image tasks of this Label Studio project."
)
@click.option(
    "--classes",
    required=True,
    help="camvid, cityscapes, voc2012, ade20k, coco_stuff, or a JSON file.",
)
@click.option("--heldout", help="Folder with images/ and masks/ that only measure the model.")
@click.option("--title", default="PixBal regions", show_default=True, help="Title in Label Studio.")
@click.option(
    "--project", type=cli_common.ID, help="Adopt this Label Studio project for the region tasks."
)
@click.option("--template", default="region_multiclass", show_default=True,
              type=click.Choice(["region_multiclass", "region_dominant"]))  # fmt: skip
@click.option(
    "--method", help="Superpixels: seeds, slic, felzenszwalb, quickshift, watershed, grid."
)
@click.option(
    "--side", default=32, show_default=True, type=click.IntRange(4, 512), help="Region side in px."
)
@click.option(
    "--budget", default=500.0, show_default=True, type=click.FloatRange(1), help="Clicks per round."
)
@click.option(
    "--train-every", type=click.IntRange(1), help="Also train after this many new labels."
)
@click.option("--config", default="cpu", show_default=True, help="Training preset, or a JSON file.")
@click.option("--set", "overrides", multiple=True, help="Override, such as stage1.lr=1e-4.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option(
    "--preticks", default="auto", show_default=True, type=click.Choice(["auto", "always", "never"]),
    help="Tick predicted classes in advance; auto: once that is seen to save keys.",
)  # fmt: skip
@click.option(
    "--per-image", default="auto", show_default=True, callback=_parse_per_image,
    help="Most questions about one image in a batch; 0: no limit.",
)  # fmt: skip
@click.option(
    "--smallest-share", default=0.2, show_default=True, type=click.FloatRange(0, 1),
    help="Annotators leave out classes under this share of a region; 0: every class counts.",
)  # fmt: skip
@click.option(
    "--push/--no-push", default=True, show_default=True, help="Push the first questions now."
)
def init(**options: Any) -> None:
    """Create or adopt a Label Studio project, import images, connect, push the first questions."""
    from rich.progress import Progress

    from ml_backend.init import InitRequest, initialise, method_warning

    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given = {name for name in options if context.get_parameter_source(name) is not default}
    settings, store, ls = cli_common.open_all()
    request = InitRequest(**options, given=frozenset(given))
    # Before the import, so that it can be stopped; the report says it again.
    for line in method_warning(request):
        click.echo(line, err=True)
    with Progress(transient=True) as bar:
        task = bar.add_task("Reading images and cutting them into regions", total=None)
        report = initialise(
            settings,
            store,
            ls,
            request,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    for line in report.lines():
        click.echo(line)


@click.command(epilog="Example: pixbal masks --project 7")
@click.option(
    "--project", type=cli_common.ID, required=True, help="Label Studio project of whole images."
)
@click.option(
    "--region-project",
    type=cli_common.ID,
    help="Whose model draws them; kept until another is named, at first the only one there is.",
)
def masks(project: int, region_project: int | None) -> None:
    """Show predicted masks in an image project with brush or polygon labels."""
    from ml_backend.masks import show_masks

    settings, store, ls = cli_common.open_all()
    for line in show_masks(settings, store, ls, project, region_project).lines():
        click.echo(line)


@click.command(epilog="Example: pixbal push --project 3")
@project_option
def push(project: int | None) -> None:
    """Push the next questions now (the worker does it by itself after every round)."""
    from ml_backend.push_now import push_now
    from ml_backend.runtime import Runtime

    settings, store, ls = cli_common.open_all()
    project_id = cli_common.only_project(store, project)
    cli_common.refuse_idle(store, project_id)
    click.echo(push_now(Runtime(settings, store, ls), project_id))


@click.command(epilog="Example: pixbal train --project 3")
@project_option
def train(project: int | None) -> None:
    """Ask the worker to train on the labels there are, without waiting for the batch."""
    from ml_backend.asking import TRAIN, ask
    from ml_backend.cycle import why_not_now
    from ml_backend.liveness import look_at_workers
    from ml_backend.runtime import Runtime
    from ml_backend.words import NO_WORKER

    settings, store, ls = cli_common.open_all()
    project_id = cli_common.only_project(store, project)
    cli_common.refuse_idle(store, project_id)
    reason = why_not_now(Runtime(settings, store, ls), project_id)
    if reason is not None:
        click.echo(reason)
        return
    ask(store, project_id, TRAIN)
    if any(worker.alive for worker in look_at_workers(settings, store)):
        click.echo("asked; the worker starts as soon as it is free (see `pixbal status`)")
    else:
        click.echo(f"asked, but {NO_WORKER}")


@click.command(epilog="Example: pixbal status --json")
@project_option
@click.option("--all", "everything", is_flag=True, help="Archived projects too.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(project: int | None, everything: bool, as_json: bool) -> None:
    """Show each project: questions, labels, clicks, the running round, versions."""
    from rich.console import Console

    from ml_backend.ingest import REGION_TEMPLATES
    from ml_backend.liveness import look_at_workers
    from ml_backend.status import project_status, status_tables
    from ml_backend.words import NO_WORKER

    settings, store, _ = cli_common.open_all()
    regions = [p for p in store.projects() if p.template in REGION_TEMPLATES]
    shown = [p.id for p in regions if everything or p.state != "archived"]
    wanted = [cli_common.only_project(store, project)] if project else shown
    workers = look_at_workers(settings, store)
    found = [project_status(settings, store, project_id, workers) for project_id in wanted]
    if as_json:
        cli_common.echo_json(found)
        return
    hidden = len(regions) - len(shown)
    if hidden and not project:
        click.echo(
            f"{hidden} archived project{'s' * (hidden > 1)} not shown: `pixbal status --all`"
        )
    elif not found:
        click.echo("no project yet; make one with `pixbal init --images ... --classes ...`")
    console = Console()
    for worker in workers:
        sign = "alive" if worker.alive else "no sign of it: see `pixbal doctor`"
        console.print(f"worker {worker.id}: {sign}", markup=False, highlight=False)
    if not any(worker.alive for worker in workers):
        console.print(NO_WORKER)
    for item in found:
        for table in status_tables(item):
            console.print(table)


@click.command(epilog="Example: pixbal reconcile")
@project_option
def reconcile(project: int | None) -> None:
    """Compare the labels here with Label Studio's, and correct what a lost webhook left."""
    from ml_backend import reconcile as reconciling
    from ml_backend.copies import remove_copies
    from ml_backend.leases import holding, push_lease

    settings, store, ls = cli_common.open_all()
    number = cli_common.only_project(store, project)
    report = reconciling.reconcile(store, ls, number, datetime.now(UTC))
    click.echo(str(report))
    if report.copies:
        with holding(store, settings.lease_s, push_lease(number), wait=False):
            click.echo(f"{remove_copies(store, ls, number, report.copies)} tasks deleted")


@click.command(epilog="Example: pixbal export --out model/")
@project_option
@click.option("--version", "name", help="Version name; the one in use by default.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--masks/--no-masks", default=False, help="Also write a mask of every pool image.")
def export(project: int | None, name: str | None, out: Path, masks: bool) -> None:
    """Copy a version (weights, config, metrics) and, if asked, its masks of the pool."""
    from ml_backend.export import export_version

    _, store, _ = cli_common.open_all()
    written = export_version(store, cli_common.only_project(store, project), name, out, masks=masks)
    click.echo(f"wrote {written} files to {out}")


@click.command(epilog="Example: pixbal lead-times --out lead_times.csv")
@project_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV file to write.")
def lead_times(project: int | None, out: Path) -> None:
    """Write clicks and seconds of every answer, for `pixbal simulate --lead-times`."""
    from ml_backend.export import write_lead_times

    _, store, _ = cli_common.open_all()
    written = write_lead_times(store, cli_common.only_project(store, project), out)
    click.echo(f"wrote {written} answers to {out}")


COMMANDS = (init, masks, push, train, status, reconcile, export, lead_times)
