"""What benchmarks of recovery share: real Ray nodes on this machine, a driver on them, ours or stock Ray Train's, what it says, and jobs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stock_ray_train import BEGUN, MARK

from orchestrator import events, sdk

STORE = {"object_store_memory": 80_000_000}


class Nodes:
    """A head without room for workers, and nodes for one each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(
            OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0", RAY_raylet_start_wait_time_s="200"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:  # Ray's own choice may be another cluster's
            port = free.getsockname()[1]
        head = {"num_cpus": 0, "include_dashboard": False, "dashboard_port": port, **STORE}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.shutdown()

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver on them; each line that workers print is passed on once."""
        settings = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
        return {**os.environ, "RAY_ADDRESS": self._cluster.address, **settings}

    def add(self) -> Any:
        """Returns when a worker can be put there."""
        node = self._cluster.add_node(num_cpus=1, **STORE)
        self._cluster.wait_for_nodes(timeout=120)
        return node

    def drain(self, node: Any, seconds: float) -> None:
        """What ``ray drain-node`` does: the node will be taken away after so long."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        reason, until = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, int((time.time() + seconds) * 1000)
        is_accepted, why = GcsClient(address=self._cluster.gcs_address).drain_node(
            node.node_id, reason, "spot", until
        )
        if not is_accepted:
            raise SystemExit(f"Ray does not drain the node: {why}")

    def take_away(self, node: Any) -> None:
        """All its processes are killed."""
        self._cluster.remove_node(node, allow_graceful=False)


@contextlib.contextmanager
def output_of(command: list[str], environment: Mapping[str, str]) -> Iterator[Iterator[str]]:
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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def step_of(line: str) -> int | None:
    """The step that a line of either driver's output logs."""
    if found := re.search(re.escape(MARK) + r"(\d+)", line):  # Ray may write on in the same line
        return int(found[1])
    event = events.parse(line) or {}
    return int(event["step"]) if event.get("event") == "metrics" else None


def begun_at(line: str) -> int | None:
    """The step from which a group goes on, where a line says that one begins."""
    if found := re.search(re.escape(BEGUN) + r"(\d+)", line):
        return int(found[1])
    event = events.parse(line) or {}
    return int(event["start_step"]) if event.get("event") == "attempt" else None


def endless(name: str, batch: int, width: int, **sections: Any) -> dict[str, Any]:
    """A job that does not end by itself, of steps that take next to no time."""
    return {
        "name": name,
        "model": {"family": "mlp", "width": width, "depth": 1},
        "data": {"train": {"kind": "builtin", "name": "iris"}, "reader": "worker"},
        "training": {"max_steps": 10**7, "global_batch_size": batch, "log_every": 10},
        "tracking": {"kind": "none"},
        **sections,
    }


def plan_of(folder: Path, job: Mapping[str, Any]) -> Path:
    """A file with a job's plan, whose run lies in the folder."""
    (folder / "job.yaml").write_text(json.dumps(job))
    there = {"storage": str(folder / "run"), "cache": str(folder.parent / "cache")}
    plan = sdk.make_plan(folder / "job.yaml").model_copy(update=there)
    (folder / "plan.json").write_text(plan.model_dump_json())
    return folder / "plan.json"


def driver_of(plan: Path) -> list[str]:
    """Its driver's command."""
    return [sys.executable, "-m", "orchestrator.driver", "--plan", str(plan)]
