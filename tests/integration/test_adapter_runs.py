"""A run that trains adapters, from its weights to what is done with it: killed, resumed, exported, asked."""

import json
import os
import signal

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator import sdk
from orchestrator.checkpoint import CheckpointReader, chosen
from orchestrator.data import Inputs
from orchestrator.data.sources.builtin import materialize
from orchestrator.models import adapters, build_modules
from orchestrator.models.initialize import load_weights
from orchestrator.telemetry.trained import Trained

peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore::UserWarning")]

STEPS, ROWS = 600, 40


@pytest.mark.slow
def test_adapters_from_their_weights_to_predictions(home, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(home.folder))
    sections = {
        "training": {"max_steps": STEPS, "evaluate_every": STEPS, "log_every": 20},
        "tracking": {"log_model": True},
        "scaling": {"workers": 1},
    }
    whole = sdk.make_plan(home.job(**sections)).job
    torch.manual_seed(0)
    base = home.folder / "base.safetensors"
    save_file(build_modules(whole.model, whole.objective)["model"].state_dict(), base)
    job = home.job(
        **sections,
        initialize={"weights": str(base), "lora": {"rank": 4, "alpha": 8, "targets": ["*linear", "head"]}},
    )

    home.call("submit", str(job), "--id", "adapters")
    home.wait_for("adapters", lambda event: event["event"] == "metrics" and event["step"] >= 140)
    process = json.loads((home.folder / "runs" / "adapters" / "launches" / "1" / "process.json").read_text())
    os.kill(process["pid"], signal.SIGKILL)
    run = sdk.attach("adapters")
    assert run.wait(60, check=False).reason == "driver_lost"
    resumed = home.call("resume", "adapters")
    assert resumed.returncode == 0, resumed.stderr
    ended = run.wait(300)
    assert (ended.state, ended.step, ended.launch) == ("succeeded", STEPS, 2)
    assert ended.metrics["val/accuracy"] > 0.85
    with CheckpointReader(chosen(f"{home.folder}/runs/adapters/checkpoints")) as reader:
        kept = {name for _, name in reader.tensors()}
    assert kept and all(adapters.is_adapter(name) for name in kept)

    for options in ([], ["--adapters"]):
        written = home.call("export", "adapters", "--output", f"out{len(options)}", *options)
        assert written.returncode == 0, written.stderr
    rows = pq.read_table(materialize("breast_cancer", str(home.folder / "cache"))).slice(0, ROWS)
    pq.write_table(rows, home.folder / "new.parquet")
    asked = home.call("predict", "adapters", "--data", "new.parquet", "--output", "answers")
    assert asked.returncode == 0, asked.stderr
    by_predict = np.array(pq.read_table(home.folder / "answers")["probability"])

    inputs = Inputs.model_validate_json(run.inputs())
    merged = build_modules(whole.model, whole.objective)
    load_weights(merged, str(home.folder / "out0"), config=whole.model)
    by_export = Trained(merged, whole.model, whole.objective, inputs).answers(rows)
    below = build_modules(whole.model, whole.objective)["model"]
    below.load_state_dict(load_file(base))
    by_peft = Trained(
        {"model": peft.PeftModel.from_pretrained(below, str(home.folder / "out1"))},
        whole.model,
        whole.objective,
        inputs,
    ).answers(rows)
    mlflow.set_tracking_uri(f"sqlite:///{home.folder / 'mlflow.db'}")
    weights = "tags.`trainwright.model` = 'weights'"
    (logged, *_) = mlflow.search_logged_models(["1"], output_format="list", filter_string=weights)
    by_mlflow = mlflow.pyfunc.load_model(logged.model_uri).predict(rows.to_pandas())
    untrained = Trained(
        {"model": build_modules(whole.model, whole.objective)["model"]}, whole.model, whole.objective, inputs
    )
    assert not np.allclose(untrained.answers(rows)["probability"], by_predict, atol=0.05)
    for answers in (by_export, by_peft, by_mlflow):
        np.testing.assert_allclose(answers["probability"], by_predict, atol=1e-6)
