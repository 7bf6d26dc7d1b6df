"""An engine without threads or a database: what is started has ended when the call returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from ml_backend.engine import EngineState, PushState
from ml_backend.errors import LeaseLost
from ml_backend.player import SUPERSEDED, Player
from ml_backend.store import Round


@dataclass
class InlineEngine:
    """Plays rounds and pushes at once, with the steps of the durable one in the same order.

    `dies_before` names a step before which the worker dies: the round stays pending until
    `recover`, as it does with a worker that was killed.
    """

    player: Player
    dies_before: str | None = None
    states: dict[str, EngineState] = field(default_factory=dict)
    pushes: list[int] = field(default_factory=list)
    _push_states: dict[int, PushState] = field(default_factory=dict)
    _unfinished: dict[str, Round] = field(default_factory=dict)

    def start(self, row: Round) -> None:
        if row.workflow_id not in self.states:
            self._unfinished[row.workflow_id] = row
            self._play(row)

    def _play(self, row: Round) -> None:
        key = row.workflow_id
        self.states[key] = EngineState("pending", self.player.keeper.worker_id)
        said = self._steps(row)
        if said is not None:
            del self._unfinished[key]
            self.states[key] = EngineState("ended", how="SUCCESS")

    def _steps(self, row: Round) -> str | None:
        player, place = self.player, (row.project_id, row.number)
        try:
            if self._died("reconcile"):
                return None
            if player.reconcile(*place, row.workflow_id) == SUPERSEDED:
                return "superseded"
            if self._died("snapshot"):
                return None
            snapshot = player.snapshot(*place)
            if self._died("train"):
                return None
            folder = player.train(*place, snapshot)
            if self._died("publish"):
                return None
            player.publish(*place, folder)
            if self._died("score"):
                return None
            player.score(*place)
            if self._died("push"):
                return None
            player.push(*place)
            if self._died("finish"):
                return None
        except LeaseLost:
            raise
        except Exception as error:
            player.finish(*place, row.workflow_id, error)
            return "failed"
        player.finish(*place, row.workflow_id, None)
        return "done"

    def _died(self, step: str) -> bool:
        if self.dies_before == step:
            self.dies_before = None
            return True
        return False

    def state(self, row: Round) -> EngineState:
        return self.states.get(row.workflow_id, EngineState("unknown"))

    def runs_here(self, row: Round) -> bool:
        return False

    def recover(self, worker_id: str) -> None:
        for row in list(self._unfinished.values()):
            self._play(row)

    def push(self, project_id: int) -> None:
        self.pushes.append(project_id)
        try:
            self.player.score_for_push(project_id)
            self.player.push_next(project_id)
        except LeaseLost:
            raise
        except Exception:
            self._push_states[project_id] = "failed"  # its reason is noted with the project
        else:
            self._push_states[project_id] = "done"

    def push_state(self, project_id: int) -> PushState:
        return self._push_states.get(project_id, "none")
