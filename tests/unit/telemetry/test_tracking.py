"""The tracker against a real MLflow store in an SQLite file, and against what stands in an MLflow server's place."""

import base64
import http.server
import json
import logging
import math
import multiprocessing
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from orchestrator.errors import InfrastructureError, NotFoundError
from orchestrator.ledger import Ledger
from orchestrator.models.objectives.common import OnePhase
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, ResolvedJob, RunContext
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.telemetry import tracking
from orchestrator.telemetry.closing import close_quietly, describe_run, is_closed, sync
from orchestrator.telemetry.meter import PARTS
from orchestrator.telemetry.mlflow_run import connect, flat_params, run_url
from orchestrator.telemetry.mlflow_view import NOTE_TAG, VIEW_TAG
from orchestrator.telemetry.spool import FileSpool, Part, Spool
from orchestrator.telemetry.step_metrics import OwnTimes, StepMetrics
from orchestrator.telemetry.tracking import NullTracker, open_tracker

LINEAGE = {
    "train": {
        "name": "iris",
        "digest": "abc",
        "source_type": "parquet",
        "source": "{}",
        "schema": None,
        "profile": json.dumps({"samples": 10}),
    }
}


@pytest.fixture
def plan(tmp_path):
    """Makes a plan of a run whose storage and MLflow store lie in the test's folder."""

    def make(uri=None, run_id="job-a", **tracking):
        job = ResolvedJob.model_validate(
            {
                "name": "job",
                "description": "What it is for",
                "model": {"family": "mlp", "in_features": 3, "outputs": 2},
                "objective": {"kind": "classification"},
                "data": {"train": {"kind": "builtin", "name": "iris"}},
                "training": {"max_steps": 10},
                "tracking": tracking,
            }
        )
        context = RunContext(
            version="1",
            run_id=run_id,
            base_dir="/b",
            storage=str(tmp_path / run_id),
            cache="/c",
            tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}" if uri is None else uri,
        )
        made = make_plan(job, DataFacts(train_samples=100), Counts(10, 60, 5, ()), context)
        describe_run(made, data=LINEAGE, started_at=1_000.0)
        return made

    return make


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """An SQLite store with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture(autouse=True)
def store(tmp_path, tables):
    (tmp_path / "mlflow.db").write_bytes(tables)


def opened(plan, attempt=1, start_step=0):
    return open_tracker(plan, attempt=attempt, launch=1, start_step=start_step, on_url=lambda url: None)


def stored(plan):
    client = MlflowClient(plan.tracking_uri)
    experiment = client.get_experiment_by_name("trainwright")
    found = client.search_runs([experiment.experiment_id], f"tags.`trainwright.run_id` = '{plan.run_id}'")
    assert len(found) == 1
    return client, found[0]


def points_of(plan):
    """(name, step, value) of every point that MLflow has, as often as it has it."""
    client, run = stored(plan)
    return sorted(
        (name, point.step, point.value)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    )


def logged_by(plan):
    spool = Spool(plan.storage)
    return sorted(
        (name, record.content["step"], value)
        for part in spool.parts()
        for record in spool.records(part)
        for name, value in record.content.get("values", {}).items()
    )


def end(state=RunState.FAILED, launch=1, ended_at=1_042.5):
    reason = {RunState.SUCCEEDED: EndReason.COMPLETED, RunState.STOPPED: EndReason.STOPPED_BY_USER}
    return RunStatus(
        run_id="job-a",
        launch=launch,
        state=state,
        ended_at=ended_at,
        reason=reason.get(state, EndReason.DRIVER_LOST),
    )


def test_a_run_is_found_again_and_no_point_is_there_twice(plan):
    made = plan()
    first = opened(made)
    for step in range(1, 6):
        first.log(step, {"train/loss": 1 / step, "train/learning_rate": 0.1, "val/top@5": 1.0})
    first.finish(None)
    second = opened(made, attempt=2, start_step=2)
    for step in range(3, 8):
        second.log(step, {"train/loss": 1 / step, "train/learning_rate": 0.1})
    second.log(5, {"val/late": 1.0})  # an evaluation that the first attempt did not come to
    second.file(7, "samples/step-00000007.html", b"<pre>once</pre>")
    second.finish("FINISHED")

    client, run = stored(made)
    assert [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert run.data.metrics["val/late"] == 1.0
    assert run.info.status == "FINISHED"
    assert run.info.start_time == 1_000_000
    assert run.data.metrics["val/top_5"] == 1.0
    assert (
        run.data.tags[NOTE_TAG]
        == "What it is for\n\nNewest: train/loss **0.142857** · val/late **1** · val/top@5 **1**"
    )
    client.set_tag(run.info.run_id, NOTE_TAG, "Look at this one")
    opened(made, attempt=3, start_step=7).finish("FINISHED")
    assert stored(made)[1].data.tags[NOTE_TAG] == "Look at this one"
    assert run.inputs.dataset_inputs[0].dataset.name == "iris"
    paths = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"job.yaml", "plan.json", "environment.txt", "samples"} <= paths
    assert sync(made.storage, None) == 0


def test_the_ledger_is_sent_at_each_end_and_each_of_its_points_once(plan):
    made = plan()
    RunRecord(made.storage).set_ledger(1, Ledger(seconds={"step": 60.0, "down": 20.0}, step=2, launch=1))
    tracker = opened(made)
    tracker.log(1, {"train/loss": 1.0})
    tracker.finish("FINISHED")
    sync(made.storage, end(), anew=True)
    RunRecord(made.storage).set_ledger(2, Ledger(seconds={"step": 120.0, "down": 40.0}, step=4, launch=2))
    sync(made.storage, end(launch=2))
    client, run = stored(made)
    values = [(name, step, value) for name, step, value in points_of(made) if name.startswith("system/")]
    assert values == [
        ("system/ledger/down_seconds", 80, 20.0),
        ("system/ledger/down_seconds", 160, 40.0),
        ("system/ledger/effective_training_time", 80, 0.75),
        ("system/ledger/effective_training_time", 160, 0.75),
        ("system/ledger/step_seconds", 80, 60.0),
        ("system/ledger/step_seconds", 160, 120.0),
    ]
    files = {file.path for file in client.list_artifacts(run.info.run_id, "ledger")}
    assert files == {"ledger/ledger.json", "ledger/ledger.png"}


def test_the_ledger_that_is_sent_has_the_wait_of_a_launch_that_came_to_no_driver(plan):
    made = plan()
    record = RunRecord(made.storage)
    record.set_ledger(1, Ledger(seconds={"step": 60.0}, step=2, launch=1, until=1_060.0))
    record.taken_over(1)
    opened(made).finish("FINISHED")
    waited = (("queue", 1_070.0), ("image", 1_080.0))
    later = end(launch=2, ended_at=1_100.0).model_copy(update={"submitted_at": 1_070.0, "waited": waited})
    sync(made.storage, end(ended_at=1_060.0).model_copy(update={"waited": waited}))
    sync(made.storage, later)
    values = {(name, step): value for name, step, value in points_of(made) if name.endswith("_seconds")}
    assert values == {
        ("system/ledger/step_seconds", 60): 60.0,
        ("system/ledger/step_seconds", 100): 60.0,
        ("system/ledger/between_launches_seconds", 100): 10.0,
        ("system/ledger/queue_seconds", 100): 10.0,
        ("system/ledger/image_seconds", 100): 20.0,
    }


def test_thousands_of_points_arrive_in_order(plan):
    made = plan()
    tracker = opened(made)
    for step in range(3_000):
        tracker.log(step, {"train/loss": float(step)})
    tracker.finish("KILLED")
    client, run = stored(made)
    assert [p.value for p in client.get_metric_history(run.info.run_id, "train/loss")] == list(
        map(float, range(3_000))
    )
    assert run.info.status == "KILLED"


def test_no_number_stays_no_number(plan):
    made = plan()
    tracker = opened(made)
    tracker.log(1, {"train/loss": math.nan, "val/loss": math.inf})
    tracker.finish("FINISHED")
    (loss, nan), (_, inf) = ((name, value) for name, _, value in points_of(made))
    assert loss == "train/loss" and math.isnan(nan) and inf > 1e308
    assert sync(made.storage, None) == 0


@pytest.mark.parametrize(
    ("state", "status"),
    [(RunState.FAILED, "FAILED"), (RunState.STOPPED, "KILLED"), (RunState.SUCCEEDED, "FINISHED")],
)
def test_whoever_finds_the_end_sends_what_waits_and_closes_the_run(plan, state, status):
    made = plan()
    writer = FileSpool(made.storage, Part(1, 0))  # of a process that was killed before it sent anything
    for step in range(1, 6):
        writer.log(step, {"train/loss": 1 / step})
    assert not is_closed(made.storage, end(state))
    assert close_quietly(made.storage, end(state))
    assert points_of(made) == logged_by(made)
    _, run = stored(made)
    assert (run.info.status, run.info.start_time, run.info.end_time) == (status, 1_000_000, 1_042_500)
    assert is_closed(made.storage, end(state)) and not is_closed(made.storage, end(state, launch=2))
    again = opened(made, attempt=2)
    again.log(6, {"train/loss": 1.0})
    again.finish(None)
    assert stored(made)[1].info.status == "RUNNING"
    assert not is_closed(made.storage, end(state))


def test_a_second_sender_leaves_it_to_the_first(plan):
    made = plan()
    tracker = opened(made)
    tracker.log(1, {"train/loss": 1.0})
    while not points_somewhere(made):
        time.sleep(0.05)
    assert sync(made.storage, None) is None
    tracker.finish("FINISHED")
    assert sync(made.storage, None) == 0


def points_somewhere(plan):
    try:
        return bool(points_of(plan))
    except (AssertionError, AttributeError):
        return False


def test_a_run_that_was_deleted_by_hand_is_said_with_all_it_had_and_made_again_when_asked(plan, caplog):
    made = plan()
    first = opened(made)
    for step in range(1, 4):
        first.log(step, {"train/loss": 1.0, "train/rate": 2.0})
    first.finish(None)
    client, run = stored(made)
    client.delete_run(run.info.run_id)
    second = opened(made, attempt=2, start_step=3)
    second.log(4, {"train/loss": 1.0, "train/rate": 2.0})
    second.finish(None)
    said = [record.message for record in caplog.records if record.name == "orchestrator"]
    assert any("the run was deleted there" in message for message in said)
    assert (
        f"lacks 8 metric values; they are kept with the run, and sent by trainwright sync {made.run_id}"
        in said[-1]
    )
    assert not close_quietly(made.storage, end())
    assert sync(made.storage, end(), anew=True) == 8
    assert points_of(made) == logged_by(made)
    assert stored(made)[1].info.status == "FAILED"


def test_a_deleted_experiment_is_named(plan):
    made = plan()
    opened(made).finish("FINISHED")
    client, run = stored(made)
    client.delete_experiment(run.info.experiment_id)
    with pytest.raises(
        InfrastructureError, match=r"the experiment 'trainwright' was deleted there; restore it"
    ):
        sync(made.storage, None, anew=True)
    client.restore_experiment(run.info.experiment_id)
    assert sync(made.storage, None) == 0


def test_a_run_that_was_deleted_while_it_is_sent_is_noticed(plan, caplog):
    made = plan()
    tracker = opened(made)
    tracker.log(1, {"train/loss": 1.0})
    while not points_somewhere(made):
        time.sleep(0.05)
    client, run = stored(made)
    client.delete_run(run.info.run_id)
    tracker.log(2, {"train/loss": 1.0})
    tracker.finish(None)
    assert "lacks 2 metric values" in caplog.records[-1].message


def test_a_locked_database_is_waited_for(plan, tmp_path, caplog):
    made = plan()
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    deadline = time.monotonic() + 60
    tracker = opened(made)
    tracker.log(1, {"train/loss": 1.0})
    while "database is locked" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.1)
    lock.execute("ROLLBACK")
    lock.close()
    tracker.finish("FINISHED")
    assert "its database is locked by another process" in caplog.text
    assert points_of(made) == logged_by(made)


@contextmanager
def answering(answer):
    """A server in MLflow's place. ``answer(handler)`` answers each request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        do_POST = do_PATCH = do_GET

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def text(code, content):
    def answer(handler):
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (text(500, b"oops"), "it answers with an error of its own (500)"),
        (text(401, b"who are you?"), "it asks for a user name and password"),
        (text(403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'), "this user may not write there"),
        (text(200, b"<!doctype html><html>a portal</html>"), "it answers with a web page"),
        (None, "connection refused"),
    ],
    ids=["500", "401", "403", "html", "gone"],
)
def test_what_a_server_does_wrong_is_said_in_a_few_words_and_ends_nothing(
    plan, monkeypatch, caplog, answer, said
):
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 0.1)
    with answering(answer or text(200, b"")) as uri:
        if answer is not None:
            problem_of(plan(uri), said, caplog)
    if answer is None:
        problem_of(plan(uri), said, caplog)


def problem_of(made, said, caplog):
    tracker = opened(made)
    with caplog.at_level(logging.WARNING):
        tracker.log(1, {"train/loss": 1.0})
        tracker.finish("FINISHED")
    messages = [record.message for record in caplog.records if record.name == "orchestrator"]
    assert len(messages) == 2, messages
    assert (
        messages[0] == f"MLflow at {made.tracking_uri}: {messages[0].partition(': ')[2]}"
        and said in messages[0]
    )
    assert messages[0].endswith("; training goes on") and "\n" not in messages[0] and len(messages[0]) < 200
    assert "lacks 1 metric values" in messages[1]
    with pytest.raises(InfrastructureError) as caught:
        sync(made.storage, None)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_password_of_the_environments_address_is_used_and_shown_nowhere(plan, monkeypatch, caplog):
    seen = []
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # so that what the code sets is gone after the test
        monkeypatch.delenv(name)

    def answer(handler):
        seen.append(handler.headers.get("Authorization"))
        text(401, handler.path.encode())(handler)

    with answering(answer) as uri:
        open_uri = uri.replace("http://", "http://ann@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("http://", "http://ann:s3cr3t%21@"))
        made = plan(open_uri)
        with pytest.raises(InfrastructureError) as caught:
            sync(made.storage, None)
    assert base64.b64decode(seen[0].split()[1]) == b"ann:s3cr3t!"
    files = b"".join(path.read_bytes() for path in Path(made.storage).rglob("*") if path.is_file())
    assert "s3cr3t" not in str(caught.value) + caplog.text and b"s3cr3t" not in files


def _first_look(uri, start, problems):
    start.wait()
    try:
        connect(uri)
    except Exception as error:
        problems.put(repr(error))


def test_processes_that_come_first_to_a_database_make_its_tables_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, problems = context.Event(), context.SimpleQueue()
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    processes = [context.Process(target=_first_look, args=(uri, start, problems)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert problems.empty()


def test_an_experiment_comes_with_a_view_of_metrics_that_runs_have(plan):
    made = plan()
    opened(made).finish("FINISHED")
    client, run = stored(made)
    experiment = client.get_experiment(run.info.experiment_id)
    assert (
        f"#/experiments/{run.info.experiment_id}/runs?viewStateShareKey=trainwright"
        in experiment.tags[NOTE_TAG]
    )
    view = json.loads(experiment.tags[VIEW_TAG])
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} < sections
    drawn = {name for chart in view["compareRunCharts"] for name in chart.get("selectedMetricKeys", ())}
    metrics = StepMetrics(made, OnePhase(), torch.device("cpu"))
    metrics.add_step(samples=1, tokens=1)
    seconds = dict.fromkeys(PARTS, 1.0)
    logged = metrics.named({"loss": 1.0}, factor=1.0, epoch=1.0, seconds=seconds, own=OwnTimes(1.0))
    assert drawn - {"val/loss", "val/accuracy"} <= {*logged, "train/grad_norm"}
    (compared,) = (chart for chart in view["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert set(compared["selectedParams"]) <= run.data.params.keys()


def test_an_experiment_of_somebody_else_gets_the_view_and_keeps_what_it_has(plan):
    made = plan()
    client = MlflowClient(made.tracking_uri)
    number = client.create_experiment("trainwright", tags={NOTE_TAG: "Ours"})
    opened(made).finish("FINISHED")
    tags = client.get_experiment(number).tags
    assert tags[NOTE_TAG] == "Ours" and json.loads(tags[VIEW_TAG])
    client.set_experiment_tag(number, VIEW_TAG, "{}")
    opened(plan(run_id="job-b")).finish("FINISHED")
    assert client.get_experiment(number).tags[VIEW_TAG] == "{}"


def test_a_run_that_keeps_nothing_is_said(tmp_path):
    with pytest.raises(NotFoundError, match="keeps nothing for MLflow"):
        sync(str(tmp_path), None)
    assert close_quietly(str(tmp_path), end())


def test_no_tracker_and_the_address_of_a_run(plan):
    assert isinstance(opened(plan("", kind="none")), NullTracker)
    assert run_url("http://h:5000/", "1", "r").endswith(
        "/#/experiments/1/runs/r?workflowType=machine_learning"
    )
    assert run_url("sqlite:///x", "1", "r") == ""


def test_a_link_opens_the_workspace_that_the_run_is_in(monkeypatch):
    monkeypatch.setenv("MLFLOW_WORKSPACE", "vision")
    assert run_url("http://h:5000", "1", "r").endswith(
        "/runs/r?workflowType=machine_learning&workspace=vision"
    )


def test_parameters_hold_no_secret_place(plan):
    params = flat_params(plan())
    assert params["training.global_batch_size"] == "64"
    assert not any(name.startswith(("environment", "tracking")) for name in params)
