"""Whoever looks at a run whose driver is gone tells the tracker; the verb does it on request."""

import json
import os

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from orchestrator import sdk
from orchestrator.cli.app import app
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus
from orchestrator.telemetry.closing import describe_run
from orchestrator.telemetry.spool import FileSpool, Part


@pytest.fixture
def lost(tmp_path, monkeypatch):
    """Makes a run of this machine whose processes were killed: its worker had logged three points and sent none."""
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    job = {
        "name": "job",
        "model": {"family": "mlp", "size": "debug"},
        "data": {"train": {"kind": "builtin", "name": "iris"}},
        "training": {"max_steps": 100},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))

    def make(*overrides):
        plan = sdk.make_plan(tmp_path / "job.yaml", overrides=overrides)
        record = RunRecord(plan.storage)
        record.store.write("plan.json", plan.model_dump_json().encode())
        record.store.write("launches/1/process.json", json.dumps(GONE).encode())
        record.set_state(RunStatus(run_id=plan.run_id, state=RunState.RUNNING, submitted_at=1.0))
        describe_run(plan, data={}, started_at=1_000.0)
        writer = FileSpool(plan.storage, Part(1, 0))
        for step in (10, 20, 30):
            writer.log(step, {"train/loss": 1 / step})
        writer.close()
        return plan

    return make


GONE = {"pid": 2**22 + 1, "started": 1, "boot": "another", "ray_dir": "gone"}


def tracked(plan):
    client = MlflowClient(plan.tracking_uri)
    experiment = client.get_experiment_by_name("trainwright")
    (run,) = client.search_runs(
        [experiment.experiment_id], f"tags.`trainwright.run_id` = '{plan.run_id}'", max_results=2
    )
    return run.info.status, [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")]


def test_status_list_and_stop_close_what_a_lost_driver_left_open(lost):
    plan = lost()
    assert sdk.attach(plan.run_id).status().state is RunState.FAILED
    assert tracked(plan) == ("FAILED", [10, 20, 30])
    other = lost()
    RunRecord(other.storage).ask_to_stop(1)
    assert {status.run_id for status in sdk.list_runs()} == {plan.run_id, other.run_id}
    assert tracked(other) == ("KILLED", [10, 20, 30])
    third = lost()
    assert sdk.Run(third.run_id, sdk.attach(third.run_id).cluster).stop(now=True).state is RunState.FAILED
    assert tracked(third) == ("FAILED", [10, 20, 30])


def test_a_tracker_that_is_gone_costs_a_warning_and_the_verb_says_why(lost, caplog):
    plan = lost("tracking.uri=http://127.0.0.1:9")
    lost("tracking.uri=http://127.0.0.1:9")
    assert len(sdk.list_runs()) == 2
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "lacks 3 metric values" in warning and "connection refused" in warning
    caplog.clear()
    assert sdk.attach(plan.run_id).status().state is RunState.FAILED
    answer = CliRunner().invoke(app, ["sync", plan.run_id])
    assert answer.exit_code == 1 and "connection refused" in str(answer.exception)


def test_sync_says_what_it_sent(lost):
    plan = lost()
    answer = CliRunner().invoke(app, ["sync", plan.run_id])
    assert answer.output == f"{plan.run_id}: sent 3 metric values\n"
    answer = CliRunner().invoke(app, ["sync", plan.run_id])
    assert answer.output == f"{plan.run_id}: MLflow has all of it\n"
    answer = CliRunner().invoke(app, ["sync", plan.run_id, "--json"])
    assert json.loads(answer.output) == {"run": plan.run_id, "values_sent": 0}


def test_a_home_that_was_moved_takes_its_mlflow_along(lost, tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(old))
    first, second = lost(), lost()
    sdk.attach(first.run_id).status()
    old.rename(new)
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(new))
    for plan in (first, second):
        assert sdk.attach(plan.run_id).status().state is RunState.FAILED
    assert not old.exists()
    moved = [plan.moved_to(f"{new}/runs/{plan.run_id}") for plan in (first, second)]
    assert [tracked(plan) for plan in moved] == [("FAILED", [10, 20, 30])] * 2
    client = MlflowClient(moved[0].tracking_uri)
    for run in client.search_runs([client.get_experiment_by_name("trainwright").experiment_id]):
        assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"job.yaml", "plan.json"}
        assert run.info.artifact_uri.startswith(new.as_uri())


def test_what_is_made_for_mlflow_is_read_by_its_user_alone(lost, tmp_path):
    before = os.umask(0o022)
    try:
        sdk.attach(lost().run_id).status()
    finally:
        os.umask(before)
    (tmp_path / "job.yaml").unlink()
    found = list(tmp_path.rglob("*"))
    assert {tmp_path / "mlflow.db", tmp_path / "mlartifacts"} <= set(found)
    assert [str(path) for path in found if path.stat().st_mode & 0o077] == []
