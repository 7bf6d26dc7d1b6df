"""No button undoes a round, no project's trouble is another's, and nobody's answer is lost.

Rounds are real and end within a look; Label Studio is the fake one, clocks are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_site import InlineSite, inline_site, open_worker
from PIL import Image

from ml_backend import asking, round_steps
from ml_backend.cycle import why_not_now
from ml_backend.errors import Conflict
from ml_backend.leases import project_lease, push_lease
from ml_backend.push_now import push_now
from ml_backend.status import project_status
from ml_backend.store import Round
from training.pool_scores import ImageScores, PoolScores

__all__ = ["inline_site"]  # a fixture

pytestmark = pytest.mark.slow


def kept_aside(site: InlineSite, action: str) -> list[str | None]:
    return [e.error for e in site.store.failed_events(4) if e.action == action]


# 1. Pushing after a finished round


def push_more(site: InlineSite) -> None:
    """The page's button."""
    asking.ask(site.store, 4, asking.PUSH)


def push_command(site: InlineSite) -> None:
    push_now(site.worker.runtime, 4)


def all_skipped(site: InlineSite) -> None:
    for query in site.open():
        site.answer(query, skip=True)


def nobody_can_tell(site: InlineSite) -> None:
    for query in site.open():
        site.answer(query)


def all_withdrawn(site: InlineSite) -> None:
    """Somebody deleted the open tasks in the Data Manager."""
    site.ls.delete_tasks(4, [q.task_id for q in site.open() if q.task_id])


def scores_lost(site: InlineSite) -> None:
    """Somebody made room on the disk; the push that follows scores the pool again."""
    site.worker.runtime.scores_path(4, "p4-r1").unlink()
    push_more(site)


def refused_once(site: InlineSite) -> None:
    """One 403 in the push that follows."""
    all_skipped(site)
    site.ls.server.fail("import_tasks", 403, project=4)


@pytest.mark.guarantee(28)
@pytest.mark.parametrize(
    "act",
    [
        push_more, push_command, all_skipped, nobody_can_tell, all_withdrawn, scores_lost,
        refused_once,
    ],
)  # fmt: skip
@pytest.mark.parametrize("times", [1, 2])
def test_pushing_after_a_finished_round_leaves_it_done(
    inline_site: InlineSite, act: Callable[[InlineSite], None], times: int
) -> None:
    """The round stays as it was to the last field, and questions keep the version in use.

    Seen failing with the state of the round set to "scoring" by `score_current`.
    """
    site = inline_site
    done = site.play_round()
    for _ in range(times):
        act(site)
        for _ in range(4):
            site.look()
            assert site.round(1) == done  # after each: a look mends what 0.1.0 left undone
        assert site.project().model_version == site.project().current_version == "p4-r1"
        assert site.ls.project(4)["model_version"] == "p4-r1"
        assert site.open()
        assert {q.model_version for q in site.open()} == {"p4-r1"}
    second = site.play_round()
    assert (second.number, second.version) == (2, "p4-r2")
    assert site.round(1) == done


@pytest.mark.guarantee(28)
def test_pushing_while_no_round_is_done_does_not_go_back_to_random(
    inline_site: InlineSite,
) -> None:
    """The second round fails; questions that are pushed then still follow the first version.

    Seen failing with `name_in_use` giving NO_MODEL unless the last round is done.
    """
    site = inline_site
    site.play_round()
    site.answer_all()
    site.ls.server.fail("tasks", 403, project=4, times=None)
    site.look()
    assert site.round(2).state == "failed"
    site.ls.server.heal()
    push_more(site)
    site.look(2)
    assert site.project().model_version == "p4-r1"
    assert {q.model_version for q in site.open()} <= {"p4-r1"}


@pytest.mark.guarantee(28)
def test_clicks_and_labels_of_a_round_never_change_afterwards(inline_site: InlineSite) -> None:
    """They are those of its snapshot, whatever comes later and however often it is tried."""
    site = inline_site
    while not site.open():
        site.look()
    half = site.open()[:2]
    for query in half:
        site.answer(query, "Grass")
    asking.ask(site.store, 4, asking.TRAIN)
    site.ls.server.fail("import_tasks", 403, project=4, times=None)  # its push fails
    site.look()
    assert (site.round(1).state, site.round(1).labels, site.round(1).clicks) == ("failed", 2, 2)
    site.ls.server.heal()
    for query in site.open():
        site.answer(query, "Grass", "Brick")
    asking.ask(site.store, 4, asking.TRAIN)
    site.look()
    first = site.round(1)
    assert (first.state, first.labels, first.clicks, first.attempts) == ("done", 2, 2, 2)


@pytest.mark.guarantee(28)
def test_a_round_that_release_0_1_0_undid_is_done_again(inline_site: InlineSite) -> None:
    """It wrote "scoring" over "done"; the engine knows that the round succeeded.

    Seen failing (the round was tried again) without that case in `_settle`.
    """
    site = inline_site
    done = site.play_round()
    site.store.update_round(4, 1, state="scoring")
    site.look(2)
    assert site.round(1) == done


# 2. Scores, requests, and pushes beside a training


def test_scores_of_a_version_are_made_once(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often somebody pushes, and while Label Studio is down.

    Seen failing with `score_current` called by every push.
    """
    site = inline_site
    scored: list[str] = []
    real = round_steps.score_current

    def score(runtime: Any, project: Any) -> Path:
        scored.extend([round_steps.name_in_use(project)] * (project.id == 4))
        return real(runtime, project)

    monkeypatch.setattr(round_steps, "score_current", score)
    site.play_round()
    assert scored == ["r0", "p4-r1"]
    all_skipped(site)
    site.ls.server.go_away()
    site.look(20, seconds_later=10)
    site.ls.server.heal()
    site.look(5)
    assert site.open()
    assert scored == ["r0", "p4-r1"]


@pytest.mark.guarantee(28)
def test_images_that_came_later_are_scored_before_they_are_asked(
    inline_site: InlineSite,
) -> None:
    """Then, and the round of the version that scores them stays done."""
    site = inline_site
    done = site.play_round()
    other = site.store.images(5)[0]
    site.store.add_images([replace_image(other, image_id="late")])
    all_skipped(site)
    for _ in range(2):
        site.look()
        assert site.round(1) == done  # after each, as above
    scores = PoolScores.load(site.worker.runtime.scores_path(4, "p4-r1"))
    assert "late" in scores.images
    assert {q.model_version for q in site.open()} == {"p4-r1"}


def replace_image(image: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(image, project_id=4, **changes)


def test_a_request_that_does_nothing_says_so(inline_site: InlineSite) -> None:
    """Seen failing with `finish` called without what was said."""
    site = inline_site
    site.play_round()
    push_more(site)
    site.look()
    (said,) = kept_aside(site, asking.PUSH)
    assert said == f"{len(site.open())} questions are open: more are pushed when they are answered."
    asking.ask(site.store, 4, asking.TRAIN)
    site.look()
    assert kept_aside(site, asking.TRAIN) == ["No label is new since the last round."]
    assert not site.store.pending_events()
    assert len(site.store.rounds(4)) == 1


def test_the_command_says_at_once_why_it_would_train_nothing(inline_site: InlineSite) -> None:
    """`pixbal train` said "asked", and only the next status that it led to nothing."""
    site = inline_site
    runtime = site.worker.runtime
    while not site.open():
        site.look()
    waiting = len(site.open())
    assert why_not_now(runtime, 4) == (
        f"There is no answer to train on yet ({waiting} questions are open)."
    )
    site.answer(site.open()[0], "Grass")
    round_steps.apply_pending_events(site.store)
    assert why_not_now(runtime, 4) is None
    site.answer_all()
    site.look()
    assert site.round(1).state == "done"
    assert why_not_now(runtime, 4) == "No label is new since the last round."


def test_a_request_ends_the_pause_after_a_failure(inline_site: InlineSite) -> None:
    """Label Studio is back; whoever presses the button need not wait for ten minutes.

    Seen failing (nothing for 600 s) with `end_pause` left out.
    """
    site = inline_site
    site.ls.server.fail("import_tasks", 403, project=4, times=None)
    site.look(8, seconds_later=700)
    assert site.project().trouble is not None
    site.ls.server.heal()
    site.look(2, seconds_later=1)
    assert not site.open()
    push_more(site)
    site.look(1, seconds_later=1)
    assert site.open()


def test_many_requests_are_one_push(inline_site: InlineSite) -> None:
    site = inline_site
    site.play_round()
    all_skipped(site)
    site.engine.pushes.clear()
    for _ in range(30):
        push_more(site)
    site.look(1)
    assert site.engine.pushes == [4]
    assert not site.store.pending_events()
    assert kept_aside(site, asking.PUSH) == []


@pytest.mark.guarantee(28)
def test_questions_are_pushed_while_a_model_trains(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An annotator asks for more in the middle of a training, and gets them then.

    Seen failing with the project's lease for both.
    """
    site = inline_site
    site.play_round()
    other = open_worker(site.worker.runtime, site.clock, "two")
    real_turn = other.keeper.turn

    @contextmanager
    def turn(*names: str, wait: bool = True) -> Iterator[bool]:
        with real_turn(*names, wait=False) as held:
            assert held or not wait, f"{names} would be waited for"
            yield held

    monkeypatch.setattr(other.keeper, "turn", turn)
    seen: list[int] = []
    real = round_steps.train_round

    def train(runtime: Any, project_id: int, number: int, snapshot: str) -> str:
        if project_id == 4 and number == 2:
            assert site.store.lease(project_lease(4)).holder.startswith("one")  # type: ignore[union-attr]
            push_more(site)
            site.clock.seconds += 20  # less than a lease's silence
            other.tick()
            seen.extend(q.round for q in site.open())
        return real(runtime, project_id, number, snapshot)

    monkeypatch.setattr(round_steps, "train_round", train)
    site.answer_all()
    site.look()
    assert seen
    assert set(seen) == {3}
    assert site.round(2).state == "done"
    # The next version takes them over: no question of the old order is left.
    assert {q.model_version for q in site.open()} == {"p4-r2"}
    assert len({q.task_id for q in site.store.queries(4)}) == len(site.store.queries(4))


def test_a_push_by_two_at_once_is_refused_or_waits(inline_site: InlineSite) -> None:
    site = inline_site
    with site.worker.keeper.turn(push_lease(4)), pytest.raises(Conflict, match="at work"):
        push_now(site.worker.runtime, 4)
    assert push_now(site.worker.runtime, 4).endswith(f"{len(site.open())} open")


# 3. Importing


@pytest.mark.guarantee(28)
def test_nothing_is_pushed_while_images_are_imported(inline_site: InlineSite) -> None:
    """All first questions came from the images that happened to be there.

    Seen failing with "importing" left out of `why_no_push`.
    """
    site = inline_site
    images = site.store.images(4)
    site.store.update_project(4, state="importing")
    site.look(5)
    assert site.store.queries(4) == []
    status = project_status(site.worker.runtime.settings, site.store, 4)
    assert status["state"] == "importing"
    push_more(site)
    site.look()
    (said,) = kept_aside(site, asking.PUSH)
    assert said is not None
    assert "`pixbal init` again" in said
    site.store.update_project(4, state="active", budget_clicks=30)
    site.look()
    assert {q.image_id for q in site.open()} == {i.image_id for i in images}


def test_no_push_means_nobody_pushes_until_asked(inline_site: InlineSite) -> None:
    """Seen failing (the worker pushed at its next look) with `push_held` left out."""
    site = inline_site
    site.store.update_project(4, push_held=True)
    site.look(5)
    assert site.store.queries(4) == []
    push_more(site)
    site.look()
    assert site.open()
    assert not site.project().push_held


# 4. One project's trouble


@pytest.mark.guarantee(29)
@pytest.mark.parametrize("fault", ["deleted there", "403", "endless 500", "never answers"])
def test_a_project_that_label_studio_refuses_stops_no_other(
    inline_site: InlineSite, fault: str
) -> None:
    """Project 5 goes on whatever becomes of 4; 4 says why, is left alone longer and longer, and
    goes on once it can.

    Seen failing (a look ended with that error) with the walks ended by the first that raises.
    """
    site = inline_site
    server = site.ls.server
    if fault == "deleted there":
        server.delete_project(4)
    elif fault == "never answers":
        server.go_away(project=4)
    else:
        server.fail("*", 403 if fault == "403" else 500, project=4, times=None)
    site.look(30, seconds_later=10)
    assert site.project().trouble is not None
    assert site.open(5)
    assert site.play_round(5).state == "done"
    assert site.project(5).trouble is None
    asked = len(server.asked("import_tasks", "tasks", project=4))
    site.look(30, seconds_later=2)
    assert len(server.asked("import_tasks", "tasks", project=4)) - asked <= 4
    status = project_status(site.worker.runtime.settings, site.store, 4)
    assert status["trouble"] == site.project().trouble
    if fault != "deleted there":
        server.heal()
        site.look(3, seconds_later=700)
        assert site.project().trouble is None
        assert site.open(4)


@pytest.mark.guarantee(29)
def test_an_unexpected_error_in_one_project_is_its_own(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = inline_site
    real = round_steps.push_next

    def push(runtime: Any, project: Any) -> Any:
        if project.id == 4:
            raise ZeroDivisionError("division by zero")
        return real(runtime, project)

    monkeypatch.setattr(round_steps, "push_next", push)
    site.look(3)
    assert site.project().trouble == "ZeroDivisionError: division by zero"
    assert site.open(5)


# 5. Ends


def test_a_pool_whose_last_regions_cannot_be_asked_is_done(inline_site: InlineSite) -> None:
    """Seen failing (a push at every look, for ever) with all regions counted as left."""
    site = inline_site
    site.store.update_project(4, budget_clicks=10_000)
    runtime = site.worker.runtime
    scores = {
        i.image_id: ImageScores(
            np.array([np.nan, np.nan, *np.ones(i.region_count - 2)]),
            np.ones(i.region_count, np.float32), np.zeros((i.region_count, 0), np.float16),
        )
        for i in site.store.images(4)
    }  # fmt: skip
    path = runtime.scores_path(4, "r0")
    path.parent.mkdir(parents=True)
    PoolScores(scores, None, "random").save(path)
    site.look()
    assert len(site.open()) == sum(i.region_count - 2 for i in site.store.images(4))
    all_skipped(site)
    site.look(2)
    site.engine.pushes.clear()
    site.look(10)
    assert 4 not in site.engine.pushes
    push_more(site)
    site.look()
    assert kept_aside(site, asking.PUSH) == ["Every region that can be asked was asked."]


def test_a_failed_round_without_an_answer_left_gets_new_questions(
    inline_site: InlineSite,
) -> None:
    """The answers were deleted after the failure; a request to train was swallowed in silence.

    Seen failing (nothing happened any more) with `failed` always waiting.
    """
    site = inline_site
    while not site.open():
        site.look()
    made = [site.answer(query, "Grass")["id"] for query in site.open()]
    site.ls.server.fail("tasks", 403, project=4, times=None)
    site.look()
    assert site.round(1).state == "failed"
    site.ls.server.heal()
    for annotation in made:
        site.ls.server.delete_annotation(annotation)
    site.ls.delete_tasks(4, [int(t["id"]) for t in site.ls.tasks(4)])
    asking.ask(site.store, 4, asking.TRAIN)
    site.look(3, seconds_later=700)
    (said,) = kept_aside(site, asking.TRAIN)
    assert said is not None
    assert "no answer to train on" in said
    assert site.open()


# 6. What came in between


def test_one_broken_event_does_not_block_the_others(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever error it causes. Seen failing with only our own errors caught."""
    site = inline_site
    site.look()
    first, second, *_ = site.open()
    real = round_steps.apply_event

    def apply(store: Any, event: Any) -> None:
        if event.payload.get("annotation", {}).get("task") == first.task_id:
            raise RecursionError("a fault of ours")
        real(store, event)

    monkeypatch.setattr(round_steps, "apply_event", apply)
    site.answer(first, "Grass")
    site.answer(second, "Brick")
    round_steps.apply_pending_events(site.store)
    assert [label.task_id for label in site.store.labels(4)] == [second.task_id]
    (event,) = site.store.failed_events(4)
    assert event.error == "RecursionError: a fault of ours"
    monkeypatch.undo()
    site.look()  # the walk finds it
    assert len(site.store.labels(4)) == 2


# 8. What a round is made of


def test_settings_that_change_during_a_round_wait_for_the_next(
    inline_site: InlineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen failing with the project's settings read when the training begins."""
    site = inline_site
    used: list[float] = []
    real = round_steps.train_round

    def train(runtime: Any, project_id: int, number: int, snapshot: str) -> str:
        config = dict(site.project().train_config)
        config["stage1"] = {**config["stage1"], "lr": 0.5}
        site.store.update_project(4, train_config=config)
        folder = real(runtime, project_id, number, snapshot)
        used.append(version_config(folder)["stage1"]["lr"])
        return folder

    monkeypatch.setattr(round_steps, "train_round", train)
    first = site.play_round()
    assert used == [1e-3]
    assert first.train_config is not None
    assert first.train_config["stage1"]["lr"] == 1e-3
    site.play_round()
    assert used == [1e-3, 0.5]


def version_config(folder: str) -> dict[str, Any]:
    from training.versions import Version

    return Version.load(Path(folder)).config.to_json()


@pytest.mark.parametrize("found", ["before the training", "at the evaluation"])
def test_a_corrected_held_out_mask_is_taken_after_a_failure(
    inline_site: InlineSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    """An older release took the mask by its header; the round failed, and failed again for good.

    Seen failing (the same failure) with the snapshot of the first try used again, for a mask that
    is found at the evaluation: before the training there is no snapshot yet.
    """
    site = inline_site
    if found == "at the evaluation":
        monkeypatch.setattr(round_steps, "check_stored", lambda *_: None)
    image, masks = site.store.images(5)[0], []
    for name, shape in (("wrong", (40, 56, 3)), ("right", (40, 56))):
        masks.append(tmp_path / f"{name}.png")
        Image.fromarray(np.random.default_rng(0).integers(0, 2, shape, np.uint8)).save(masks[-1])
    held = replace_image(image, image_id="held", split="heldout", mask_path=str(masks[0]))
    site.store.add_images([held])
    while not site.open():
        site.look()
    site.answer_all()
    site.look()
    failed = site.round(1)
    assert failed.state == "failed"
    assert "mask" in (failed.error or "")
    site.store.update_image(4, "held", mask_path=str(masks[1]))
    asking.ask(site.store, 4, asking.TRAIN)
    site.look()
    assert (site.round(1).state, site.round(1).attempts) == ("done", 2)
    assert site.store.versions(4)[-1].metrics["miou"] >= 0


def test_new_settings_after_a_failure_count_when_training_is_asked_for(
    inline_site: InlineSite,
) -> None:
    """As docs/operations.md says: lower the learning rate, then `pixbal train`."""
    site = inline_site
    good = site.project().train_config
    site.store.update_project(4, train_config={**good, "device": "cpu", "stage1": {
        **good["stage1"], "lr": 1e30}})  # fmt: skip
    while not site.open():
        site.look()
    site.answer_all()
    site.look()
    failed = site.round(1)
    assert failed.state == "failed", failed
    site.store.update_project(4, train_config=good)
    asking.ask(site.store, 4, asking.TRAIN)
    site.look()
    again: Round = site.round(1)
    assert (again.state, again.attempts, again.train_config) == ("done", 2, good)
