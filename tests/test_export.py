"""A version out of the home: the one in use, unless another is named; its masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backend_helpers import at, make_image, make_store
from training_helpers import tiny_config, tiny_snapshot, write_pool

from ml_backend.export import export_version
from ml_backend.store import VersionRow
from training.images import read_mask
from training.predict import VOID
from training.rounds import run_round
from training.versions import Version


def test_the_version_in_use_is_taken_not_the_last_one(tmp_path: Path) -> None:
    with make_store(tmp_path) as store:
        for number, name in enumerate(("r1", "p4-r2"), 1):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "name.txt").write_text(name)
            store.add_version(VersionRow(4, name, number, str(folder), {}, "h", at(number)))

        def exported(name: str | None) -> str:
            out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
            export_version(store, 4, name, out)
            return (out / "name.txt").read_text()

        store.update_project(4, current_version="p4-r2")
        assert (exported(None), exported("r1")) == ("p4-r2", "r1")
        store.update_project(4, current_version="r1")  # rolled back
        assert (exported(None), exported("p4-r2")) == ("r1", "p4-r2")


def test_something_else_is_255_in_exported_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tiny_snapshot(tmp_path)
    version = run_round(snapshot.path, replace(tiny_config(), seed=1), tmp_path / "v", name="r1")

    def half(
        model: object, features: object, native: tuple[int, int], outputs: int, maps: object
    ) -> np.ndarray:
        mask = np.zeros(native, np.uint8)
        mask[native[0] // 2 :] = outputs - 1  # the undefined output is the last one
        return mask

    monkeypatch.setattr("training.predict._mask", half)
    assert Version.load(version.path).undefined
    with make_store(tmp_path) as store:
        ((name, path, regions, _),) = write_pool(tmp_path / "pool", 1)
        store.add_images([make_image(4, name, path=str(path), regions_path=str(regions))])
        row = VersionRow(4, "r1", 1, str(version.path), {}, version.weights_hash, at(1))
        store.add_version(row)
        export_version(store, 4, None, tmp_path / "out", masks=True)
    (mask,) = (read_mask(path) for path in (tmp_path / "out" / "masks").iterdir())
    assert np.unique(mask[: len(mask) // 2]).tolist() == [0]
    assert np.unique(mask[len(mask) // 2 :]).tolist() == [VOID] == [255]
