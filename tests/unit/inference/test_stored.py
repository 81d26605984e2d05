"""Predictions and metrics of a checkpoint by its folder, and by the name that it is registered under."""

import mlflow
import pyarrow.parquet as pq
import pytest
from asked import stones
from mlflow import MlflowClient

from orchestrator import sdk
from orchestrator.data import INPUTS
from orchestrator.errors import NotFoundError, SpecError
from orchestrator.records import PLAN
from orchestrator.storage import store_at
from orchestrator.stored_run import CheckpointRun
from orchestrator.telemetry.registered import checkpoint_of


@pytest.fixture
def stored(classifier, tmp_path, monkeypatch):
    """The classifier's storage, with what the driver of a run keeps there."""
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    store = store_at(classifier.plan.storage)
    store.write(PLAN, classifier.plan.model_dump_json().encode())
    store.write(INPUTS, classifier.inputs.model_dump_json().encode())
    return classifier


def test_a_checkpoints_folder_is_enough(stored, tmp_path):
    pq.write_table(stones(12, seed=3), tmp_path / "new.parquet")
    run = sdk.stored(stored.saved.path)
    assert (run.id, run.checkpoint()) == (stored.plan.run_id, stored.saved)
    found = run.evaluate(tmp_path / "new.parquet")
    assert (found.run, found.step, found.samples) == (stored.plan.run_id, 40, 12)
    older = sdk.stored(stored.saved.path.replace("step-00000040", "step-00000020"))
    assert older.evaluate(tmp_path / "new.parquet").step == 20


def test_only_that_checkpoint_is_taken(stored):
    run = CheckpointRun(stored.saved.path)
    for which in ("best", "20"):
        with pytest.raises(SpecError, match="is a checkpoint: leave --best and --step out"):
            run.checkpoint(which)
    for path in (stored.saved.path.replace("step-00000040", "step-00000041"), stored.plan.storage):
        with pytest.raises(NotFoundError, match="is no committed checkpoint of a run"):
            CheckpointRun(path)


def test_a_registered_model_is_its_checkpoint(stored, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("stones", artifact_location=str(tmp_path / "artifacts"))
    logged = client.create_logged_model(experiment, name="stones", tags={"checkpoint": stored.saved.path})
    other = client.create_logged_model(experiment, name="other")
    client.create_registered_model("stones")
    mlflow.set_tracking_uri(uri)  # MLflow's registry looks models up there, whatever its client was given
    for model in (logged, other):
        client.create_model_version("stones", f"models:/{model.model_id}", model_id=model.model_id)
    client.set_registered_model_alias("stones", "champion", "1")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'none.db'}")
    for name in ("models:/stones@champion", "models:/stones/1"):
        assert checkpoint_of(uri, name) == stored.saved.path
    with pytest.raises(NotFoundError, match="models:/stones/2 was registered by something else"):
        checkpoint_of(uri, "models:/stones/2")
    for name in ("models:/stones@none", "models:/stones/7", "models:/rocks@champion", "models:/rocks"):
        with pytest.raises(NotFoundError, match="has no such model"):
            checkpoint_of(uri, name)
