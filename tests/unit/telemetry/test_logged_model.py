"""A model that a run logged, loaded back from MLflow: it takes rows and texts as the data source has them."""

import json
import time

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from orchestrator import data, sdk, worker
from orchestrator.errors import DataError

QUICK = {
    "training": {"max_steps": 2, "global_batch_size": 4},
    "scaling": {"workers": 1},
    "checkpoint": {"asynchronous": False},
}


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """Trains a job for two steps in this process and gives the model that it logged."""
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def train(job: dict):
        name = job["model"]["family"]
        source = {"data": {"reader": "worker", **job["data"]}}
        whole = {"name": name, **QUICK, **job, **source, "tracking": {"kind": "mlflow", "uri": uri}}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(whole))
        plan = sdk.make_plan(path)
        plan = plan.model_copy(update={"storage": str(tmp_path / plan.run_id)})
        prepared = data.prepare(plan)
        artifacts = str(tmp_path / "artifacts")
        experiment = MlflowClient(uri).create_experiment(plan.job.tracking.experiment, artifacts)
        worker.run(
            {
                "plan": plan.model_dump_json(),
                "prepared": prepared.model_dump_json(),
                "launch": 1,
                "started_at": time.time(),
            }
        )
        mlflow.set_tracking_uri(uri)
        every = mlflow.search_logged_models([experiment], output_format="list")
        (found,) = (one for one in every if one.tags["trainwright.model"] == "weights")
        train.model = found
        train.shown = _files(MlflowClient(uri), found.source_run_id)
        return mlflow.pyfunc.load_model(f"models:/{found.model_id}")

    return train


def _files(client: MlflowClient, run_id: str, folder: str = "") -> list[str]:
    paths: list[str] = []
    for entry in client.list_artifacts(run_id, folder):
        paths += _files(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return paths


def test_a_language_model_goes_on_from_a_text(logged, tmp_path):
    (tmp_path / "corpus.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    model = logged(
        {
            "model": {"family": "gpt", "size": "debug", "context": 16},
            "data": {
                "train": {"kind": "text", "path": "corpus.txt"},
                "eval": {"kind": "split", "fraction": 0.2},
                "prepare": {"kind": "pack", "tokenizer": {"kind": "characters"}, "context": 16},
            },
        }
    )
    assert any(path.startswith("samples/") and path.endswith(".html") for path in logged.shown), logged.shown
    (written,) = model.predict(["the quick brown"], params={"tokens": 12})
    assert 0 < len(written) <= 12
    assert set(written) <= set("the quick brown fox jumps over the lazy dog\n")
    assert model.predict(["the quick brown"], params={"tokens": 12}) == [written], "a seed repeats it"
    with pytest.raises(DataError, match="not in the training text's vocabulary"):
        model.predict(["THE"])


def test_a_classifier_reads_texts(logged, tmp_path):
    rows = [{"text": f"{word} again", "mood": word} for word in ("good", "bad") * 8]
    (tmp_path / "moods.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = logged(
        {
            "model": {"family": "rnn", "size": "debug"},
            "objective": {"kind": "classification"},
            "data": {
                "train": {"kind": "jsonl", "path": "moods.jsonl"},
                "prepare": {
                    "kind": "tokenize",
                    "tokenizer": {"kind": "words"},
                    "context": 4,
                    "classify": False,
                    "label": "mood",
                },
            },
        }
    )
    inputs = model.unwrap_python_model().inputs
    assert inputs.classes == ("bad", "good")
    answered = model.predict(["good again", "never seen"])
    outputs = model.predict(["good again", "never seen"], params={"raw": True})
    assert list(answered["class"]) == [inputs.classes[index] for index in outputs.argmax(axis=1)]
    shares = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answered["probability"], shares.max(axis=1), rtol=1e-5)
    assert [list(row) for row in answered["probabilities"]] == [["bad", "good"]] * 2
    assert model.predict(pd.DataFrame({"text": ["good again", "never seen"]})).equals(answered)


def test_a_table_is_encoded_and_scaled_as_in_training(logged, tmp_path):
    table = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0] * 4, "color": ["red", "blue"] * 8, "risk": [0, 1] * 8})
    table.to_csv(tmp_path / "table.csv", index=False)
    model = logged(
        {
            "model": {"family": "mlp", "size": "debug"},
            "objective": {"kind": "binary"},
            "data": {
                "train": {"kind": "csv", "path": "table.csv"},
                "columns": {"features": ["size"], "categories": ["color"], "label": "risk"},
                "transforms": [
                    {"kind": "normalize", "tensor": "features"},
                    {"kind": "encode", "tensor": "categories"},
                ],
            },
        }
    )
    raw = model.predict(table.drop(columns="risk")[:2])
    deviation = table["size"].std(ddof=0)
    features = ((table["size"][:2] - table["size"].mean()) / deviation).to_numpy(np.float32)[:, None]
    named = model.unwrap_python_model().outputs({"features": features, "categories": np.array([[1], [0]])})
    np.testing.assert_allclose(
        raw["probability"], np.maximum(sigmoid(named), sigmoid(-named))[:, 0], atol=1e-6
    )
    assert list(raw["class"]) == list((named[:, 0] > 0).astype(int))
    whole = table.drop(columns="risk")[:2].astype({"size": int})
    assert model.predict(whole).equals(raw), "whole numbers where training had fractions"
    with pytest.raises(DataError, match="'categories' has 'green', which no training row has"):
        model.predict(pd.DataFrame({"size": [1.0], "color": ["green"]}))
    with pytest.raises(DataError, match="no column 'color'"):
        model.predict(pd.DataFrame({"size": [1.0]}))


@pytest.mark.parametrize("together", [True, False])
def test_a_forecast_has_the_series_own_units(logged, tmp_path, together):
    steps = np.arange(64)
    hours = [f"2026-01-{1 + hour // 24:02d} {hour % 24:02d}:00:00" for hour in steps]
    table = pd.DataFrame({"hour": hours, "load": 1000 + np.sin(steps), "heat": 20 + np.cos(steps)})
    table.to_csv(tmp_path / "series.csv", index=False)
    model = logged(
        {
            "model": {"family": "lstm", "size": "debug"},
            "objective": {"kind": "forecasting"},
            "data": {
                "train": {"kind": "csv", "path": "series.csv"},
                "eval": {"kind": "split", "fraction": 0.3, "by": "position"},
                "prepare": {"kind": "windows", "past": 8, "horizon": 3, "together": together},
            },
        }
    )
    assert any(path.startswith("samples/") and "-series" in path for path in logged.shown), logged.shown
    forecast = model.predict(table)
    assert [f"{moment:%Y-%m-%d %H:%M}" for moment in forecast["hour"]] == [
        f"2026-01-03 {hour}:00" for hour in (16, 17, 18)
    ]
    np.testing.assert_allclose(forecast[["load", "heat"]].mean(axis=0), [1000, 20], atol=3)
    with pytest.raises(DataError, match="needs the last 8 rows, but there are 5"):
        model.predict(table[:5])


def test_made_images_are_there_to_be_seen(logged):
    model = logged(
        {
            "model": {"family": "gan", "size": "debug"},
            "data": {
                "train": {"kind": "builtin", "name": "digits"},
                "eval": {"kind": "split", "fraction": 0.1},
                "transforms": [{"kind": "scale", "tensor": "image", "factor": 0.125, "offset": -1.0}],
            },
        }
    )
    assert any(path.endswith(".png") for path in logged.shown), logged.shown
    assert model.predict({"noise": np.zeros((2, 16), np.float32)}).shape == (2, 1, 8, 8)
