"""Out of the home: a version with its masks of the pool, and how long answers took."""

from __future__ import annotations

import csv
import io
import re
import shutil
from pathlib import Path

from ml_backend.errors import Conflict, NotFound
from ml_backend.store import Image, Store
from training.atomic import write_atomically


def export_version(
    store: Store, project_id: int, name: str | None, out: Path, *, masks: bool = False
) -> int:
    """Copy a version folder to `out`: the one in use where `name` is None.

    `masks` adds `masks/<image>.png`: 8 bits, the index of the class, 255 (VOID) for something else.

    Returns:
        Files written.

    Raises:
        NotFound: no such version. Conflict: `out` is there and not empty.
    """
    versions, project = store.versions(project_id), store.project(project_id)
    name = name or (project.current_version if project else None)
    found = [v for v in versions if name is None or v.name == name]
    if not found:
        raise NotFound(
            f"project {project_id} has no version {name or 'yet'}",
            hint=f"Known: {[v.name for v in versions]}; a version appears when a round is done.",
        )
    if out.exists() and any(out.iterdir()):
        raise Conflict(f"{out} is not empty", hint="Give a new folder.")
    version = found[-1]
    shutil.copytree(version.path, out, dirs_exist_ok=True)
    written = sum(1 for p in out.rglob("*") if p.is_file())
    return written + (_write_masks(store, project_id, Path(version.path), out) if masks else 0)


def mask_name(image: Image) -> str:
    """File name of an image's mask: what people call it, as far as every disk can hold it."""
    stem = re.sub(r"[^\w.-]+", "_", Path(image.source).stem)[:60]
    return f"{stem}-{image.image_id[:8]}.png"


def _write_masks(store: Store, project_id: int, version_dir: Path, out: Path) -> int:
    from PIL import Image as PILImage

    from training.images import ACCEPTED_PIXELS, read_image
    from training.predict import predict_mask
    from training.versions import Version, load_model

    model = load_model(Version.load(version_dir))
    folder = out / "masks"
    folder.mkdir()
    images = store.images(project_id, split="pool", status="ready")
    for image in images:
        mask = predict_mask(model, read_image(Path(image.path), ACCEPTED_PIXELS))
        PILImage.fromarray(mask).save(folder / mask_name(image))
    return len(images)


def write_lead_times(store: Store, project_id: int, path: Path) -> int:
    """Write clicks and lead_time_s of every answer that Label Studio timed, as CSV.

    The file is what `pixbal simulate --lead-times` takes its seconds from; it names nobody.

    Returns:
        Answers written.

    Raises:
        NotFound: no answer has a lead time.
    """
    timed = [label for label in store.labels(project_id) if label.lead_time_s is not None]
    if not timed:
        raise NotFound(
            f"no answer of project {project_id} has a lead time",
            hint="Label Studio records one for every answer given in its labelling window.",
        )
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("clicks", "lead_time_s"))
    rows.writerows((label.clicks, f"{label.lead_time_s:.3f}") for label in timed)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
    return len(timed)
