"""An engine that plays what was queued when its worker is done with its look."""

from __future__ import annotations

from dataclasses import dataclass, field

from inline_engine import InlineEngine

from ml_backend.engine import EngineState
from ml_backend.store import Round


class Killed(BaseException):
    """The worker's process ended here."""


@dataclass
class Book:
    """What the engine's database knows; it outlives the workers, which share it."""

    states: dict[str, EngineState] = field(default_factory=dict)
    unfinished: dict[str, Round] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)


class TurnEngine(InlineEngine):
    """The steps of `InlineEngine`, but begun by `run`, when no lease of the worker's look is held.

    What was queued before a worker died is played by whichever looks next.
    """

    def __init__(self, player: object, book: Book) -> None:
        super().__init__(player, states=book.states)  # type: ignore[arg-type]
        self._unfinished = book.unfinished
        self._book = book
        self._pushes: list[int] = []

    def start(self, row: Round) -> None:
        """Queue a round."""
        if row.workflow_id not in self.states:
            self._enqueue(row.workflow_id, row)

    def _enqueue(self, key: str, row: Round) -> None:
        self._unfinished[key] = row
        self.states[key] = EngineState("queued")
        self._book.queue.append(key)

    def recover(self, worker_id: str) -> None:
        """Queue again what a worker had begun."""
        for key, row in self._unfinished.items():
            if self.states[key] == EngineState("pending", worker_id):
                self._enqueue(key, row)

    def push(self, project_id: int) -> None:
        """Queue a push."""
        if project_id not in self._pushes:
            self._pushes.append(project_id)

    def pushing(self, project_id: int) -> bool:
        """Whether it is queued."""
        return project_id in self._pushes

    def run(self) -> None:
        """Play pushes, then rounds, until nothing is queued."""
        while self._pushes:
            super().push(self._pushes[0])
            self._pushes.pop(0)
        while self._book.queue:
            key = self._book.queue.pop(0)
            self._play(self._unfinished[key])

    def _died(self, step: str) -> bool:
        if super()._died(step):
            raise Killed(step)
        return False
