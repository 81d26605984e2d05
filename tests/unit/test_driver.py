"""One launch from its plan to its end, with Ray's part played by a fake."""

import json
import os
import signal
import threading
import time

import pytest
from data_jobs import job_of, plan_of
from programmable_server import wait_until

from orchestrator import data, driver, waited
from orchestrator.errors import DataError, ResourcesError, UserCodeError
from orchestrator.ledger import BEFORE
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus

OUTCOME = {"step": 10, "stopped": False, "enough": "", "metrics": {"loss": 0.5}, "attempt": 1}


class Session:
    """Stands in for RaySession: trains nothing, and does what a test gives it."""

    trains = waits = staticmethod(lambda: None)
    entered = left = 0

    def __init__(self, plan, private_dir, record, room):
        Session.plan, Session.newest = plan, self

    def __enter__(self):
        Session.entered += 1
        return self

    def __exit__(self, *error):
        Session.left += 1

    def wait_for_resources(self, stop_asked):
        Session.waits()

    def train(self, prepared, *, launch, started_at, work):
        assert prepared == "{}"
        return Session.trains() or OUTCOME


@pytest.fixture(autouse=True)
def own_signals():
    held = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in held.items():
        signal.signal(number, handler)


@pytest.fixture
def launch(tmp_path, monkeypatch, capsys):
    """Runs the driver; gives its exit code, the recorded end and the event lines' kinds."""
    recovery = {"stop_grace": 0.05}
    plan = plan_of(job_of({"train": {"kind": "builtin", "name": "iris"}}, recovery=recovery), tmp_path)
    monkeypatch.setattr(driver, "_STOP_POLL_SECONDS", 0.01)
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json())
    record = RunRecord(plan.storage)

    class Prepared:
        lineage = {}

        def model_dump_json(self):
            return "{}"

    monkeypatch.setattr(driver, "RaySession", Session)
    monkeypatch.setattr(driver, "environment_of", lambda plan: {})  # of this process it is not
    monkeypatch.setattr(data, "prepare", lambda plan: Prepared())
    monkeypatch.setattr(data, "inputs_of", lambda job, prepared: data.Inputs())
    monkeypatch.setattr(Session, "trains", staticmethod(lambda: None))
    monkeypatch.setattr(Session, "waits", staticmethod(lambda: None))
    monkeypatch.setattr(Session, "entered", 0)
    monkeypatch.setattr(Session, "left", 0)

    def run():
        code = driver.main(["--plan", str(path)])
        return code, record.status(1)

    run.record, run.path, run.plan = record, path, plan
    return run


def test_a_launch_that_took_all_its_steps_succeeds(launch):
    code, end = launch()
    assert code == 0 and (end.state, end.reason) == (RunState.SUCCEEDED, EndReason.COMPLETED)
    assert (end.step, end.attempt, end.total_steps, end.metrics) == (10, 1, 10, {"loss": 0.5})
    assert (Session.entered, Session.left) == (1, 1)


def test_the_ledger_begins_when_the_cluster_had_it_submitted(launch, tmp_path):
    submitted = time.time() - 1000
    (tmp_path / "submitted-at").write_text(str(submitted))
    _, end = launch()
    assert end.submitted_at == submitted
    assert launch.record.ledger(1).charged_from == submitted
    assert launch.record.ledger(1).wall >= 1000


def test_a_driver_that_ends_before_it_joins_ray_has_told_what_it_waited_for(launch, tmp_path, monkeypatch):
    """Here the model can't be counted, as one of a person's own that has a mistake; its pod began with it a minute after the submission."""
    launch.path.write_text(launch.plan.model_copy(update={"parameters": 0}).model_dump_json())
    submitted = time.time() - 300
    (tmp_path / "submitted-at").write_text(str(submitted))
    os.utime(launch.path, (submitted + 60, submitted + 60))
    monkeypatch.setattr(waited, "_container_began", lambda: submitted + 200)

    def fails(plan):
        raise UserCodeError("no such layer")

    monkeypatch.setattr(driver, "_counted", fails)
    _, end = launch()
    assert (end.reason, Session.entered) == (EndReason.USER_ERROR, 0)
    ledger = launch.record.ledger(1)
    before = [ledger.seconds[part] for part in BEFORE]
    assert before == pytest.approx([60, 140, 100], abs=5)
    assert ledger.wall == pytest.approx(end.ended_at - submitted, rel=0.005)


def test_launches_that_never_had_a_driver_are_in_the_record_and_the_ledger(launch, tmp_path, monkeypatch):
    """As whoever sent this one knew them, which is in its job's metadata; one that nobody knew any more is there too."""
    now = time.time()
    second = RunStatus(
        run_id="r",
        launch=2,
        state=RunState.PENDING,
        submitted_at=now - 1000,
        message="no such image",
        waited=(("queue", now - 1000), ("image", now - 950)),
    ).ended(RunState.FAILED, EndReason.NO_RESOURCES, "its pods did not run", ended_at=now - 400)
    third = RunStatus(run_id="r", launch=3, state=RunState.PENDING, submitted_at=now - 300, before=second)
    third = third.ended(RunState.STOPPED, EndReason.STOPPED_BY_USER, "stopped", ended_at=now - 200)
    job = {"metadata": {"before": third.model_dump_json(exclude_defaults=True)}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    (tmp_path / "submitted-at").write_text(str(now - 50))
    code = driver.main(["--plan", str(launch.path), "--launch", "4"])
    end = launch.record.status()
    assert (code, end.launch, end.state) == (0, 4, RunState.SUCCEEDED)
    kept = [launch.record.status(number) for number in (1, 2, 3)]
    assert [one.message for one in kept] == ["its driver never began", "its pods did not run", "stopped"]
    assert [one.ended_at for one in kept] == [None, second.ended_at, third.ended_at]
    ledger = launch.record.ledger(4)
    assert kept[1].waited == second.waited
    assert ledger.seconds["queue"] == pytest.approx(50 + 100 + 50, abs=5)
    assert ledger.seconds["image"] == pytest.approx(550, abs=1)
    assert ledger.seconds["between launches"] == pytest.approx(100 + 150, abs=1)
    assert ledger.wall == pytest.approx(end.ended_at - second.submitted_at, rel=0.005)


@pytest.mark.parametrize("is_another", [False, True])
def test_a_driver_goes_by_the_notice_of_its_own_head_however_old_that_is(
    launch, tmp_path, monkeypatch, is_another
):
    (tmp_path / "submitted-at").write_text(str(time.time()))
    pod = waited.name_of_pod(launch.path)
    launch.record.tell_that_head_leaves(1, "the head before" if is_another else pod)
    reads, looks, heard = RunRecord.head_leaves, [], []

    def reads_at_the_third_look(record, *asked):
        looks.append(asked)
        if len(looks) < 3:
            raise OSError("the storage is away for a moment")
        return reads(record, *asked)

    def trains():
        wait_until(lambda: len(looks) > 3, "a look at the record")
        heard.append(Session.newest.head_has_notice())

    monkeypatch.setattr(RunRecord, "head_leaves", reads_at_the_third_look)
    monkeypatch.setattr(Session, "trains", staticmethod(trains))
    assert launch()[0] == 0
    assert heard == [not is_another]


def test_a_model_that_was_not_counted_where_it_was_planned_is_counted_first(launch):
    nothing = {"parameters": 0, "trainable_parameters": 0, "flops_per_sample": 0}
    launch.path.write_text(launch.plan.model_copy(update=nothing).model_dump_json())
    assert launch()[0] == 0
    assert 0 < Session.plan.trainable_parameters == Session.plan.parameters
    assert Session.plan.flops_per_sample and Session.plan.memory.total


def test_its_state_is_starting_until_a_worker_has_logged(launch, monkeypatch):
    seen = []
    monkeypatch.setattr(Session, "trains", staticmethod(lambda: seen.append(launch.record.status(1))))
    launch()
    assert [(status.state, status.total_steps) for status in seen] == [(RunState.STARTING, 10)]


def test_a_launch_that_has_its_end_is_not_run_again(launch):
    first = launch()
    assert launch() == first
    assert Session.entered == 1


def test_a_driver_that_another_has_taken_over_from_ends_and_writes_nothing(launch, monkeypatch, capsys):
    """It was taken for lost, on a machine that stood still, and comes back."""

    def trains():
        launch.record.set_state(launch.record.status(1).reached(3, 2, {}))
        launch.record.taken_over(1)
        signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("it was not told to end"))
        signal.alarm(30)
        try:
            signal.pause()
        finally:
            signal.alarm(0)

    monkeypatch.setattr(Session, "trains", staticmethod(trains))
    code, status = launch()
    assert (code, status.state, status.step, status.attempt) == (4, RunState.RUNNING, 3, 2)
    assert not launch.record.stop_was_asked(1)
    said = capsys.readouterr()
    assert said.err.startswith("another driver has taken this launch over (") and "Traceback" not in said.err
    assert '"event":"end"' not in said.out


def test_a_superseded_driver_s_end_is_refused(launch, monkeypatch):
    monkeypatch.setattr(
        Session, "trains", staticmethod(lambda: launch.record.taken_over(1).set_state(Session.told(launch)))
    )
    monkeypatch.setattr(Session, "told", staticmethod(lambda launch: launch.record.status(1)), raising=False)
    assert launch()[0] == 4
    assert not launch.record.status(1).state.is_final


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (DataError("row 3 is bad"), 3, EndReason.BAD_DATA),
        (ResourcesError("no room"), 4, EndReason.NO_RESOURCES),
    ],
)
def test_what_goes_wrong_is_told_in_one_sentence(launch, monkeypatch, capsys, error, code, reason):
    def fails():
        raise error

    monkeypatch.setattr(Session, "waits", staticmethod(fails))
    assert launch() == (code, launch.record.status(1))
    end = launch.record.status(1)
    assert (end.state, end.reason, end.message) == (RunState.FAILED, reason, str(error))
    assert "Traceback" not in capsys.readouterr().err
    assert Session.left == 1


def test_a_fault_of_our_own_shows_where_it_was(launch, monkeypatch, capsys):
    monkeypatch.setattr(Session, "trains", staticmethod(lambda: 1 // 0))
    code, end = launch()
    assert (code, end.reason) == (4, EndReason.INFRASTRUCTURE)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_first_signal_asks_the_workers_to_save(launch, monkeypatch):
    def trains():
        signal.raise_signal(signal.SIGTERM)
        assert launch.record.stop_was_asked(1)
        return {**OUTCOME, "step": 4, "stopped": True}

    monkeypatch.setattr(Session, "trains", staticmethod(trains))
    code, end = launch()
    assert (code, end.state, end.message) == (5, RunState.STOPPED, "stopped after step 4")


def test_the_second_signal_ends_the_launch_at_once(launch, monkeypatch):
    def trains():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Session, "trains", staticmethod(trains))
    code, end = launch()
    assert (code, end.state, end.message) == (5, RunState.STOPPED, "stopped before it could save")


def test_a_signal_before_there_are_workers_ends_the_launch_at_once(launch, monkeypatch):
    monkeypatch.setattr(Session, "waits", staticmethod(lambda: signal.raise_signal(signal.SIGTERM)))
    code, end = launch()
    assert (code, end.state, end.reason) == (5, RunState.STOPPED, EndReason.STOPPED_BY_USER)
    assert Session.left == 1


def test_the_last_line_is_the_end(launch, capsys):
    launch()
    last = capsys.readouterr().out.strip().splitlines()[-1]
    told = json.loads(last[last.index("{") :])
    assert (told["event"], told["state"], told["step"]) == ("end", "succeeded", 10)


def test_an_end_that_the_storage_does_not_take_is_told_all_the_same(launch, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "/home")

    monkeypatch.setattr(RunRecord, "end", full)
    assert launch()[0] == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "took all 10 steps; the end could not be written: [Errno 28]" in last


def test_a_graceful_stop_that_takes_longer_than_the_job_allows_is_ended(launch, monkeypatch):
    def never_ends():
        launch.record.ask_to_stop(1)
        threading.Event().wait(60)
        raise AssertionError("it was not ended")

    monkeypatch.setattr(Session, "trains", staticmethod(never_ends))
    code, end = launch()
    assert code == 5 and (end.state, end.reason) == (RunState.STOPPED, EndReason.STOPPED_BY_USER)
    assert end.message == "did not stop within recovery.stop_grace, 0.05 s, and was ended"
    assert Session.left == 1
