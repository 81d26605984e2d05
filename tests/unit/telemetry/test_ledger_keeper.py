"""The ledger that a launch's driver keeps of what it prints."""

import sys
import threading

import pytest

from orchestrator import events
from orchestrator.ledger import Ledger
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.telemetry.ledger_keeper import LedgerKeeper, ledger_after

VALUES = {"system/forward_backward_ms": 1000.0, "system/other_ms": 0.0}


@pytest.fixture
def record(tmp_path):
    return RunRecord(str(tmp_path))


def of(launch, submitted_at=100.0):
    return RunStatus(
        run_id="r", state=RunState.STARTING, launch=launch, submitted_at=submitted_at, total_steps=11
    )


def train(first_step=0, begin=110.0):
    launch = 1 if begin < 1000 else 2
    events.emit("state", time=begin, launch=launch)
    events.emit("attempt", time=begin + 5, start_step=first_step)
    print(f"(RayTrainWorker pid=7) {line('metrics', time=begin + 6, step=first_step + 1, values=VALUES)}")
    print(f"(RayTrainWorker pid=7) {line('metrics', time=begin + 16, step=first_step + 11, values=VALUES)}")


def line(event, **fields):
    class Taken(list):
        write, flush = list.append, lambda self: None

    taken = Taken()
    events.emit(event, to=taken, **fields)
    return taken[0].rstrip()


def test_gauges_that_fail_are_one_warning_and_the_ledger_goes_on(record, caplog):
    record.set_state(of(1))

    def fails(ledger):
        raise RuntimeError("no agent")

    with LedgerKeeper(record, of(1)) as keeper, keeper.shown(fails):
        train()
        assert keeper.ended(130.0) == record.ledger(1)
        events.emit("state", time=131.0, launch=2)
        keeper.ended(140.0)
    assert caplog.messages == ["the ledger's gauges are not shown any more: RuntimeError: no agent"]


def test_it_is_kept_of_all_launches_and_each_writes_its_own(record, capsys):
    record.set_state(of(1))
    with LedgerKeeper(record, of(1)) as keeper:
        train()
        first = keeper.ended(130.0)
        events.emit("stage", time=150.0, doing="what is said behind the end counts no more")
    assert record.ledger(1) == first and first.wall == pytest.approx(30.0)
    assert first.seconds["step"] == pytest.approx(11.0) and first.effective == pytest.approx(11 / 30)
    with LedgerKeeper(record, of(2, submitted_at=1000.0)) as keeper:
        train(first_step=11, begin=1010.0)
        both = keeper.ended(1030.0)
    assert (both.wall, both.of_launches) == pytest.approx((1030.0 - 100.0, 60.0)) and both.steps == 22
    assert record.ledger(1) == first and record.ledger(2) == record.ledger(3) == both
    assert sys.stdout.write("") == 0
    told = [event for text in capsys.readouterr().out.splitlines() if (event := events.parse(text))]
    assert [event["effective"] for event in told if event["event"] == "ledger"][-1] == round(
        both.effective, 4
    )


def test_a_launch_before_whose_driver_went_without_a_word_is_told_once_and_down_up_to_its_end(record):
    """As whoever sent this one knew its end: it could not see that there had been a driver."""
    with LedgerKeeper(record, of(1)) as keeper:
        train()
        record.set_ledger(1, keeper.ended(126.0).model_copy(update={"doing": "steps that were not logged"}))
    first = record.ledger(1)
    evicted = of(1).ended(RunState.STOPPED, EndReason.STOPPED_BY_USER, "stopped in its queue", ended_at=500.0)
    with LedgerKeeper(record, of(2, submitted_at=1000.0).behind(evicted)) as keeper:
        train(first_step=11, begin=1010.0)
        both = keeper.ended(1030.0)
    assert both.seconds["down"] == pytest.approx(500.0 - first.until)
    assert both.seconds["between launches"] == pytest.approx(1000.0 - 500.0)
    assert (both.wall, both.steps, both.faults) == (pytest.approx(1030.0 - 100.0), 22, 1)


def test_whoever_asks_for_the_last_step_s_waits_until_the_driver_has_heard_of_it(record):
    record.set_ledger(1, Ledger())
    with LedgerKeeper(record, of(1)) as keeper:
        answers = []
        asks = threading.Thread(target=lambda: answers.append(ledger_after(record, 1, 11, 20.0)))
        asks.start()
        train()
        asks.join()
        assert answers[0].step == 11 and answers[0].seconds["step"] == pytest.approx(11.0)
        keeper.ended(130.0)
    assert ledger_after(record, 1, 12, 0.0).step == 11, "patience has an end"


def test_a_status_that_is_read_has_its_effective_training_time(record):
    record.set_state(of(1))
    assert record.status(1).effective is None
    record.set_ledger(1, Ledger(seconds={"step": 3.0, "down": 1.0}))
    assert record.status(1).effective == 0.75
    ended = of(1).ended(RunState.SUCCEEDED, EndReason.COMPLETED, "", ended_at=1.0).with_effective(0.5)
    record.end(ended)
    assert record.status(1).effective == 0.5


def test_lines_of_several_threads_stay_whole(record, capsys):
    def say(text):
        for _ in range(300):
            sys.stdout.write(text)
            sys.stdout.write("\n")

    with LedgerKeeper(record, of(1)) as keeper:
        threads = [threading.Thread(target=say, args=(letter * 40,)) for letter in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sys.stdout.write("no end")
        keeper.ended(1.0)
    lines = capsys.readouterr().out.splitlines()
    assert {text for text in lines if not events.parse(text)} == {"a" * 40, "b" * 40, "c" * 40, "no end"}


def test_what_was_kept_and_is_damaged_is_said_and_begun_anew(record, caplog):
    record.store.write("launches/1/ledger.json", b"{")
    with LedgerKeeper(record, of(2, submitted_at=1000.0)) as keeper:
        train(begin=1010.0)
        assert keeper.ended(1030.0).wall == pytest.approx(30.0)
    assert "ledger.json is damaged" in caplog.text
    record.set_state(of(1))
    assert record.status(1).effective is None, "a run can be looked at all the same"


def test_storage_that_fails_for_a_moment_ends_nothing_and_the_gauges_are_shown_it(record, monkeypatch):
    shown = []

    def fails(launch, ledger):
        raise OSError("no space left")

    monkeypatch.setattr(record, "set_ledger", fails)
    with LedgerKeeper(record, of(1)) as keeper:
        with keeper.shown(shown.append):
            train()
            assert keeper.ended(130.0).wall == pytest.approx(30.0)
        assert shown[-1].wall == pytest.approx(30.0)
