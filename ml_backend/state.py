"""What a project needs next: a pure function of counts, without clock or I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Step(Enum):
    """The one thing to do now for a project."""

    WAIT = "wait"
    TRAIN = "train"
    PUSH = "push"
    DONE = "done"


@dataclass(frozen=True)
class CycleState:
    """Counts that decide the next step of one project.

    Attributes:
        running: a round is queued or running.
        requested: somebody asked for training ("Start training", `pixbal train`).
        push_requested: somebody asked for questions ("Push more questions").
        may_push: nothing forbids to push: neither an import, nor a pause, nor `--no-push`.
        may_train: the project is not paused.
        open_queries: questions that annotators have not handled yet.
        unpushed_queries: questions that were chosen and are not in Label Studio yet.
        stale_queries: open questions that Label Studio does not order by the version in use.
        pool_left: regions that were never asked and can be.
        trainable: labels that training can use.
        new_labels: labels added or changed since the snapshot of the last finished round.
        train_every: train after this many new labels, without waiting for the whole batch.
        failed: the last round failed; a request starts it again.
        retry_due: it failed of something that may have passed by now.
    """

    running: bool = False
    requested: bool = False
    push_requested: bool = False
    may_push: bool = True
    may_train: bool = True
    open_queries: int = 0
    unpushed_queries: int = 0
    stale_queries: int = 0
    pool_left: int = 0
    trainable: int = 0
    new_labels: int = 0
    train_every: int | None = None
    failed: bool = False
    retry_due: bool = False


def next_step(state: CycleState) -> Step:
    """Decide what a project needs; every state has an answer, so that none is a dead end.

    A failed round waits for a request, or for the end of its pause where it may pass by itself:
    training again at once on what has just failed would loop. While a round runs questions are
    pushed for whoever asked, and those that were chosen already; what is stale the round renews.
    """
    wanted = state.push_requested or state.unpushed_queries > 0
    if state.running:
        return Step.PUSH if wanted and state.may_push else Step.WAIT
    if _trains(state):
        return Step.TRAIN
    if (wanted or state.stale_queries > 0) and state.may_push:
        return Step.PUSH
    if state.open_queries > 0 or not state.may_push:
        return Step.WAIT
    # After a failure with labels to train on, a person decides; without any, only questions help.
    if state.failed and state.trainable > 0:
        return Step.WAIT
    return Step.PUSH if state.pool_left > 0 else Step.DONE


def _trains(state: CycleState) -> bool:
    if not state.may_train or state.trainable == 0:
        return False
    if state.failed:
        return state.retry_due or state.requested
    if state.new_labels == 0:
        return False
    if state.requested:
        return True
    if state.unpushed_queries > 0:
        return False
    enough = state.train_every is not None and state.new_labels >= state.train_every
    return enough or state.open_queries == 0
