"""What the worker asks of the engine that plays rounds and pushes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from ml_backend.store import Project, Round

# How often a round goes on after the death of its worker (an upgrade, a power cut, a kernel that
# kills what takes too much memory); then it fails with that reason.
MOST_RECOVERIES = 20


@dataclass(frozen=True)
class EngineState:
    """What the engine knows of a round: unknown, queued, pending at a worker, or ended (how)."""

    kind: Literal["unknown", "queued", "pending", "ended"]
    worker: str | None = None
    how: str = ""


PushState = Literal["none", "running", "done", "failed"]


class Engine(Protocol):
    """Plays rounds and pushes, one workflow each; whoever makes a worker hands one in."""

    def start(self, row: Round) -> None:
        """Queue a round; an id that was queued before is left alone."""

    def state(self, row: Round) -> EngineState:
        """Where a round is in the engine; its row may say something else after an accident."""

    def runs_here(self, row: Round) -> bool:
        """Whether a thread of this process is in the round."""

    def recover(self, worker_id: str) -> None:
        """Queue again what a worker had begun; it must be lost, and fenced off."""

    def push(self, project_id: int) -> None:
        """Queue a push of the project's next questions; one that is queued or runs is enough."""

    def push_state(self, project_id: int) -> PushState:
        """What became of the last push that was queued here."""


def workflow_id(project: Project, number: int, attempt: int) -> str:
    """Idempotency key of one try at a round.

    It says which project of that id: the engine remembers the rounds of one that was forgotten, and
    Label Studio's project may be adopted again.
    """
    made = f"{project.created_at:%Y%m%dT%H%M%S%f}"
    return f"project-{project.id}-{made}-round-{number}-try-{attempt}"
