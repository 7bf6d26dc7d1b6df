"""Write the lock files anew from the .txt files: `python requirements/lock.py` (needs `uv`).

Versions that are locked stay unless a .txt file or `--upgrade` asks for others. Lock files are for
Linux (x86-64) and Python 3.11, with the hashes of all files of a version, so that most of it fits
elsewhere too. PyTorch is kept apart: which build fits depends on the machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BLOCK = re.compile(r"^(\S+?)==\S+ \\\n(?:    --hash=\S+(?: \\)?\n)+", re.MULTILINE)
# PyTorch, and what only its CUDA build brings.
OF_TORCH = re.compile(r"(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
# Required by the SDK, but its files are a part of those of the contrib build, in the same folder:
# whichever is unpacked last would win.
SHADOWED = "opencv-python-headless"
TORCH = """\
# PyTorch as PyPI has it for Linux (x86-64, Python 3.11) and what that build brings, with hashes.
# `make setup` and the image take the build that fits the machine instead ("torch>=2.6").
# Made by requirements/lock.py.
"""
PROJECT = """\
# Everything that project.txt brings, with hashes, but PyTorch (torch.lock). After PyTorch:
#   pip install --require-hashes --no-deps -r requirements/project.lock
# Made by requirements/lock.py.
"""
DEV = """\
# What the tests need beside project.lock, with hashes. Made by requirements/lock.py.
"""
LABEL_STUDIO = """\
# Everything that label-studio.txt brings, with hashes, for an environment of its own:
#   pip install --require-hashes --no-deps -r requirements/label-studio.lock
# Made by requirements/lock.py.
"""


def resolve(sources: list[str], locked: list[str], extra: list[str]) -> dict[str, str]:
    """Blocks of a lock file by package, for some .txt files; versions of `locked` are kept."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.lock"
        # uv keeps what the file that it writes already says.
        known = [(HERE / name).read_text(encoding="utf-8") for name in locked]
        out.write_text("".join(known), encoding="utf-8")
        subprocess.run(
            ["uv", "pip", "compile", *(str(HERE / name) for name in sources), "--quiet",
             "--generate-hashes", "--python-platform", "x86_64-manylinux_2_28",
             "--python-version", "3.11", "--no-header", "--no-annotate", "-o", str(out), *extra],
            check=True,
        )  # fmt: skip
        text = out.read_text(encoding="utf-8")
    found = {match[1]: match[0] for match in BLOCK.finditer(text)}
    if "".join(found.values()) != text:
        raise SystemExit("uv wrote lines that are no pins with hashes; nothing was changed.")
    return found


def main() -> None:
    """Write all four."""
    extra = sys.argv[1:]
    locked = ["project.lock", "torch.lock", "dev.lock"]
    every = resolve(["project.txt", "dev.txt"], locked, extra)
    needed = resolve(["project.txt"], locked, extra)
    every.pop(SHADOWED, None)
    files = {"torch.lock": TORCH, "project.lock": PROJECT, "dev.lock": DEV}
    for name, block in every.items():
        of = "project.lock" if name in needed else "dev.lock"
        files["torch.lock" if OF_TORCH.match(block) else of] += block
    label_studio = resolve(["label-studio.txt"], ["label-studio.lock"], extra)
    files["label-studio.lock"] = LABEL_STUDIO + "".join(label_studio.values())
    for name, text in files.items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
