"""The input of a training round: a frozen, hashed folder of images, region maps and labels."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.errors import SnapshotError
from training.files import file_sha256, json_bytes, read_json, sealed, unsealed, write_json
from training.regions import RegionMap

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REMAKE = "Write the snapshot again from the labels."


@dataclass(frozen=True)
class SnapshotItem:
    """A labelled image: region index -> the classes ticked for it (indices).

    With `undefined`, index len(classes) is "something else", alone or beside classes. A region with
    no class is cost without content and is ignored in training.

    possible: region index -> classes that did not exist when it was answered, so that the answer
    says nothing about them.
    """

    image_id: str
    image: Path
    regions: Path
    labels: Mapping[int, Sequence[int]]
    possible: Mapping[int, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldoutItem:
    """An image with a mask of class indices; values from len(classes) on are void."""

    image_id: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Snapshot:
    """A verified snapshot folder; `hash` names its whole content, `sha256` that of each file."""

    path: Path
    classes: tuple[str, ...]
    undefined: bool
    items: tuple[SnapshotItem, ...]
    heldout: tuple[HeldoutItem, ...]
    sha256: Mapping[str, str]  # by path inside the folder
    hash: str

    @property
    def num_outputs(self) -> int:
        """K: the classes, and the undefined one where there is one."""
        return len(self.classes) + self.undefined

    @property
    def labelled(self) -> tuple[SnapshotItem, ...]:
        """The items with at least one region that has a class."""
        return tuple(item for item in self.items if any(item.labels.values()))

    @property
    def label_count(self) -> int:
        """Regions that have a class."""
        return sum(bool(classes) for item in self.items for classes in item.labels.values())

    @property
    def clicks(self) -> int:
        """Ticked classes over all regions."""
        return sum(len(classes) for item in self.items for classes in item.labels.values())

    @property
    def labelled_hash(self) -> str:
        """Names what is learned from: classes, and images, region maps and labels in their order.

        Held-out images, which are only tested on, have no part in it.
        """
        items = [
            [
                item.image_id,
                self.file_hash(item.image),
                self.file_hash(item.regions),
                [[index, *item.labels[index]] for index in sorted(item.labels)],
            ]
            for item in self.labelled
        ]
        content = {"classes": self.classes, "undefined": self.undefined, "items": items}
        possible = {
            item.image_id: {str(i): sorted(item.possible[i]) for i in sorted(item.possible)}
            for item in self.labelled
            if item.possible
        }
        content |= {"possible": possible} if possible else {}
        return hashlib.sha256(json_bytes(content)).hexdigest()

    def file_hash(self, file: Path) -> str:
        """SHA-256 of a file of this snapshot."""
        return self.sha256[file.relative_to(self.path).as_posix()]

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """Read and verify every file; SnapshotError names the first one missing or changed."""
        manifest = _read_manifest(path)
        for name, digest in manifest["sha256"].items():
            _verify(path / name, name, digest)
        return _snapshot(path, manifest)


def write_snapshot(
    out: Path,
    *,
    classes: Sequence[str],
    undefined: bool,
    items: Sequence[SnapshotItem],
    heldout: Sequence[HeldoutItem] = (),
) -> Snapshot:
    """Freeze images, region maps, labels and masks under `out`, by hard link or copy.

    An equal snapshot already at `out` is returned. Raises SnapshotError for a different one there,
    a missing file, names that clash, an unknown class or a region that the map does not have.
    """
    _check_names(classes, [*items, *heldout])
    temporary = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    (temporary / "images").mkdir(parents=True)
    try:
        manifest = _fill(temporary, tuple(classes), undefined, items, heldout)
        if not (out / "manifest.json").is_file():
            write_json(temporary / "manifest.json", sealed(manifest))
            try:
                os.rename(temporary, out)
            except OSError as error:
                raise SnapshotError(
                    f"{out} is in the way of a new snapshot: {error}.", hint="Move it away."
                ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    existing = Snapshot.load(out)
    if existing.hash != _manifest_hash(manifest):
        raise SnapshotError(
            f"{out} holds another snapshot.", hint="Snapshots never change: choose a new folder."
        )
    return existing


def _fill(
    folder: Path,
    classes: tuple[str, ...],
    undefined: bool,
    items: Iterable[SnapshotItem],
    heldout: Iterable[HeldoutItem],
) -> dict[str, Any]:
    sha256: dict[str, str] = {}

    def keep(source: Path, kind: str, image_id: str) -> str:
        name = f"{kind}/{image_id}{source.suffix.lower()}"
        (folder / kind).mkdir(exist_ok=True)
        _link(source, folder / name)
        sha256[name] = file_sha256(folder / name)
        return name

    manifest: dict[str, Any] = {"format": FORMAT, "classes": list(classes), "undefined": undefined}
    manifest["items"] = [
        {
            "image_id": item.image_id,
            "image": keep(item.image, "images", item.image_id),
            "regions": keep(item.regions, "regions", item.image_id),
            "labels": _checked_labels(item, len(classes) + undefined),
        }
        | _possible(item, len(classes))
        for item in sorted(items, key=lambda item: item.image_id)
    ]
    manifest["heldout"] = [
        {
            "image_id": item.image_id,
            "image": keep(item.image, "images", item.image_id),
            "mask": keep(item.mask, "masks", item.image_id),
        }
        for item in sorted(heldout, key=lambda item: item.image_id)
    ]
    manifest["sha256"] = sha256
    return manifest


def _check_names(classes: Sequence[str], items: Sequence[SnapshotItem | HeldoutItem]) -> None:
    if not classes or len(set(classes)) != len(classes):
        raise SnapshotError(
            f"A snapshot needs distinct classes, got {list(classes)!r}.", hint="List each one once."
        )
    seen: set[str] = set()
    for item in items:
        if not _NAME.fullmatch(item.image_id):
            raise SnapshotError(
                f"Image id {item.image_id!r} cannot name a file.",
                hint="Use 1-100 letters, digits, '.', '_' or '-', the first no dot.",
            )
        if item.image_id in seen:
            raise SnapshotError(
                f"Image id {item.image_id!r} occurs twice.",
                hint="Name each image once; a held-out image must not be trained on.",
            )
        seen.add(item.image_id)


def _checked_labels(item: SnapshotItem, outputs: int) -> dict[str, list[int]]:
    count = RegionMap.load(item.regions).count if item.labels else 0
    for index, chosen in item.labels.items():
        if not 0 <= index < count:
            raise SnapshotError(
                f"{item.image_id} has regions 0..{count - 1}, a label names region {index}.",
                hint="Labels hold only with the region map they were asked on.",
            )
        wrong = [c for c in chosen if not 0 <= c < outputs]
        if wrong:
            raise SnapshotError(
                f"Region {item.image_id}:{index} has class index {wrong[0]}, known are "
                f"0..{outputs - 1}.",
                hint="Use the indices of the classes given; the one after them is 'undefined'.",
            )
    return {str(i): sorted(set(chosen)) for i, chosen in sorted(item.labels.items())}


def _possible(item: SnapshotItem, classes: int) -> dict[str, Any]:
    """The entry of a manifest; none where every class was known, as in older snapshots."""
    for index, open_ in item.possible.items():
        known = item.labels.get(index, ())
        wrong = [c for c in open_ if not 0 <= c < classes or c in known]
        if wrong or not known:
            raise SnapshotError(
                f"Region {item.image_id}:{index} has the labels {list(known)}, beside which the "
                f"classes {list(open_)} are to be possible.",
                hint="Name classes that exist and are not ticked, for regions that have a label.",
            )
    rows = {str(i): sorted(set(open_)) for i, open_ in sorted(item.possible.items()) if open_}
    return {"possible": rows} if rows else {}


def _link(source: Path, target: Path) -> None:
    if not source.is_file():
        raise SnapshotError(f"There is no file {source}.", hint="Import the image again.")
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _verify(file: Path, name: str, digest: str) -> None:
    try:
        found = file_sha256(file)
    except OSError as error:
        raise SnapshotError(f"The snapshot lacks its file {name}.", hint=_REMAKE) from error
    if found != digest:
        raise SnapshotError(
            f"The file {name} of the snapshot has changed since it was written.", hint=_REMAKE
        )


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(manifest)).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = unsealed(read_json(path / "manifest.json"))
        if manifest["format"] != FORMAT:
            raise SnapshotError(
                f"Snapshot format {manifest['format']} is not {FORMAT}.", hint=_REMAKE
            )
        return dict(manifest) | {"sha256": dict(manifest["sha256"])}
    except FileNotFoundError as error:
        raise SnapshotError(f"There is no snapshot at {path}.", hint=_REMAKE) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SnapshotError(f"{path}/manifest.json is damaged: {error}.", hint=_REMAKE) from error


def _snapshot(path: Path, manifest: Mapping[str, Any]) -> Snapshot:
    try:
        items = tuple(
            SnapshotItem(
                entry["image_id"],
                path / entry["image"],
                path / entry["regions"],
                {int(i): tuple(classes) for i, classes in entry["labels"].items()},
                {int(i): tuple(classes) for i, classes in entry.get("possible", {}).items()},
            )
            for entry in manifest["items"]
        )
        heldout = tuple(
            HeldoutItem(entry["image_id"], path / entry["image"], path / entry["mask"])
            for entry in manifest["heldout"]
        )
        classes, undefined = tuple(manifest["classes"]), bool(manifest["undefined"])
        # One of the first release has no seal: edited, it must not index past an array's end.
        for item in items:
            _checked_labels(item, len(classes) + undefined)
            _possible(item, len(classes))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{path}/manifest.json is damaged: {error}.", hint=_REMAKE) from error
    digest = _manifest_hash(manifest)
    return Snapshot(path, classes, undefined, items, heldout, manifest["sha256"], digest)
