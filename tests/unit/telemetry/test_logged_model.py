"""A model that a run logged, loaded back from MLflow: it takes rows and texts as the data source has them."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from orchestrator import checkpoint, data, sdk, worker
from orchestrator.errors import DataError
from orchestrator.telemetry.closing import describe_run

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
        tracking = {"kind": "mlflow", "uri": uri, **job.get("tracking", {})}
        whole = {"name": name, **QUICK, **job, **source, "tracking": tracking}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(whole))
        plan = sdk.make_plan(path)
        plan = plan.model_copy(update={"storage": str(tmp_path / plan.run_id)})
        prepared = data.prepare(plan)
        artifacts = str(tmp_path / "artifacts")
        experiment = MlflowClient(uri).create_experiment(plan.job.tracking.experiment, artifacts)
        describe_run(plan, data=prepared.lineage, started_at=time.time())
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
        train.model, train.every, train.plan = found, every, plan
        train.shown = _files(MlflowClient(uri), found.source_run_id)
        return mlflow.pyfunc.load_model(f"models:/{found.model_id}")

    return train


def _files(client: MlflowClient, run_id: str, folder: str = "") -> list[str]:
    paths: list[str] = []
    for entry in client.list_artifacts(run_id, folder):
        paths += _files(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return paths


RANKED = {
    "model": {"family": "mlp", "size": "debug"},
    "data": {"train": {"kind": "builtin", "name": "iris"}, "eval": {"kind": "split", "fraction": 0.3}},
    # so large steps that the loss rises: the first evaluation is the best
    "training": {
        "max_steps": 6,
        "global_batch_size": 16,
        "evaluate_every": 2,
        "optimizer": {"kind": "sgd", "learning_rate": 30.0},
        "clip_grad_norm": None,
    },
    "checkpoint": {
        "every_steps": 2,
        "asynchronous": False,
        "keep": {"last": 1, "best": 1},
    },
}


def test_mlflow_shows_the_best_model_and_what_checkpoints_there_are(logged, caplog):
    register = {"name": "flowers", "alias": "champion"}
    logged({**RANKED, "tracking": {"log_checkpoint": "best", "register": register}})
    model = logged.model
    assert (model.name, model.tags["step"], model.params["step"]) == ("mlp", "2", "2")
    assert model.tags["which"].startswith("step 2, the best by val/loss")
    of_evaluation = {metric.key: metric for metric in model.metrics if metric.key.startswith("val/")}
    assert of_evaluation.keys() >= {"val/loss", "val/accuracy"}
    assert {metric.step for metric in of_evaluation.values()} == {2}
    assert {metric.dataset_name for metric in model.metrics} == {"iris"}
    assert model.tags["mlflow.source.name"] == "mlp (trainwright job)"
    assert "training goes on" not in caplog.text, "MLflow took all at once"
    (record,) = (one for one in logged.every if one.tags["trainwright.model"] == "checkpoint")
    assert {(metric.step, metric.dataset_name) for metric in record.metrics} == {(6, "iris")}
    assert all(metric.dataset_digest for metric in record.metrics)
    kept = {saved.step for saved in checkpoint.committed(f"{logged.plan.storage}/checkpoints")}
    assert kept == {2, 6}
    assert {(int(one.tags["step"]), one.tags["trainwright.model"]) for one in logged.every} == {
        (2, "weights"),
        (6, "checkpoint"),
    }, "the record of step 4 went with its checkpoint"
    version = MlflowClient(mlflow.get_tracking_uri()).get_model_version_by_alias("flowers", "champion")
    assert model.model_id in version.source
    (listed,) = json.loads(model.tags["mlflow.modelVersions"])
    assert (listed["name"], int(listed["version"])) == ("flowers", int(version.version))
    history = MlflowClient(mlflow.get_tracking_uri()).get_metric_history(model.source_run_id, "val/loss")
    assert [point.step for point in history] == [2, 4, 6], "a model's metrics are the run's points, once"


PICTURES = {
    "model": {"family": "cnn", "size": "debug"},
    "objective": {"kind": "classification"},
    "data": {
        "train": {"kind": "images", "path": "pets"},
        "columns": {"image": "image", "label": "label"},
        "transforms": [{"kind": "resize", "tensor": "image", "height": 16, "width": 16}],
    },
}


def test_a_picture_is_given_by_path_as_bytes_or_in_base64(logged, tmp_path):
    for number, kind in enumerate(("cat", "dog") * 4):
        path = tmp_path / "pets" / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (30 * number, 100, 50)).save(path)
    model = logged(PICTURES)
    path = tmp_path / "pets" / "cat" / "0.png"
    content = path.read_bytes()
    in_text = base64.b64encode(content).decode()
    given = [str(path), content, in_text, f"data:image/png;base64,{in_text}"]
    answers = [model.predict([one]) for one in given]
    assert answers[0]["class"][0] in ("cat", "dog")
    assert all(answer.equals(answers[0]) for answer in answers)
    with pytest.raises(DataError, match=r"the file 'none\.png' can't be read"):
        model.predict(["none.png"])


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def served(folder, tmp_path):
    """``mlflow models serve`` of a model's folder, in a process that can import no trainwright but the model's own."""
    hidden = tmp_path / "hidden" / "orchestrator"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not the code that travels with the model')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = {
        name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "-p", str(port)]
    with (tmp_path / "served.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--env-manager", "local"],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            start_new_session=True,
            env={
                **os.environ,
                **nowhere,
                "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
                "PYTHONPATH": str(hidden.parent),
            },
        )
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), DIRECT.open(f"http://127.0.0.1:{port}/ping"):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_mlflow_serves_it_where_nothing_else_has_the_project(logged, tmp_path):
    model = logged(RANKED)
    folder = mlflow.artifacts.download_artifacts(
        f"models:/{logged.model.model_id}", dst_path=tmp_path / "model"
    )
    rows = [[[5.1, 3.5, 1.4, 0.2]], [[6.7, 3.0, 5.2, 2.3]]]
    columns = list(model.unwrap_python_model().inputs.columns)
    frame = {"dataframe_split": {"columns": columns, "data": rows}}
    with served(folder, tmp_path) as address:
        request = urllib.request.Request(
            address, json.dumps(frame).encode(), {"Content-Type": "application/json"}
        )
        with DIRECT.open(request) as answer:
            answered = json.load(answer)["predictions"]
    expected = model.predict(pd.DataFrame(rows, columns=columns))
    assert [row["class"] for row in answered] == list(expected["class"])
    np.testing.assert_allclose([row["probability"] for row in answered], expected["probability"])


def test_each_group_is_forecast_by_itself(logged, tmp_path):
    days = [f"{day:%Y-%m-%d}" for day in pd.date_range("2026-01-01", periods=40)]
    rows = [
        {"day": day, "shop": shop, "sold": level + 0.1 * number}
        for shop, level in (("north", 10.0), ("south", 500.0))
        for number, day in enumerate(days)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "shops.csv", index=False)
    model = logged(
        {
            "model": {"family": "lstm", "size": "debug"},
            "objective": {"kind": "forecasting"},
            "data": {
                "train": {"kind": "csv", "path": "shops.csv"},
                "prepare": {
                    "kind": "windows",
                    "past": 6,
                    "horizon": 2,
                    "group": "shop",
                    "time": "day",
                    "columns": ["sold"],
                },
            },
        }
    )
    forecast = model.predict(pd.DataFrame(rows))
    assert list(forecast.columns) == ["shop", "day", "sold"]
    assert list(forecast["shop"]) == ["north", "north", "south", "south"]
    alone = model.predict(pd.DataFrame(rows[40:]))
    np.testing.assert_allclose(forecast["sold"][2:], alone["sold"])


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
    cold = {model.predict(["the quick"], params={"temperature": 0.0, "seed": seed})[0] for seed in (1, 2)}
    assert len(cold) == 1
    with pytest.raises(DataError, match="not in the training text's vocabulary"):
        model.predict(["THE"])


OWN_OBJECTIVE = """
from torch import nn
from orchestrator.models.base import Sums, TensorSpec, weights_of
from orchestrator.models.objectives.common import OnePhase

class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, features):
        return self.layer(features)

class Squares(OnePhase):
    units_per_sample = 1

    def inputs(self):
        return {"features": TensorSpec((2,), "float"), "label": TensorSpec((), "float")}

    def units(self, phase, batch):
        return weights_of(batch, batch["label"]).sum()

    def loss(self, phase, modules, batch):
        weight = weights_of(batch, batch["label"])
        errors = modules["model"](batch["features"])[:, 0] - batch["label"]
        return Sums((errors**2 * weight).sum(), weight.sum(), {})
"""


def test_a_model_with_an_objective_of_ones_own_answers_rows(logged, tmp_path, caplog):
    (tmp_path / "own_squares.py").write_text(OWN_OBJECTIVE)
    rows = pd.DataFrame(
        {"width": [1.0, 2.0, 3.0, 4.0], "height": [0.0, 1.0, 0.0, 1.0], "area": [2.0, 3.0, 4.0, 5.0]}
    )
    rows.to_csv(tmp_path / "rows.csv", index=False)
    model = logged(
        {
            "model": {"family": "custom", "factory": "own_squares:Line"},
            "objective": {"kind": "custom", "factory": "own_squares:Squares"},
            "data": {
                "train": {"kind": "csv", "path": "rows.csv"},
                "columns": {"features": ["width", "height"], "label": "area"},
            },
        }
    )
    assert [column.name for column in model.metadata.signature.inputs] == ["width", "height"]
    answered = model.predict(rows[["width", "height"]])
    layer = model.unwrap_python_model().trained._module.layer
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    np.testing.assert_allclose(answered, rows[["width", "height"]].to_numpy() @ weight.T + bias, rtol=1e-6)
    assert "MLflow" not in caplog.text


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
    numbers = {"size": [1.0, 2.0, 3.0, 4.0] * 4, "age": [50.0, 10.0, 20.0, 90.0] * 4}
    table = pd.DataFrame({**numbers, "color": ["red", "blue"] * 8, "risk": [0, 1] * 8})
    table.to_csv(tmp_path / "table.csv", index=False)
    model = logged(
        {
            "model": {"family": "mlp", "size": "debug"},
            "objective": {"kind": "binary"},
            "data": {
                "train": {"kind": "csv", "path": "table.csv"},
                "columns": {"features": ["size", "age"], "categories": ["color"], "label": "risk"},
                "transforms": [
                    {"kind": "normalize", "tensor": "features"},
                    {"kind": "encode", "tensor": "categories"},
                ],
            },
        }
    )
    raw = model.predict(table.drop(columns="risk")[:2])
    given = table[["size", "age"]]
    features = ((given[:2] - given.mean()) / given.std(ddof=0)).to_numpy(np.float32)
    named = model.unwrap_python_model().outputs({"features": features, "categories": np.array([[1], [0]])})
    np.testing.assert_allclose(
        raw["probability"], np.maximum(sigmoid(named), sigmoid(-named))[:, 0], atol=1e-6
    )
    assert list(raw["class"]) == list((named[:, 0] > 0).astype(int))
    whole = table.drop(columns="risk")[:2].astype({"size": int})
    other_order = table[["color", "age", "size"]][:2].assign(further="x")
    assert model.predict(other_order).equals(raw), "columns are known by their names"
    assert model.predict(whole).equals(raw), "whole numbers where training had fractions"
    with pytest.raises(DataError, match="'categories' has 'green', which no training row has"):
        model.predict(pd.DataFrame({"size": [1.0], "age": [2.0], "color": ["green"]}))
    with pytest.raises(DataError, match="no column 'color'"):
        model.predict(pd.DataFrame({"size": [1.0], "age": [2.0]}))


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
