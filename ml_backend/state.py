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
        open_queries: questions that annotators have not handled yet.
        unpushed_queries: questions that were chosen and are not in Label Studio yet.
        pool_left: regions that were never asked.
        trainable: labels that training can use.
        new_labels: labels added or changed since the snapshot of the last finished round.
        train_every: train after this many new labels, without waiting for the whole batch.
        failed: the last round failed; a request starts it again.
        retry_due: it failed of something that may have passed by now.
    """

    running: bool = False
    requested: bool = False
    open_queries: int = 0
    unpushed_queries: int = 0
    pool_left: int = 0
    trainable: int = 0
    new_labels: int = 0
    train_every: int | None = None
    failed: bool = False
    retry_due: bool = False


def next_step(state: CycleState) -> Step:
    """Decide what a project needs; every state has an answer, so that none is a dead end.

    A failed round waits for a request, or for the end of its pause where it may pass by itself:
    training again at once on what has just failed would loop.
    """
    if state.running:
        return Step.WAIT
    if state.failed and state.retry_due and state.trainable > 0:
        return Step.TRAIN
    can_train = state.trainable > 0 and state.new_labels > 0
    if state.requested and (can_train or (state.failed and state.trainable > 0)):
        return Step.TRAIN
    if state.unpushed_queries > 0:
        return Step.PUSH
    if state.failed:
        return Step.WAIT
    if can_train and state.train_every is not None and state.new_labels >= state.train_every:
        return Step.TRAIN
    if state.open_queries > 0:
        return Step.WAIT
    if can_train:
        return Step.TRAIN
    return Step.PUSH if state.pool_left > 0 else Step.DONE
