"""Every test, in two processes at once: those with real servers, and all others.

    python tests/run_all.py [pytest's own arguments, for one run of what they choose]

Servers mostly wait for each other, so two runs on two cores take little more than one. What the
servers' run says comes when the other has ended. Ends with 1 where one of them failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

# Two runs must not write one cache.
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


def main(arguments: list[str]) -> int:
    """Run all, or what the arguments choose."""
    if arguments:
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode
    with tempfile.TemporaryFile() as said:
        servers = subprocess.Popen([*PYTEST, "-m", "server"], stdout=said, stderr=subprocess.STDOUT)
        try:
            others = subprocess.run([*PYTEST, "-m", "not server"], check=False).returncode
            print("\nthe tests with real servers:", flush=True)
            real = servers.wait()
        finally:
            servers.terminate()
        said.seek(0)
        sys.stdout.write(said.read().decode(errors="replace"))
    return int(bool(others or real))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
