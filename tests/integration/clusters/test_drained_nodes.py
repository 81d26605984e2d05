"""Nodes that Ray drains while a run is on them: real nodes, Ray's own call, and every point held against a run left alone."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ray_nodes import RayNodes, alive, wait

from orchestrator import events
from orchestrator.clusters.ray.api import RayClient
from orchestrator.records import RunRecord
from orchestrator.spec.load import load_profile

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 300


@pytest.fixture(scope="module")
def nodes():
    started = RayNodes()
    if started.network is None:
        started.close()
        pytest.skip("needs network namespaces: root, ip, nsenter and unshare")
    try:
        started.start_head("--num-cpus=1")
        for name in ("b", "c"):
            started.start_node(name, "--num-cpus=2")
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def file(nodes):
    path = nodes.folder / "pool.yaml"
    path.write_text(yaml.safe_dump(nodes.profile(3)))
    client = RayClient(load_profile(str(path)))
    wait(lambda: len(alive(client)) == 3, "three nodes", 180)
    return path


DRAINS = """
import sys
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
client = GcsClient(address=sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    node, deadline = line.split()
    reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    print(client.drain_node(node, reason, "spot", int(deadline)), flush=True)
"""
"""What ``ray drain-node`` does, by a process that is ready for it: the command itself takes seconds to begin."""


@pytest.fixture(scope="module")
def drain(nodes, file):
    """Drains the node of that host name, which is taken away after so many seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRAINS, f"{nodes.head}:{nodes.gcs_port}"],
        env=nodes.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def drain(name, seconds):
        process.stdin.write(f"{ids(nodes, file)[name]} {int((time.time() + seconds) * 1000)}\n")
        process.stdin.flush()
        assert "True" in process.stdout.readline()

    assert process.stdout.readline() == "ready\n"
    yield drain
    process.stdin.close()
    process.wait(20)


def ids(nodes, file):
    """Ray's ids of the nodes by their host names."""
    lines = [line.split() for line in (nodes.folder / "hosts").read_text().splitlines()]
    names = {address: name for address, name, *_ in lines}
    return {names[node["node_ip"]]: node["node_id"] for node in alive(RayClient(load_profile(str(file))))}


def losses(told):
    points = [event for event in told if event["event"] == "metrics" and "train/loss" in event["values"]]
    return [(event["step"], event["values"]["train/loss"]) for event in points]


def train(home, file, run, at_step_50=None, every_steps=STEPS):
    """A run of two workers, each of a node's size; returns its status and its events."""
    job = home.job(
        model={"family": "cnn", "size": "debug"},
        data={"train": {"kind": "builtin", "name": "digits"}, "eval": {"kind": "split", "fraction": 0.1}},
        training={"max_steps": STEPS, "global_batch_size": 480, "log_every": 1, "evaluate_every": STEPS},
        scaling={"workers": 2, "cpus_per_worker": 2},
        checkpoint={"every_steps": every_steps},
        recovery={"max_failures": 0, "worker_start_timeout": "200s"},
        tracking={"kind": "none"},
    )
    profile = load_profile(str(file))
    answer = home.call("submit", str(job), "--cluster", str(file), "--id", run)
    assert answer.returncode == 0, answer.stderr
    if at_step_50:
        record = RunRecord(f"{profile.storage}/runs/{run}")
        wait(lambda: record.reached() >= 50, "step 50", 300)
        at_step_50()
    followed = home.call("logs", run, "--follow")
    assert followed.returncode == 0, followed.stderr
    told = json.loads(home.call("logs", run, "--json").stdout)
    status = home.status(run)
    assert (status["state"], status["step"]) == ("succeeded", STEPS), told[-20:]
    return status, told


@pytest.fixture(scope="module")
def left_alone(home, file):
    return losses(train(home, file, "alone-abcdefgh")[1])


def host_of(file, run, rank):
    """From the rank's own log, which is in the storage."""
    folder = Path(load_profile(str(file)).storage) / "runs" / run
    told = [
        events.parse(line) for line in (folder / f"logs/attempt-1/rank-{rank}.log").read_text().splitlines()
    ]
    return next(event["host"] for event in told if event and event["event"] == "worker")


def test_a_drained_node_loses_no_step_and_another_takes_its_place(home, file, nodes, drain, left_alone):
    run = "drained-abcdefgh"
    nodes.start_node("d", "--num-cpus=2")
    wait(lambda: "d" in ids(nodes, file), "another node", 120)
    status, told = train(home, file, run, lambda: drain(host_of(file, run, 1), 120))
    [incident] = [event for event in told if event["event"] == "incident"]
    second = [event["start_step"] for event in told if event["event"] == "attempt"][1]
    assert incident["message"].startswith("worker 1 will be taken away (its node is drained, until ")
    assert incident["message"].endswith(f"): step {second} is saved, no step is lost")
    assert (incident["failure"], incident["is_counted"]) == (0, False)
    assert second >= 50 and status["attempt"] == 2
    assert losses(told) == left_alone
