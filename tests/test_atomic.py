"""Checkpoints under SIGKILL: two hundred writers die at random; what is left is old or new."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
KILLS = 200

# Forks writers, kills each after a random time, and loads what it left, in one process: PyTorch is
# imported once.
KILLER = """
import logging, os, random, signal, sys, time
from pathlib import Path
from test_atomic import Model, filled, restored, save

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
warned = []
logging.getLogger("training.checkpoints").addHandler(
    type("Count", (logging.Handler,), {"emit": lambda self, record: warned.append(record)})()
)
draw = random.Random(7)
begun = time.monotonic()
for epoch in range(1, 6):
    save(folder / "undisturbed", epoch)
one_save_s = (time.monotonic() - begun) / 5
epochs = [0]
for _ in range(kills):
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        epoch = epochs[-1]
        os.write(say, b"!")
        while True:
            epoch += 1
            save(folder, epoch)
    os.read(ready, 1)
    time.sleep(draw.uniform(0, 3 * one_save_s))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(say)
    epoch, model, optimiser = restored(folder)
    assert filled(model, optimiser, epoch), f"mixed content after epoch {epoch}"
    assert epoch >= epochs[-1], f"epoch {epochs[-1]} was lost: {epoch}"
    assert not warned, warned[0].getMessage()
    epochs.append(epoch)
print(len(set(epochs)))
"""


class Model(torch.nn.Module):
    """Some tensors, large enough for a write to take a while; not a network."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(frozen_encoder=False)
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(20_000))] * 1)
        self.more = torch.nn.Parameter(torch.zeros(300, 200))


def save(folder: Path, epoch: int) -> None:
    """A checkpoint whose every number is the epoch."""
    model = Model()
    optimiser = torch.optim.AdamW(model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(epoch)
            optimiser.state[parameter] = {
                "step": torch.tensor(float(epoch)),
                "exp_avg": torch.full_like(parameter, epoch),
                "exp_avg_sq": torch.full_like(parameter, epoch),
            }
    Checkpoints(folder).save(epoch, model, optimiser)  # type: ignore[arg-type]


def restored(folder: Path) -> tuple[int, Model, torch.optim.Optimizer]:
    """The newest epoch and what it holds."""
    model = Model()
    optimiser = torch.optim.AdamW(model.parameters())
    return Checkpoints(folder).restore(model, optimiser), model, optimiser  # type: ignore[arg-type]


def filled(model: Model, optimiser: torch.optim.Optimizer, epoch: int) -> bool:
    """Whether all numbers are those of one epoch."""
    tensors = [*model.state_dict().values()]
    for state in optimiser.state.values():
        tensors += state.values()
    return all(bool((tensor == epoch).all()) for tensor in tensors)


@pytest.mark.slow
@pytest.mark.guarantee(10)
def test_a_killed_writer_leaves_old_or_new(
    tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Seen failing with the record of a checkpoint written before its weights."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path), str(KILLS)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    written = int(done.stdout)
    assert written > 5, "the writers died before they wrote anything"
    record_property("killed_writers", KILLS)
    left = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(left) <= 2 * 4  # the newest two, one being added, one half dropped
