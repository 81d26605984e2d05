"""A real cluster of several nodes, one of which has broken hardware: the run ends on the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import events, sdk
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.runs import RunState

pytestmark = pytest.mark.ray

MODEL = '''
import os
from pathlib import Path

import ray
from torch import nn


class Classifier(nn.Module):
    """Fails as torch does on a GPU with a broken memory, on one node of the cluster."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, features):
        broken = Path(os.environ["BROKEN_NODE"])
        if broken.exists() and ray.is_initialized():
            if ray.get_runtime_context().get_node_id() == broken.read_text():
                raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        return self.head(features)
'''
STEPS, MOST = 12, 2
STORE = {"object_store_memory": 80_000_000}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room for workers and two nodes for one each; what they start finds the model and the broken node's id."""
    from ray.cluster_utils import Cluster

    (tmp_path / "own_classifier.py").write_text(MODEL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("BROKEN_NODE", str(tmp_path / "broken"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **STORE})
    try:
        for _ in range(2):
            started.add_node(num_cpus=1, **STORE)
        started.wait_for_nodes(timeout=120)
        yield started
    finally:
        started.shutdown()


def planned(folder: Path) -> Plan:
    job = {
        "name": "faulty",
        "model": {"family": "custom", "factory": "own_classifier:Classifier"},
        "objective": {"kind": "classification"},
        "data": {"train": {"kind": "builtin", "name": "iris"}, "reader": "worker"},
        "training": {"max_steps": STEPS, "global_batch_size": 10, "log_every": 1},
        "scaling": {"workers": 2},
        "recovery": {"exclude_nodes_after": MOST, "max_failures": MOST},
        "tracking": {"kind": "none"},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    there = {"storage": str(folder / "run"), "cache": str(folder / "cache")}
    return sdk.make_plan(folder / "job.yaml").model_copy(update=there)


@pytest.mark.slow
def test_a_node_whose_hardware_fails_twice_gets_no_worker_any_more(cluster: Any, tmp_path: Path) -> None:
    """Two attempts fail on it. The third waits for another node, though the broken one has room, and goes on there."""
    plan = planned(tmp_path)
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    broken, *_ = (node.node_id for node in cluster.worker_nodes)
    (tmp_path / "broken").write_text(broken)
    driver = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.driver", "--plan", str(tmp_path / "plan.json")],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines, waited = [], []
    assert driver.stdout is not None
    with driver:
        for line in driver.stdout:
            lines.append(line)
            event = events.parse(line) or {"event": ""}
            if event["event"] == "waiting":
                waited.append(event["message"])
                cluster.add_node(num_cpus=1, **STORE)
    output = "".join(lines)
    told = [event for line in lines if (event := events.parse(line))]
    faults = [event for event in told if event["event"] == "node_fault"]
    status = RunRecord(plan.storage).status(1)
    assert status is not None and (status.state, status.step) == (RunState.SUCCEEDED, STEPS), output
    assert [(event["faults"], event["is_left_out"]) for event in faults] == [(1, False), (2, True)], output
    name = faults[0]["node"]
    assert f"Ray node {broken}" in name
    assert status.nodes_left_out == (name,)
    [message] = waited
    assert message.endswith(
        f"room for 1: 2 nodes with 1 CPUs and 0 GPUs in all; left out, since their hardware failed: {name}"
    )
    assert [event["event"] for event in told].count("attempt") == 3
