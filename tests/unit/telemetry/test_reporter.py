"""What rank 0 tells of an attempt, and that other ranks tell only their own logs."""

import io

import numpy as np
import pytest
from data_jobs import job_of, plan_of

from orchestrator import data, events
from orchestrator.models.base import Sample
from orchestrator.records import RunRecord
from orchestrator.runs import Best, RunState, RunStatus
from orchestrator.telemetry import reporter as reporting
from orchestrator.telemetry.reporter import Teller, open_reporter

BEST = Best(step=5, metric="val/loss", value=0.5)
VALUES = {"train/loss": 1.23456789, "system/samples_per_second": 10.0, "system/data_wait_share": 0.1}


class Tracker:
    """Keeps what it is given; says its address as MLflow's thread does."""

    def __init__(self):
        self.points, self.samples, self.ends = [], [], []

    def log(self, step, metrics):
        self.points.append((step, dict(metrics)))

    def measured(self, step, metrics):
        self.points.append((step, sorted(metrics)))

    def file(self, step, name, content):
        self.samples.append((step, name, content))

    def flush(self):
        self.points.append("durable")

    def saved(self):
        """Nothing of this is looked at here."""

    def finish(self, status, model=None):
        files = model and sorted(file.name for file in model.path.iterdir())
        self.ends.append((status, files))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Opens a rank's reporter. ``run.tracker`` is the tracker that it got, ``run.record`` the run's record."""
    plan = plan_of(job_of({"train": {"kind": "builtin", "name": "iris"}}), tmp_path)
    prepared = data.prepare(plan)
    tracker, urls = Tracker(), ["http://mlflow/1"]

    def opened(plan, *, attempt, launch, start_step, on_url):
        assert (attempt, launch, start_step) == (3, 1, 4)
        on_url(urls[0])
        return tracker

    monkeypatch.setattr(reporting, "open_tracker", opened)
    record = RunRecord(plan.storage)
    record.set_state(RunStatus(run_id=plan.run_id, state=RunState.STARTING))

    def start(rank=0, plan=plan):
        teller = Teller(3, start.own_log if rank else None)
        return open_reporter(
            plan, prepared, teller=teller, rank=rank, attempt=3, launch=1, start_step=4, started_at=0.0
        )

    start.own_log = io.StringIO()
    start.tracker, start.record, start.plan, start.urls = tracker, record, plan, urls
    return start


def told(capsys):
    lines = (events.parse(line) for line in capsys.readouterr().out.splitlines())
    return [{k: v for k, v in event.items() if k != "time"} for event in lines if event is not None]


def test_a_log_goes_to_the_output_the_tracker_and_the_record(run, capsys):
    with run() as reporter:
        reporter.logged(5, VALUES, {"data_wait": 0.1})
        reporter.saved(5, 0.25, BEST)
        reporter.finished(stopped=False)
    assert told(capsys) == [
        {"event": "attempt", "attempt": 3, "launch": 1, "start_step": 4, "total_steps": 10},
        {"event": "tracking", "url": "http://mlflow/1"},
        {"event": "metrics", "step": 5, "attempt": 3, "values": {**VALUES, "train/loss": 1.23457}},
        {"event": "checkpoint", "step": 5, "stall_seconds": 0.25, "best": BEST.model_dump()},
    ]
    assert run.tracker.points == [(5, VALUES)]
    assert run.tracker.ends == [("FINISHED", None)]
    status = run.record.status(1)
    assert (status.state, status.step, status.attempt) == (RunState.RUNNING, 5, 3)
    assert status.urls == {"mlflow": "http://mlflow/1"} and status.best == BEST


def test_an_address_that_nobody_can_open_is_not_told(run, capsys):
    run.urls[0] = ""
    with run() as reporter:
        reporter.finished(stopped=False)
    assert [event["event"] for event in told(capsys)] == ["attempt"]
    assert run.record.status(1).urls == {}


def test_other_ranks_tell_their_own_log_and_nobody_else(run, capsys):
    with run(rank=1) as reporter:
        reporter.logged(5, VALUES, {"data_wait": 0.1})
        reporter.saved(5, 0.25, BEST)
        reporter.stalled(1.0)
        reporter.generated(5, [Sample("s", "image", np.zeros((8, 8, 1)))])
        reporter.finished(stopped=True)
        assert not reporter.stop_asked()
    assert capsys.readouterr().out == ""
    assert run.tracker.points == run.tracker.samples == run.tracker.ends == []
    assert run.record.status(1).step == 0
    kept = [events.parse(line)["event"] for line in run.own_log.getvalue().splitlines()]
    assert kept == ["attempt", "metrics", "checkpoint"]


def test_samples_are_shown_as_text_or_pictures(run):
    with run() as reporter:
        reporter.generated(
            6,
            [
                Sample("words", "text", np.array([3, 1, 2])),
                Sample("picture", "image", np.zeros((64, 64, 1))),
                Sample("lines", "series", np.zeros((2, 9)), ("a", "b")),
            ],
        )
    (page, sheet, plots) = run.tracker.samples
    assert page[:2] == (6, "samples/step-00000006.html") and b"<pre>3 1 2</pre>" in page[2]
    assert [name for _, name, _ in (sheet, plots)] == [
        "samples/step-00000006.png",
        "samples/step-00000006-series.png",
    ]
    assert sheet[2].startswith(b"\x89PNG")


def test_what_was_logged_is_durable_before_a_checkpoint_is_written(run):
    with run() as reporter:
        reporter.logged(5, VALUES, {})
        reporter.saving()
        reporter.saved(5, 0.1, None)
    assert run.tracker.points == [(5, VALUES), "durable"]


def test_a_stopped_run_is_closed_as_killed(run):
    with run() as reporter:
        reporter.finished(stopped=True)
    assert run.tracker.ends == [("KILLED", None)]


def test_an_attempt_that_fails_leaves_the_trackers_run_open_and_its_record_told(run):
    with pytest.raises(MemoryError), run() as reporter:
        reporter.logged(5, VALUES, {})
        raise MemoryError
    assert run.tracker.ends == [(None, None)]
    assert run.record.status(1).step == 5


def test_steps_taken_before_are_counted_as_replay(run, monkeypatch):
    seen = []

    class Gauges:
        def __init__(self, plan, *, attempt, start_seconds):
            assert attempt == 3 and start_seconds > 1e9

        def logged(self, step, values, seconds, *, again):
            seen.append((step, again))

    monkeypatch.setattr(reporting, "Gauges", Gauges)
    run.record.set_reached(6)
    with run() as reporter:
        for step in (5, 6, 7):
            reporter.logged(step, VALUES, {"data_wait": 0.1})
        reporter.logged(7, {"val/loss": 1.0}, {})  # an evaluation took none of the ledger's time
    assert seen == [(5, True), (6, True), (7, False)]
