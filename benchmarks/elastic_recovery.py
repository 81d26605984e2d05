"""How long a group of changing size takes from the loss of a node to the next new step, beside its cold start and beside stock Ray
Train's elastic policy on the same nodes: ``python benchmarks/elastic_recovery.py [--rounds 3]``.

Real Ray nodes on this machine, one worker each. A node's processes are killed without a word while two workers train the same small
network with the same checkpoints; the other worker goes on alone. Ours and theirs take turns, so that whatever else the machine does
meets both; what counts are the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import events, sdk

BATCH, WIDTH, CHECKPOINT_EVERY, LOG_EVERY = 24, 64, 500, 10
STORE = {"object_store_memory": 80_000_000}
MARK, BEGUN = "@stock ", "@stock begins"


@dataclass(frozen=True)
class Times:
    """Seconds of one run."""

    start: float
    """From the driver's process to the first logged step."""
    recovery: float
    """From the loss of a node to the first step beyond those before it."""


def head() -> dict[str, Any]:
    """A node without room for workers, whose dashboard's port nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return {"num_cpus": 0, "include_dashboard": False, "dashboard_port": free.getsockname()[1], **STORE}


def ours(folder: Path) -> list[str]:
    """A driver's command."""
    job = {
        "name": "elastic",
        "model": {"family": "mlp", "width": WIDTH, "depth": 1},
        "data": {"train": {"kind": "builtin", "name": "iris"}, "reader": "worker"},
        "training": {"max_steps": 10**7, "global_batch_size": BATCH, "log_every": LOG_EVERY},
        "scaling": {"workers": {"min": 1, "max": 2}},
        "checkpoint": {"every_steps": CHECKPOINT_EVERY},
        "tracking": {"kind": "none"},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    there = {"storage": str(folder / "run"), "cache": str(folder.parent / "cache")}
    plan = sdk.make_plan(folder / "job.yaml").model_copy(update=there)
    (folder / "plan.json").write_text(plan.model_dump_json())
    return [sys.executable, "-m", "orchestrator.driver", "--plan", str(folder / "plan.json")]


def stock(folder: Path) -> list[str]:
    """This file, as the driver of Ray Train."""
    return [sys.executable, __file__, "--stock", str(folder)]


def step_of(line: str) -> int | None:
    """The step that a line of either driver's output logs."""
    if found := re.search(re.escape(MARK) + r"(\d+)", line):  # Ray may write on in the same line
        return int(found[1])
    event = events.parse(line) or {}
    return int(event["step"]) if event.get("event") == "metrics" else None


def begins(line: str) -> bool:
    """Whether it says that a group goes on from a checkpoint, or from the start."""
    return BEGUN in line or (events.parse(line) or {}).get("event") == "attempt"


def measured(cluster: Any, command: list[str], train_seconds: float) -> Times:
    """Start a driver, take a node away once it has trained for so long, and wait for new steps."""
    node = cluster.add_node(num_cpus=1, **STORE)
    cluster.wait_for_nodes(timeout=120)
    began, first, lost, reached, is_back = time.monotonic(), 0.0, 0.0, 0, False
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "RAY_TRAIN_V2_ENABLED": "1"}
    with ended_at_last(command, environment) as lines:
        for line in lines:
            is_back = is_back or (lost > 0 and begins(line))  # until then steps of the group before are told
            step = step_of(line)
            if step is None:
                continue
            first = first or time.monotonic()
            if not lost and step > CHECKPOINT_EVERY and time.monotonic() - first > train_seconds:
                cluster.remove_node(node, allow_graceful=False)
                lost = time.monotonic()
            elif is_back and step > reached:
                return Times(first - began, time.monotonic() - lost)
            reached = max(reached, step)
    raise SystemExit("the run ended before it could be measured")


@contextlib.contextmanager
def ended_at_last(command: list[str], environment: dict[str, str]) -> Iterator[Iterator[str]]:
    """The lines of a process's output; it is ended with all that it started."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield iter(process.stdout)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--train-seconds", type=float, default=30.0, help="from the first step to the loss of the node"
    )
    parser.add_argument("--stock", metavar="FOLDER", help="be the driver of stock Ray Train")
    options = parser.parse_args()
    if options.stock:
        train_by_ray(Path(options.stock))
        return
    from ray.cluster_utils import Cluster

    os.environ.update(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0", RAY_raylet_start_wait_time_s="200")
    found: dict[str, list[Times]] = {"trainwright": [], "Ray Train": []}
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.rounds):
            for name, prepare in (("trainwright", ours), ("Ray Train", stock)):
                folder = Path(place, f"{prepare.__name__}-{number}")
                folder.mkdir()
                cluster = Cluster(initialize_head=True, head_node_args=head())
                cluster.add_node(num_cpus=1, **STORE)
                try:
                    times = measured(cluster, prepare(folder), options.train_seconds)
                finally:
                    cluster.shutdown()
                found[name].append(times)
                print(
                    f"{name:<12} cold start {times.start:6.1f} s, loss to next new step {times.recovery:6.1f} s",
                    flush=True,
                )
    for name, several in found.items():
        start, recovery = (
            statistics.median(getattr(one, part) for one in several) for part in ("start", "recovery")
        )
        print(f"| {name} | {start:.1f} | {recovery:.1f} | {recovery / start:.2f} |")


# -- stock Ray Train -----------------------------------------------------------------------------------------


def train_by_ray(folder: Path) -> None:
    """The same network on the same data, as Ray's documentation shows it."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address="auto", logging_level="WARNING")
    TorchTrainer(
        steps_of_a_worker,
        scaling_config=ScalingConfig(num_workers=(1, 2)),
        run_config=RunConfig(
            name="stock",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()


def steps_of_a_worker() -> None:
    """On each of Ray Train's workers."""
    import torch
    from ray import train
    from ray.train import Checkpoint
    from ray.train.torch import prepare_model
    from sklearn.datasets import load_iris
    from torch import nn
    from torch.nn import functional as F

    features, labels = (torch.as_tensor(one) for one in load_iris(return_X_y=True))
    bare = nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))
    model = prepare_model(bare)
    optimizer = torch.optim.AdamW(model.parameters())
    context, step = train.get_context(), 0
    if context.get_world_rank() == 0:
        print(BEGUN, flush=True)
    if (saved := train.get_checkpoint()) is not None:
        with saved.as_directory() as place:
            state = torch.load(Path(place, "state.pt"), weights_only=True)
        bare.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    share = BATCH // context.get_world_size()
    while True:
        rows = torch.randint(len(labels), (share,))
        loss = F.cross_entropy(model(features[rows].float()), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if context.get_world_rank() == 0 and step % LOG_EVERY == 0:
            print(f"{MARK}{step}", flush=True)
        if step % CHECKPOINT_EVERY == 0:
            with tempfile.TemporaryDirectory() as place:
                kept = None
                if context.get_world_rank() == 0:
                    state = {"model": bare.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                    torch.save(state, Path(place, "state.pt"))
                    kept = Checkpoint.from_directory(place)
                train.report({"loss": float(loss.detach())}, checkpoint=kept)


if __name__ == "__main__":
    main()
