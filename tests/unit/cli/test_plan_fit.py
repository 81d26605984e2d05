"""What plan says of the memory where it can't know it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app

JOB = """
name: flowers
model: {family: mlp}
data: {train: {kind: builtin, name: iris}}
training: {max_steps: 2, global_batch_size: 8}
scaling: {workers: 2, gpus_per_worker: 1}
"""
OWN_JOB = """
name: own
model: {family: custom, factory: "made:build", outputs: 3%s}
objective: {kind: classification}
data: {train: {kind: builtin, name: iris}}
training: {max_steps: 2, global_batch_size: 8}
scaling: {workers: 2, gpus_per_worker: 1}
"""
OWN_CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, features):
        return self.layer(features)

def build():
    return Net()
"""
PROFILE = """
name: unnamed
kind: ray
address: http://head:8265
storage: /shared
node_groups: [{name: gpus, cpus: 8, memory: 64GB, gpus: 8%s}]
"""


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    (tmp_path / "made.py").write_text(OWN_CODE)


def planned(folder: Path, job: str, profile: str, *options: str) -> tuple[int, str]:
    (folder / "job.yaml").write_text(job)
    (folder / "profile.yaml").write_text(profile)
    result = CliRunner().invoke(
        app, ["plan", str(folder / "job.yaml"), "--cluster", str(folder / "profile.yaml"), *options]
    )
    return result.exit_code, result.output + str(result.exception or "")


def test_auto_needs_a_device_whose_memory_is_known(tmp_path: Path) -> None:
    code, said = planned(tmp_path, JOB, PROFILE % "", "--set", "strategy=auto")
    assert code != 0
    assert "strategy: auto needs the memory of a device, which profile unnamed does not tell" in said


def test_a_fit_that_is_asked_for_needs_it_too(tmp_path: Path) -> None:
    code, said = planned(tmp_path, JOB, PROFILE % "", "--fit")
    assert code != 0
    assert "--fit: profile unnamed does not tell how much memory a device has" in said
    assert planned(tmp_path, JOB, PROFILE % "")[0] == 0


def test_an_own_model_is_judged_as_ours(tmp_path: Path) -> None:
    code, said = planned(tmp_path, OWN_JOB % "", PROFILE % ", accelerator_type: H100")
    assert code == 0, said
    assert "of 80GB (H100): fits" in said


def test_an_own_model_that_cannot_be_judged_is_planned(tmp_path: Path) -> None:
    job, profile = OWN_JOB % ", deferred: false", PROFILE % ", accelerator_type: H100"
    code, said = planned(tmp_path, job, profile)
    assert code == 0, said
    assert "fit        not known: model.deferred: false, and what a worker holds" in said
    code, said = planned(tmp_path, job, profile, "--fit")
    assert code != 0 and "model.deferred: false" in said
