"""The tracker against a real MLflow store in an SQLite file."""

import json
import logging
import warnings

import numpy as np
import pytest
from mlflow import MlflowClient

from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, ResolvedJob, RunContext
from orchestrator.telemetry import tracking
from orchestrator.telemetry.tracking import NullTracker, flat_params, open_tracker, run_url


def plan(uri, run_id="job-a", **tracking):
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
        storage="/s",
        cache="/c",
        tracking_uri=uri,
    )
    return make_plan(job, DataFacts(train_samples=10), Counts(10, 60, 5, ()), context)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def stored(uri, run_id):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("trainwright")
    found = client.search_runs([experiment.experiment_id], f"tags.`trainwright.run_id` = '{run_id}'")
    assert len(found) == 1
    return client, found[0]


def test_a_run_is_found_again_and_no_point_is_there_twice(uri):
    lineage = {
        "train": {
            "name": "iris",
            "digest": "abc",
            "source_type": "parquet",
            "source": "{}",
            "schema": None,
            "profile": json.dumps({"samples": 10}),
        }
    }
    first = open_tracker(plan(uri), dataset=lineage, on_url=lambda url: None)
    for step in range(1, 6):
        first.log(step, {"train/loss": 1 / step, "train/learning_rate": 0.1, "val/top@5": 1.0})
    first.finish(None)
    second = open_tracker(plan(uri), dataset=lineage, on_url=lambda url: None)
    for step in range(3, 8):
        second.log(step, {"train/loss": 1 / step, "train/learning_rate": 0.1})
    second.image(7, "digits", np.zeros((8, 8, 3), np.uint8))
    second.text(7, "story", "once")
    second.finish("FINISHED")

    client, run = stored(uri, "job-a")
    assert [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert run.info.status == "FINISHED"
    assert "val/top_5" in run.data.metrics
    assert run.data.tags["mlflow.note.content"] == "What it is for"
    assert run.inputs.dataset_inputs[0].dataset.name == "iris"
    paths = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"job.yaml", "plan.json", "environment.txt", "images", "samples"} <= paths


def test_thousands_of_points_arrive_in_order(uri):
    tracker = open_tracker(plan(uri, "job-many"), dataset={}, on_url=lambda url: None)
    for step in range(3000):
        tracker.log(step, {"train/loss": float(step), "train/learning_rate": 0.1})
    tracker.finish("KILLED")
    client, run = stored(uri, "job-many")
    assert [p.value for p in client.get_metric_history(run.info.run_id, "train/loss")] == list(
        map(float, range(3000))
    )
    assert run.info.status == "KILLED"


def test_an_absent_server_is_said_once_and_ends_nothing(monkeypatch, caplog):
    monkeypatch.setattr("orchestrator.telemetry.tracking._CLOSE_SECONDS", 2.0)
    tracker = open_tracker(plan("http://127.0.0.1:9"), dataset={}, on_url=lambda url: None)
    with caplog.at_level(logging.WARNING):
        tracker.log(1, {"train/loss": 1.0})
        tracker.finish("FINISHED")
    messages = [
        record.message for record in caplog.records if record.name == "orchestrator.telemetry.tracking"
    ]
    assert len([m for m in messages if "training goes on" in m]) == 1
    assert any("did not take 1 metric values" in m for m in messages)


def test_no_tracker_and_the_address_of_a_run():
    assert isinstance(open_tracker(plan("", kind="none"), dataset={}, on_url=lambda url: None), NullTracker)
    assert run_url("http://h:5000/", "1", "r").endswith(
        "/#/experiments/1/runs/r?workflowType=machine_learning"
    )
    assert run_url("sqlite:///x", "1", "r") == ""


def test_parameters_hold_no_secret_place(uri):
    params = flat_params(plan(uri))
    assert params["training.global_batch_size"] == "64"
    assert not any(name.startswith(("environment", "tracking")) for name in params)


def test_advice_for_authors_of_models_is_not_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *place, **more: shown.append(str(message)))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with tracking._without_advice():
            warnings.warn("\033[33mAdd type hints to the `predict` method to enable ...", stacklevel=1)
            warnings.warn("the disk is nearly full", stacklevel=1)
        warnings.warn("An input example was not provided", stacklevel=1)
    assert shown == ["the disk is nearly full", "An input example was not provided"]
