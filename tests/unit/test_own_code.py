"""A person's own code stays with the run: what is exported and logged is built from it, and a change of it is told."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from orchestrator import checkpoint, data, sdk, worker
from orchestrator.checkpoint.export import load_modules
from orchestrator.errors import SpecError
from orchestrator.records import RunRecord
from orchestrator.storage import store_at
from orchestrator.telemetry.model_folder import write_model_folder

MODEL = """
from torch import nn
from layers import head

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = head()

    def forward(self, features):
        return self.head(features)
"""
LAYERS = "from torch import nn\n\n\ndef head():\n    return nn.Linear(2, 1)\n"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "layers.py").write_text(LAYERS)
    (tmp_path / "rows.csv").write_text("a,b,label\n" + "".join(f"{i},{i % 3},{i % 2}\n" for i in range(16)))
    job = {
        "name": "own",
        "model": {"family": "custom", "factory": "net:Net"},
        "objective": {"kind": "binary"},
        "data": {
            "train": {"kind": "csv", "path": "rows.csv"},
            "columns": {"features": ["a", "b"]},
            "reader": "worker",
        },
        "training": {"max_steps": 2, "global_batch_size": 4},
        "checkpoint": {"asynchronous": False},
        "tracking": {"kind": "none"},
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    return sdk.make_plan(tmp_path / "job.json")


def train(plan, launch=1):
    """Train in this process, as a worker does."""
    prepared = data.prepare(plan)
    worker.run(
        {
            "plan": plan.model_dump_json(),
            "prepared": prepared.model_dump_json(),
            "launch": launch,
            "started_at": time.time(),
        }
    )
    return prepared, checkpoint.chosen(f"{plan.storage}/checkpoints")


def revised(tmp_path, plan, **more):
    """The plan of the same run, from the folder as it now is."""
    again = sdk.make_plan(
        tmp_path / "job.json", overrides=[f"{name}={value}" for name, value in more.items()]
    )
    return again.model_copy(update={"storage": plan.storage, "run_id": plan.run_id})


def test_a_change_of_the_code_is_refused_by_name_until_it_is_accepted(tmp_path, plan):
    train(plan)
    (tmp_path / "layers.py").write_text(LAYERS.replace("return", "'''Changed.'''\n    return"))
    for name in ("net", "layers"):
        sys.modules.pop(name)
    said = r"of step 2 was trained with: layers\.py changed; put it back, or go on with --set recovery\.accept_changed_code"
    with pytest.raises(SpecError, match=said):
        train(revised(tmp_path, plan), launch=2)
    train(revised(tmp_path, plan, **{"recovery.accept_changed_code": "true"}), launch=2)
    log = store_at(plan.storage).read("logs/attempt-3/rank-0.log").decode()
    assert "layers.py changed; going on, as recovery.accept_changed_code says" in log


def test_what_is_kept_builds_the_model_wherever_it_is(tmp_path, plan):
    prepared, saved = train(plan)
    code = RunRecord(plan.storage).code(saved.meta["code"])
    assert code.files == {"net.py": MODEL, "layers.py": LAYERS}
    (tmp_path / "net.py").write_text("raise RuntimeError('not this one')")
    with code.importable():
        modules = load_modules(saved, plan.job.model, plan.job.objective)
    assert torch.isfinite(modules["model"](torch.ones(3, 2))).all()
    folder = tmp_path / "logged"
    folder.mkdir()
    write_model_folder(folder, plan, prepared, saved, "newest")
    assert (folder / "code" / "layers.py").read_text() == LAYERS
    program = (
        "from types import SimpleNamespace as N\n"
        "import numpy as np\n"
        "from orchestrator.telemetry.logged_model import TrainedModel\n"
        "model = TrainedModel()\n"
        f"model.load_context(N(artifacts={{'model': {str(folder)!r}}}))\n"
        "print(model.outputs({'features': np.ones((3, 2), 'float32')}).shape)\n"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        check=False,
    )
    assert elsewhere.stdout.split("\n")[-2] == "(3, 1)", elsewhere.stderr


TRAINING = """
import math
import torch

def momentum(groups, factor):
    return torch.optim.SGD(groups, momentum=factor, nesterov=True)

def falling(step, total_steps):
    return math.cos(step / total_steps)
"""


def test_an_optimizer_and_a_schedule_of_ones_own_go_with_a_family_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    (tmp_path / "own_training.py").write_text(TRAINING)
    job = {
        "name": "own",
        "model": {"family": "mlp", "size": "debug"},
        "objective": {"kind": "classification"},
        "data": {"train": {"kind": "builtin", "name": "iris"}, "reader": "worker"},
        "training": {
            "max_steps": 2,
            "global_batch_size": 4,
            "optimizer": {"kind": "factory", "factory": "own_training:momentum", "config": {"factor": 0.5}},
            "schedule": {"kind": "factory", "factory": "own_training:falling"},
        },
        "checkpoint": {"asynchronous": False},
        "tracking": {"kind": "none"},
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    made = sdk.make_plan(tmp_path / "job.json")
    assert made.job.environment.working_dir == "."
    assert made.job.training.optimizer.tried.moments == ("momentum_buffer",)
    assert made.memory.optimizer == 4 * made.parameters
    _, saved = train(made)
    assert RunRecord(made.storage).code(saved.meta["code"]).files == {"own_training.py": TRAINING}
    (tmp_path / "own_training.py").write_text(TRAINING.replace("cos", "sin"))
    sys.modules.pop("own_training")
    with pytest.raises(SpecError, match=r"own_training\.py changed"):
        train(revised(tmp_path, made), launch=2)
    with pytest.raises(SpecError, match=r"own_training:momentum failed: TypeError: .*factor"):
        sdk.make_plan(tmp_path / "job.json", overrides=["training.optimizer.config={}"])
    with pytest.raises(SpecError, match=r"own_training:absent can't|'absent' is not there in"):
        sdk.make_plan(tmp_path / "job.json", overrides=["training.schedule.factory=own_training:absent"])
