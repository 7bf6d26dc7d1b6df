"""`make demo`'s command: two whole rounds on CamVid, then nothing is left running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(1500)
def test_two_rounds_on_camvid(camvid: Path, tmp_path: Path) -> None:
    """The same data, seed and answers give the same two models on CPU, so they can be compared."""
    out = tmp_path / "demo.json"
    command = [str(Path(sys.executable).parent / "pixbal"), "demo"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path / "demo"), "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PIXBAL_DATA": str(camvid.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    report = json.loads(out.read_text())
    assert report["data"] == "CamVid"
    first, second = report["rounds"]
    assert (first["model_version"], second["model_version"]) == ("p1-r1", "p1-r2")
    assert first["miou_before"] is None
    assert second["miou_before"] == first["miou_after"]
    assert second["miou_after"] > first["miou_after"] > 0.15
    assert report["duplicate_tasks"] == 0
    assert report["answered"] == first["regions"] + second["regions"]
    assert report["tasks"] == report["answered"] + report["open"]
    for word in ("Label Studio: http://", "log in as:", "mIoU"):
        assert word in done.stdout
    assert processes_of(tmp_path) == []


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes whose environment or arguments name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder / "demo").encode() in text and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
