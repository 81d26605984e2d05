"""A rank's exchange with its run. What rank 0 leaves in the records is for whoever lists runs: they read no output."""

import time

import pytest

from orchestrator import control
from orchestrator.control import Mailbox, Peers, StopCheck, steps_until_check
from orchestrator.errors import CheckpointError
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_record_tells_step_metrics_and_addresses_until_the_end(tmp_path):
    record = RunRecord(str(tmp_path))
    record.set_state(RunStatus(run_id="r", state=RunState.STARTING, total_steps=9))
    mailbox = Mailbox(str(tmp_path), 1)
    try:
        mailbox.tracked_at("http://mlflow/#/1")
        mailbox.reached(3, 2, {"train/loss": 0.5, "val/loss": 0.7})
        mailbox.reached(6, 2, {"train/loss": 0.4})
        wait_until(lambda: record.status(1).step == 6)
        status = record.status(1)
        assert (status.state, status.attempt, status.total_steps) == (RunState.RUNNING, 2, 9)
        assert status.metrics == {"train/loss": 0.4, "val/loss": 0.7}
        assert status.urls == {"mlflow": "http://mlflow/#/1"}
        end = status.model_copy(update={"state": RunState.STOPPED, "reason": EndReason.STOPPED_BY_USER})
        assert (
            record.end(end.model_copy(update={"urls": {}})) == end
        )  # who ends it need not know the addresses
        mailbox.reached(9, 2, {})
        wait_until(lambda: record.store.read("launches/1/state.json").count(b'"step": 9'))
        assert record.status(1) == end
    finally:
        mailbox.close()


def test_what_was_told_last_is_written_before_the_worker_ends(tmp_path):
    record = RunRecord(str(tmp_path))
    record.set_state(RunStatus(run_id="r", state=RunState.STARTING, total_steps=9))
    mailbox = Mailbox(str(tmp_path), 1)
    mailbox.tracked_at("http://mlflow/#/1")
    mailbox.reached(9, 1, {"train/loss": 0.5})
    mailbox.close()
    status = record.status(1)
    assert (status.step, status.urls) == (9, {"mlflow": "http://mlflow/#/1"})


def test_an_attempt_that_another_has_followed_writes_nothing_more(tmp_path):
    record, superseded = RunRecord(str(tmp_path)), []
    record.set_state(RunStatus(run_id="r", state=RunState.STARTING, total_steps=9))
    old = Mailbox(str(tmp_path), 1, lambda: bool(superseded))
    old.reached(3, 1, {})
    wait_until(lambda: record.status(1).step == 3)
    superseded.append(True)
    record.set_state(record.status(1).reached(2, 2, {}))  # by who follows, from an older checkpoint
    old.reached(7, 1, {"train/loss": 0.5})
    old.close()
    assert (record.status(1).attempt, record.status(1).step, record.reached()) == (2, 2, 3)


def test_a_stop_that_is_asked_for_is_heard(tmp_path):
    mailbox = Mailbox(str(tmp_path), 2)
    try:
        RunRecord(str(tmp_path)).ask_to_stop(1)  # another launch's
        RunRecord(str(tmp_path)).ask_to_stop(2)
        wait_until(mailbox.stop_asked)
    finally:
        mailbox.close()
    other = Mailbox(str(tmp_path), 3)
    other.close()
    assert not other.stop_asked()


def test_a_later_attempt_knows_how_far_an_earlier_one_came(tmp_path):
    first = Mailbox(str(tmp_path), 1)
    assert first.reached_before == 0
    first.reached(7, 1, {})
    first.close()
    second = Mailbox(str(tmp_path), 1)
    second.reached(3, 2, {})
    second.close()
    third = Mailbox(str(tmp_path), 1)
    third.close()
    assert (second.reached_before, third.reached_before) == (7, 7)


@pytest.mark.parametrize(
    ("seconds_per_step", "steps"), [(0, 1000), (0.001, 500), (0.1, 5), (0.6, 1), (60, 1)]
)
def test_ranks_ask_for_a_stop_about_twice_a_second(seconds_per_step, steps):
    assert steps_until_check(seconds_per_step) == steps


def looks_of(monkeypatch, seconds_of_steps, first_step):
    """The steps, counted from 1, after which is looked where they take so long, in a run that goes on before the first."""
    now, looks = [100.0], []
    monkeypatch.setattr(control.time, "monotonic", lambda: now[0])
    check = StopCheck(Peers(), lambda: bool(looks.append(number)))
    for number, seconds in enumerate(seconds_of_steps, 1):
        now[0] += seconds
        check.requested(first_step + number - 1)
    return looks


@pytest.mark.parametrize("first_step", [1, 107, 1_000_001])
def test_a_stop_is_looked_for_by_the_pace_wherever_the_run_goes_on_from(monkeypatch, first_step):
    assert looks_of(monkeypatch, [0.125] * 20, first_step) == [1, 2, 4, 8, 12, 16, 20], "at every fourth step"
    assert looks_of(monkeypatch, [1.0] * 5, first_step) == [1, 2, 3, 4, 5]


def test_steps_that_only_seem_short_at_first_are_soon_found_to_be_long(monkeypatch):
    host_runs_ahead = [5.0, *[0.001] * 9, *[1.0] * 10]
    assert looks_of(monkeypatch, host_runs_ahead, 1) == [1, 2, 4, 8, 16, 17, 18, 19, 20]


def test_all_ranks_stop_after_the_step_that_was_named_for_it(monkeypatch):
    now, asked = [100.0], [False]
    monkeypatch.setattr(control.time, "monotonic", lambda: now[0])
    check = StopCheck(Peers(), lambda: asked[0])
    for step in range(1, 9):
        now[0] += 0.125
        assert not check.requested(step)
    asked[0] = True
    assert not any(check.requested(step) for step in (9, 10, 11)), "nobody looks before step 12"
    assert check.requested(12)


def test_a_notice_ends_the_loop_and_a_stop_comes_before_it():
    asked, noticed = [False], [True]
    check = StopCheck(Peers(), lambda: asked[0], lambda: noticed[0])
    assert check.requested(1) and check.leaves
    asked[0] = True
    check = StopCheck(Peers(), lambda: asked[0], lambda: noticed[0])
    assert check.requested(1) and not check.leaves
    check = StopCheck(Peers(), lambda: False, lambda: False)
    assert not check.requested(1) and not check.leaves


def test_one_rank_agrees_with_itself():
    peers = Peers()
    assert (peers.rank, peers.world_size, peers.group) == (0, 1, None)
    assert peers.agree(lambda: "answer") == "answer"
    assert peers.union([3, 1, 3]) == [1, 3]
    assert peers.largest((1, 2)) == [1, 2]
    assert peers.of_all("mine") == ["mine"]


def test_storage_that_fails_is_one_sentence():
    def fails():
        raise OSError("no such bucket")

    with pytest.raises(CheckpointError, match="no such bucket"):
        Peers().agree(fails)
