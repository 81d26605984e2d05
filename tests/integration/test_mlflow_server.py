"""A run's points against MLflow's own server, which is slow, answers late, or is gone for a while."""

import contextlib
import logging
import time

import pytest
from mlflow import MlflowClient

from orchestrator.chaos.mlflow_door import Door, mlflow_server
from orchestrator.errors import InfrastructureError
from orchestrator.telemetry import tracking
from orchestrator.telemetry.closing import describe_run, sync
from orchestrator.telemetry.tracking import open_tracker
from orchestrator.testing import small_plan

STEPS = 1_500
"""More than one request holds."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def door(server):
    door = Door(server)
    yield door
    door.release()
    door.shut()


@pytest.fixture
def plan(door, tmp_path, monkeypatch):
    """Of a run that is tracked behind the door. The tracker's pauses are hundredths of what they are."""
    monkeypatch.setattr(tracking, "_SEND_SECONDS", 0.02)
    monkeypatch.setattr(tracking, "_LONGEST_PAUSE", 0.1)
    made = small_plan(
        run_id=tmp_path.name.replace("_", "-"), storage=str(tmp_path / "run"), tracking_uri=door.address
    )
    describe_run(made, data={}, started_at=1_000.0)
    return made


def opened(plan, *, attempt=1, start_step=0):
    return open_tracker(plan, attempt=attempt, launch=1, start_step=start_step, on_url=lambda url: None)


def until(is_so, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def points_of(plan, server):
    """Step and value of every point that the server has, as often as it has it; and the run's status."""
    client = MlflowClient(server)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("trainwright").experiment_id],
        f"tags.`trainwright.run_id` = '{plan.run_id}'",
    )
    points = client.get_metric_history(run.info.run_id, "train/loss")
    return sorted((point.step, point.value) for point in points), run.info.status


def has_points(plan, server):
    with contextlib.suppress(AttributeError, ValueError):
        return bool(points_of(plan, server)[0])
    return False


def said(caplog):
    return [record.message for record in caplog.records if record.name == "orchestrator"]


def test_points_of_a_server_that_is_gone_for_a_while_arrive_once(plan, door, server, caplog):
    tracker = opened(plan)
    with caplog.at_level(logging.INFO):
        tracker.log(0, {"train/loss": 0.0})
        until(lambda: has_points(plan, server))
        door.shut()
        for step in range(1, STEPS):
            tracker.log(step, {"train/loss": float(step)})
        until(lambda: "connection refused" in caplog.text)
        until(lambda: len(said(caplog)) == 1)
        door.open()
        until(lambda: "answers again" in caplog.text)
        tracker.finish("FINISHED")
    points, status = points_of(plan, server)
    assert points == [(step, float(step)) for step in range(STEPS)] and status == "FINISHED"
    assert said(caplog) == [
        f"MLflow at {door.address}: nothing answers there: connection refused; training goes on",
        f"MLflow at {door.address} answers again",
    ]


def test_a_run_that_ends_while_its_server_is_gone_is_brought_up_to_date_later(
    plan, door, server, caplog, monkeypatch
):
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 0.5)
    tracker = opened(plan)
    tracker.log(0, {"train/loss": 0.0})
    until(lambda: has_points(plan, server))
    door.shut()
    for step in range(1, STEPS):
        tracker.log(step, {"train/loss": float(step)})
    tracker.finish("FINISHED")
    assert said(caplog)[-1] == (
        f"MLflow at {door.address} lacks {STEPS - 1:,} metric values; they are kept with the run, and sent by"
        f" trainwright sync {plan.run_id}"
    )
    with pytest.raises(
        InfrastructureError, match=f"may lack up to {STEPS:,} metric values of .*connection refused"
    ):
        sync(plan.storage, None)
    door.open()
    assert sync(plan.storage, None) == STEPS - 1
    assert points_of(plan, server)[0] == [(step, float(step)) for step in range(STEPS)]


def test_points_whose_answer_comes_too_late_are_there_once(plan, door, server, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    door.hold("runs/log-batch")  # the server takes them, and the client is not told
    tracker = opened(plan)
    for step in range(3):
        tracker.log(step, {"train/loss": float(step)})
    until(lambda: "it did not answer in time; training goes on" in caplog.text)
    door.release()
    tracker.finish("FINISHED")
    assert points_of(plan, server) == ([(step, float(step)) for step in range(3)], "FINISHED")


def test_a_slow_server_holds_up_no_step_and_gets_all(plan, door, server, caplog, monkeypatch):
    monkeypatch.setattr(
        tracking, "_CLOSE_SECONDS", 0.9
    )  # a third is what the server takes, as of 30 s are 10
    door.slow_seconds = 0.3
    tracker = opened(plan)
    began = time.monotonic()
    for step in range(STEPS):
        tracker.log(step, {"train/loss": float(step)})
    seconds = time.monotonic() - began
    with caplog.at_level(logging.INFO):
        tracker.finish("FINISHED")
    assert said(caplog) == [f"MLflow at {door.address} is slow; the end waits for it for 10 minutes at most"]
    assert points_of(plan, server) == ([(step, float(step)) for step in range(STEPS)], "FINISHED")
    assert seconds < door.requests * door.slow_seconds


def test_a_server_that_breaks_down_is_said_and_gets_all_when_it_is_mended(plan, door, server, caplog):
    door.code = 500
    tracker = opened(plan)
    tracker.log(0, {"train/loss": 0.0})
    until(lambda: "it answers with an error of its own (500); training goes on" in caplog.text)
    door.code = 0
    tracker.finish("FINISHED")
    assert points_of(plan, server) == ([(0, 0.0)], "FINISHED")
