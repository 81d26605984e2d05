"""Runs whose number of workers follows a real cluster of several nodes, every point held against a run of fixed size."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from orchestrator import events, sdk
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

MODEL = '''
import os
import time
from pathlib import Path

from torch import nn


class Classifier(nn.Module):
    """Takes its time in each forward until it may hurry."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, features):
        if self.training and not Path(os.environ["MAY_HURRY"]).exists():
            time.sleep(0.1)
        return self.head(features)
'''
STEPS, BATCH = 300, 24
STORE = {"object_store_memory": 80_000_000}


class Nodes:
    """A head without room for workers, and nodes for one each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        with socket.create_server(("127.0.0.1", 0)) as free:  # Ray's own choice may be another cluster's
            port = free.getsockname()[1]
        head = {"num_cpus": 0, "include_dashboard": False, "dashboard_port": port, **STORE}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)

    def add(self) -> Any:
        """Returns when workers can be put there."""
        node = self.cluster.add_node(num_cpus=1, **STORE)
        self.cluster.wait_for_nodes(timeout=120)
        return node

    def processes(self) -> list[psutil.Process]:
        """Of jobs, on all nodes: those that Ray calls by what they do, without its agents."""
        raylets = [each for node in self.cluster.list_all_nodes() for each in node.all_processes["raylet"]]
        started = [child for each in raylets for child in psutil.Process(each.process.pid).children()]
        return [
            child for child in started if " ".join(child.cmdline()[:1]).startswith(("ray::IDLE", "ray::Ray"))
        ]

    def drain(self, node: Any, seconds: float = 120) -> None:
        """What ``ray drain-node`` does."""
        client = GcsClient(address=self.cluster.gcs_address)
        reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        client.drain_node(node.node_id, reason, "spot", int((time.time() + seconds) * 1000))


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """What they start finds the model."""
    (tmp_path / "slow_classifier.py").write_text(MODEL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MAY_HURRY", str(tmp_path / "hurry"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    started = Nodes()
    try:
        yield started
    finally:
        started.cluster.shutdown()


def planned(folder: Path, workers: Any, **sections: Any) -> Plan:
    job = {
        "name": "elastic",
        "model": {"family": "custom", "factory": "slow_classifier:Classifier"},
        "objective": {"kind": "classification"},
        "data": {"train": {"kind": "builtin", "name": "iris"}, "reader": "worker"},
        "training": {"max_steps": STEPS, "global_batch_size": BATCH, "log_every": 1},
        "scaling": {"workers": workers},
        "recovery": {"max_failures": 0},
        "checkpoint": {"every_steps": STEPS},
        "tracking": {"kind": "none"},
        **sections,
    }
    folder.mkdir()
    (folder / "job.yaml").write_text(json.dumps(job))
    there = {"storage": str(folder / "run"), "cache": str(folder.parent / "cache")}
    made = sdk.make_plan(folder / "job.yaml").model_copy(update=there)
    (folder / "plan.json").write_text(made.model_dump_json())
    return made


def drive(
    nodes: Nodes, plan: Plan, heard: Callable[[Mapping[str, Any]], None]
) -> tuple[RunStatus, list[dict[str, Any]]]:
    """Run a plan to its end; returns its status and its events, each of which was heard as it came."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.driver", "--plan", str(Path(plan.storage).parent / "plan.json")],
        env={**os.environ, "RAY_ADDRESS": nodes.cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    assert driver.stdout is not None
    with driver:
        for line in driver.stdout:
            lines.append(line)
            if event := events.parse(line):
                heard(event)
    status = RunRecord(plan.storage).status(1)
    output = "".join(line for line in lines if '"metrics"' not in line)
    assert status is not None and (status.state, status.step) == (RunState.SUCCEEDED, STEPS), output
    return status, [event for line in lines if (event := events.parse(line))]


def waited_for(left: Callable[[], list[psutil.Process]], seconds: float = 30) -> list[psutil.Process]:
    """What is left after at most so long."""
    deadline = time.monotonic() + seconds
    while (there := left()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return there


def losses(told: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """The training loss of every step, each as often as it was logged."""
    points = [event for event in told if event["event"] == "metrics" and "train/loss" in event["values"]]
    return [(event["step"], event["values"]["train/loss"]) for event in points]


def samples(told: list[dict[str, Any]]) -> list[float]:
    return [event["values"]["train/epoch"] for event in told if event["event"] == "metrics"]


def test_a_run_grows_and_shrinks_with_its_cluster_and_loses_no_step(nodes: Nodes, tmp_path: Path) -> None:
    first = nodes.add()
    (tmp_path / "hurry").touch()
    _, fixed = drive(nodes, planned(tmp_path / "fixed", 1), lambda event: None)
    (tmp_path / "hurry").unlink()
    plan = planned(tmp_path / "elastic", {"min": 1, "max": 2, "stabilization_window": "2s"})
    sizes: list[int] = []
    begun_at: list[float] = []
    ages: list[float] = []
    begun_with: list[int] = []

    def heard(event: Mapping[str, Any]) -> None:
        match event:
            case {"event": "group", "workers": int(workers)}:
                sizes.append(workers)
                begun_at.append(event["time"])
            case {"event": "attempt", "start_step": int(step)}:
                begun_with.append(step)
            case {"event": "worker", "attempt": 2, "pid": int(pid)}:
                ages.append(begun_at[-1] - psutil.Process(pid).create_time())
            case {"event": "metrics", "step": 5}:
                nodes.add()
            # a step of the group of two: what that of one has told may come after the word that there are two
            case {"event": "metrics", "step": int(step)} if (
                len(begun_with) == 2 and step > begun_with[1] and not leaving
            ):
                leaving.append(first)
                nodes.drain(first)
            case {"event": "metrics"} if sizes == [1, 2, 1]:
                (tmp_path / "hurry").touch()

    leaving: list[Any] = []
    status, told = drive(nodes, plan, heard)
    assert sizes == [1, 2, 1]
    assert len(ages) == 2 and max(ages) > 0, "where the worker before was, a process waited"
    assert not waited_for(nodes.processes), "what waited for a restart ends with the run"
    [grown] = [event["message"] for event in told if event["event"] == "resize"]
    [shrunk] = [event for event in told if event["event"] == "incident"]
    starts = [event["start_step"] for event in told if event["event"] == "attempt"]
    assert grown == f"there is room for 2 workers in place of 1: step {starts[1]} is saved, no step is lost"
    assert (shrunk["is_counted"], shrunk["retry"]) == (False, True)
    assert f"step {starts[2]} is saved, no step is lost" in shrunk["message"]
    assert 5 <= starts[1] < starts[2] < STEPS and starts[0] == 0
    assert status.group is not None and (status.group.workers, status.group.most) == (1, 2)
    assert status.group.because == shrunk["message"]
    assert [step for step, _ in losses(told)] == list(range(1, STEPS + 1))
    # to 1e-5, and the six digits that are logged
    assert [loss for _, loss in losses(told)] == pytest.approx([loss for _, loss in losses(fixed)], abs=2e-5)
    assert samples(told) == samples(fixed)


@pytest.mark.slow
def test_a_node_that_is_gone_without_a_word_leaves_a_smaller_group_that_goes_on_from_the_last_checkpoint(
    nodes: Nodes, tmp_path: Path
) -> None:
    nodes.add()
    (tmp_path / "hurry").touch()
    _, fixed = drive(nodes, planned(tmp_path / "fixed", 1), lambda event: None)
    (tmp_path / "hurry").unlink()
    gone = nodes.add()
    sections = {"checkpoint": {"every_steps": 20}, "recovery": {"max_failures": 1}}
    plan = planned(tmp_path / "elastic", {"min": 1, "max": 2}, **sections)
    sizes: list[int] = []

    def heard(event: Mapping[str, Any]) -> None:
        match event:
            case {"event": "group", "workers": int(workers)}:
                sizes.append(workers)
            case {"event": "metrics", "step": 50} if sizes == [2]:
                nodes.cluster.remove_node(gone, allow_graceful=False)
            case {"event": "metrics"} if sizes == [2, 1]:
                (tmp_path / "hurry").touch()

    _, told = drive(nodes, plan, heard)
    assert sizes == [2, 1]
    [incident] = [event for event in told if event["event"] == "incident"]
    assert (incident["is_counted"], incident["failure"], incident["retry"]) == (True, 1, True)
    first, second = [event["start_step"] for event in told if event["event"] == "attempt"]
    assert first == 0 and 40 <= second <= 80 and second % 20 == 0
    again = dict(losses(told))
    assert list(again) == list(range(1, STEPS + 1))
    assert list(again.values()) == pytest.approx([loss for _, loss in losses(fixed)], abs=2e-5)


@pytest.mark.slow
def test_a_spare_worker_takes_the_place_of_one_that_is_lost_at_once(nodes: Nodes, tmp_path: Path) -> None:
    first = nodes.add()
    nodes.add()
    sections = {
        "checkpoint": {"every_steps": 20},
        "recovery": {"max_failures": 1, "spare_workers": 1},
        "scaling": {"workers": {"min": 1, "max": 2, "stabilization_window": "600s"}},
    }
    plan = planned(tmp_path / "spare", 2, **sections)
    begun_at: list[float] = []
    ages: list[float] = []
    held: list[tuple[int, int]] = []
    gone: list[Any] = []

    def heard(event: Mapping[str, Any]) -> None:
        match event:
            case {"event": "incident", "time": float(at)}:
                begun_at.append(at)
            case {"event": "worker", "attempt": 2, "pid": int(pid)}:
                ages.append(begun_at[-1] - psutil.Process(pid).create_time())
            case {"event": "spares", "held": int(now), "of": int(of)}:
                held.append((now, of))
            case {"event": "metrics", "step": 5}:
                nodes.add()
            # by then what waits on the spare's node has been started
            case {"event": "metrics", "step": int(step)} if step >= 60 and held[-1] == (1, 1) and not gone:
                gone.append(first)
                nodes.cluster.remove_node(first, allow_graceful=False)
                (tmp_path / "hurry").touch()

    status, told = drive(nodes, plan, heard)
    assert status.group is None or status.group.workers == 2
    assert [event["workers"] for event in told if event["event"] == "group"] == [2]
    assert held == [(0, 1), (1, 1), (0, 1), (0, 1)], "held, let go, and then there is no node for another"
    assert [age > 0 for age in ages] == [True, True]
    assert list(dict(losses(told))) == list(range(1, STEPS + 1))
    assert not waited_for(nodes.processes)
