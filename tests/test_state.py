"""The next step of a project: a table over its states, and laws over all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.state import CycleState, Step, next_step

TABLE = [
    ("fresh project", CycleState(pool_left=9), Step.PUSH),
    ("questions are open", CycleState(open_queries=3, pool_left=9), Step.WAIT),
    (
        "half of the batch is answered",
        CycleState(open_queries=3, trainable=4, new_labels=4),
        Step.WAIT,
    ),
    ("batch complete", CycleState(pool_left=9, trainable=4, new_labels=4), Step.TRAIN),
    ("batch complete, all skipped", CycleState(pool_left=9), Step.PUSH),
    ("training runs", CycleState(running=True, trainable=4, new_labels=4), Step.WAIT),
    (
        "asked while training runs",
        CycleState(running=True, requested=True, trainable=4, new_labels=4),
        Step.WAIT,
    ),
    (
        "asked with open questions",
        CycleState(requested=True, open_queries=3, trainable=4, new_labels=4),
        Step.TRAIN,
    ),
    ("asked without labels", CycleState(requested=True, open_queries=3), Step.WAIT),
    (
        "asked, nothing new",
        CycleState(requested=True, open_queries=3, trainable=4),
        Step.WAIT,
    ),
    (
        "count reached",
        CycleState(open_queries=3, trainable=4, new_labels=4, train_every=4),
        Step.TRAIN,
    ),
    (
        "count not reached",
        CycleState(open_queries=3, trainable=3, new_labels=3, train_every=4),
        Step.WAIT,
    ),
    (
        "push was cut off",
        CycleState(open_queries=3, unpushed_queries=5, trainable=1, new_labels=1),
        Step.PUSH,
    ),
    ("pool is empty, all trained", CycleState(trainable=4), Step.DONE),
    ("pool is empty, labels are new", CycleState(trainable=4, new_labels=1), Step.TRAIN),
    ("failed", CycleState(failed=True, trainable=4, new_labels=4), Step.WAIT),
    (
        "failed, asked again",
        CycleState(failed=True, requested=True, trainable=4, new_labels=4),
        Step.TRAIN,
    ),
    (
        "failed, asked again, nothing new",
        CycleState(failed=True, requested=True, trainable=4),
        Step.TRAIN,
    ),
    (
        "failed, no answer to train on, nothing open",
        CycleState(failed=True, pool_left=9),
        Step.PUSH,
    ),
    (
        "failed, no answer to train on, asked",
        CycleState(failed=True, requested=True, pool_left=9),
        Step.PUSH,
    ),
    (
        "asked for questions while training runs",
        CycleState(running=True, push_requested=True),
        Step.PUSH,
    ),
    (
        "a push was cut off while training runs",
        CycleState(running=True, unpushed_queries=2),
        Step.PUSH,
    ),
    (
        "asked for questions, some are open",
        CycleState(push_requested=True, open_queries=3),
        Step.PUSH,
    ),
    ("stale questions", CycleState(stale_queries=1, open_queries=3), Step.PUSH),
    ("stale questions, paused", CycleState(stale_queries=1, may_push=False), Step.WAIT),
    (
        "stale questions while training runs",
        CycleState(running=True, stale_queries=1, open_queries=3),
        Step.WAIT,
    ),
    ("importing", CycleState(may_push=False, pool_left=9), Step.WAIT),
    (
        "paused with answers",
        CycleState(may_push=False, may_train=False, trainable=4, new_labels=4),
        Step.WAIT,
    ),
    ("only regions without a score are left", CycleState(pool_left=0), Step.DONE),
    ("failed, its pause is over", CycleState(failed=True, retry_due=True, trainable=4), Step.TRAIN),
]


@pytest.mark.parametrize(
    ("state", "expected"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_table(state: CycleState, expected: Step) -> None:
    assert next_step(state) is expected


counts = st.integers(0, 3)
states = st.builds(
    CycleState,
    running=st.booleans(),
    requested=st.booleans(),
    push_requested=st.booleans(),
    may_push=st.booleans(),
    may_train=st.booleans(),
    open_queries=counts,
    unpushed_queries=counts,
    pool_left=counts,
    trainable=counts,
    new_labels=counts,
    train_every=st.none() | st.integers(1, 3),
    failed=st.booleans(),
    retry_due=st.booleans(),
)


@given(states)
def test_one_round_at_a_time(state: CycleState) -> None:
    if state.running:
        assert next_step(state) in (Step.WAIT, Step.PUSH)


@given(states)
def test_never_trains_without_labels(state: CycleState) -> None:
    if state.trainable == 0:
        assert next_step(state) is not Step.TRAIN


@given(states)
def test_waiting_has_a_reason(state: CycleState) -> None:
    """A project waits only while something runs, is open, has failed, or somebody holds it."""
    if next_step(state) is Step.WAIT:
        failed = state.failed and state.trainable > 0
        assert state.running or state.open_queries or failed or not state.may_push


@given(states)
def test_who_holds_a_project_holds_it(state: CycleState) -> None:
    """Nothing is pushed, nothing trained, that somebody paused."""
    step = next_step(state)
    assert step is not Step.PUSH or state.may_push
    assert step is not Step.TRAIN or state.may_train


@given(states)
def test_no_dead_end_after_a_failure(state: CycleState) -> None:
    """Without an answer to train on, only questions help: they come while there are any."""
    if state.failed and state.trainable == 0 and state.may_push and not state.running:
        waits = state.open_queries > 0 and not (state.push_requested or state.unpushed_queries)
        expected = Step.WAIT if waits else None
        assert next_step(state) is (expected or next_step(state))
        if not waits and (state.pool_left or state.unpushed_queries):
            assert next_step(state) is Step.PUSH
