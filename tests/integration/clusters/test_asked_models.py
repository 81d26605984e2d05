"""A model that was trained on real Ray nodes, asked there: predictions and metrics, with kills on the way."""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray_nodes import RayNodes, alive, end_node, wait

from orchestrator import ask, events, sdk
from orchestrator.clusters.ray.api import RayClient
from orchestrator.data.sources.builtin import materialize
from orchestrator.runs import RunState
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = 400
JOB = {
    "name": "patients",
    "model": {"family": "mlp", "size": "debug"},
    "data": {
        "train": {"kind": "builtin", "name": "breast_cancer"},
        "eval": {"kind": "split", "fraction": 0.2},
        "transforms": [{"kind": "normalize", "tensor": "features", "per": "element"}],
    },
    "training": {"max_steps": 40, "global_batch_size": 32, "evaluate_every": 40, "log_every": 20},
    "scaling": {"workers": 2, "placement": "spread"},
    "tracking": {"kind": "none"},
}


@pytest.fixture(scope="module")
def nodes():
    started = RayNodes()
    try:
        started.start_head("--num-cpus=2")
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def second(nodes):
    return nodes.start_node("second", "--num-cpus=2")


@pytest.fixture(scope="module")
def profile(nodes, second):
    made = ClusterProfile.model_validate(nodes.profile(3))
    wait(lambda: len(alive(RayClient(made))) == 2, "two nodes", 120)
    return made


@pytest.fixture(scope="module")
def run(profile):
    trained = sdk.submit(JobSpec.model_validate(JOB), profile)
    assert trained.wait(400, check=False).state is RunState.SUCCEEDED, "\n".join(trained.logs())
    return trained


@pytest.fixture(scope="module")
def patients(nodes, profile):
    """Rows of the table with their numbers, a file that many workers share."""
    known = pq.read_table(materialize("breast_cancer", str(Path(profile.storage) / "cache"))).slice(0, ROWS)
    path = nodes.folder / "patients.parquet"
    pq.write_table(known.append_column("row", pa.array(range(ROWS))), path, row_group_size=2)
    return path


def test_metrics_are_those_that_training_logged(run, profile):
    asked = ask.evaluate(run, cluster=profile)
    ended = asked.wait(300)
    logged = {
        name.removeprefix("val/"): value
        for name, value in run.status().metrics.items()
        if name.startswith("val/")
    }
    assert ask.answer_of(asked).metrics == pytest.approx(logged, rel=1e-6)
    assert ended.metrics["evaluate/eval/loss"] == ask.answer_of(asked).metrics["loss"]


def test_each_row_is_answered_once_whatever_dies(run, profile, patients, nodes, second):
    """A worker is killed, then a whole node, then the driver's job is ended; the next launch keeps what is there."""
    asked = ask.predict(run, patients, cluster=profile, keep=["row"])
    output = Path(profile.storage) / "runs" / asked.id / "predictions"
    wait(lambda: list(output.glob("part-*")), "the first part", 240)
    os.kill(next(iter(_pool(profile, asked.id))), signal.SIGKILL)
    end_node(second)
    nodes.start_node("spare", "--num-cpus=2")
    seen = len(list(output.glob("part-*")))
    wait(lambda: len(list(output.glob("part-*"))) > min(seen + 5, ROWS // 2 - 1), "more parts", 240)
    asked.stop(now=True)
    wait(lambda: asked.status().state.is_final, "the end", 120)
    kept = len(list(output.glob("part-*")))
    asked.resume()
    asked.wait(300)
    found = ask.answer_of(asked)
    assert (found.parts, found.parts_kept) == (ROWS // 2, kept)
    answers = pq.read_table(output)
    assert answers["row"].to_pylist() == list(range(ROWS))
    right = [
        one == label for one, label in zip(answers["class"], pq.read_table(patients)["label"], strict=True)
    ]
    assert sum(right) / ROWS > 0.8


def test_a_question_that_can_t_be_answered_ends_as_a_run_does(run, profile, nodes):
    asked = ask.predict(run, str(nodes.folder / "none.parquet"), cluster=profile)
    ended = asked.wait(300, check=False)
    assert ended.state is RunState.FAILED
    assert ended.reason.exit_code == 3 and "none.parquet" in ended.message
    told = [event for line in asked.cluster.logs(asked.id) if (event := events.parse(line))]
    assert told[-1]["event"] == "end"


def _pool(profile, run_id):
    """Processes of a launch's model workers."""
    client = RayClient(profile)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = client.info(run_id)["job_id"]
        found = client._json("GET", "/api/v0/actors?limit=1000&detail=true")["data"]["result"]["result"]
        pids = [
            one["pid"]
            for one in found
            if one["job_id"] == job and one["state"] == "ALIVE" and "MapWorker" in one["class_name"]
        ]
        if pids:
            return pids
        time.sleep(0.2)
    raise AssertionError("no worker of the pool lives")
