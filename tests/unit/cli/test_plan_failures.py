"""What plan says of failures, and what it asks for where it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import SpecError

JOB = """
name: flowers
model: {family: mlp}
data: {train: {kind: builtin, name: iris}}
training: {max_steps: 2000, global_batch_size: 8}
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    (tmp_path / "job.yaml").write_text(JOB)

    def call(*options: str) -> str:
        job = str(Path(tmp_path, "job.yaml"))
        return CliRunner().invoke(app, ["plan", job, *options], catch_exceptions=False).stdout

    return call


def test_it_says_what_failures_will_cost(plan):
    forecast = json.loads(plan("--failures", "mtbf=6h,step=0.5s,repair=1m", "--json"))["failures"]
    assert forecast["failures"]["mtbf"] == 21600 and forecast["costs"]["step"] == 0.5
    assert 0 < forecast["planned"]["effective"] <= forecast["best"]["effective"] < 1
    shown = plan("--failures", "mtbf=6h,step=0.5s")
    assert "failures   one every 6h" in shown and "\nbest       checkpoint.every_steps: " in shown
    assert "\nnotice     " in shown and "\nspares     " not in shown, "nothing is waited for"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--failures", "mtbf=6h"), "how long a step takes is not known"),
        (("--failures", "never"), "'never' is none of mtbf"),
        (("--like", "some-run"), "--like goes with --failures"),
    ],
)
def test_what_it_does_not_know_is_one_sentence(plan, options, said):
    with pytest.raises(SpecError, match=said):
        plan(*options)
