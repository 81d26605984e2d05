"""Looks at a Ray cluster from within: ``python -m orchestrator.clusters.doctor.probe --storage URI --mlflow URI``.

Runs on the head as a job of ``doctor``. Prints one marked line of JSON: each node with its resources, versions, clock
and what it says of the storage; what is free; MLflow from the head; and an all-reduce over one process a node (two
where there is one node), with GPUs and NCCL where every node has one to spare, else with gloo.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import sys
import time
from typing import Any

from orchestrator.clusters.doctor.checks import PACKAGES, check_mlflow, check_storage

MARK = "@probe "
"""What stands before the answer."""
_MEGABYTES = 32
_ROUNDS = 5
_SECONDS = 60


class NodeProbe:
    """What is asked of one node; becomes a Ray actor there."""

    def facts(self, storage: str) -> dict[str, Any]:
        """Name, clock, versions, and how the storage is from here."""
        from importlib.metadata import PackageNotFoundError, version

        versions = {"python": platform.python_version()}
        for name in PACKAGES:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = "missing"
        host = socket.gethostname()
        return {
            "host": host,
            "time": time.time(),
            "versions": versions,
            "storage": check_storage(storage, where=f"from {host}").model_dump(mode="json"),
        }

    def free_address(self) -> str:
        """An address of this node that the other nodes can connect to."""
        import ray

        host = ray.util.get_node_ip_address()
        with socket.socket() as listener:
            listener.bind(("", 0))
            return f"tcp://{host}:{listener.getsockname()[1]}"

    def all_reduce(self, address: str, rank: int, world_size: int, backend: str) -> float:
        """Seconds of one all-reduce, the best of a few; wrong sums raise."""
        from datetime import timedelta

        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        device = torch.device("cuda" if backend == "nccl" else "cpu")
        dist.init_process_group(
            backend,
            init_method=address,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=_SECONDS),
        )
        try:
            best = float("inf")
            for _ in range(_ROUNDS):
                data = torch.full((_MEGABYTES * 250_000,), float(rank + 1), device=device)
                dist.barrier()
                began = time.perf_counter()
                dist.all_reduce(data)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                best = min(best, time.perf_counter() - began)
                wanted = world_size * (world_size + 1) / 2
                if not bool((data == wanted).all()):
                    raise RuntimeError(f"the sum over {world_size} ranks is wrong")
            return best
        finally:
            dist.destroy_process_group()


def bus_gigabytes_per_second(seconds: float, world_size: int) -> float:
    """Bandwidth of each link in a ring that takes so long: ``2 (n - 1) / n`` of the data pass it."""
    return _MEGABYTES / 1000 * 2 * (world_size - 1) / world_size / seconds


def main(arguments: list[str] | None = None) -> None:
    """Look, and print."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.clusters.doctor.probe")
    parser.add_argument("--storage", required=True)
    parser.add_argument("--mlflow", default="")
    options = parser.parse_args(arguments)
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    free = ray.available_resources()
    gpus = all(node["Resources"].get("GPU", 0) >= 1 for node in nodes) and free.get("GPU", 0) >= len(nodes)
    # no CPU is asked for: a cluster that is busy with jobs can be looked at too
    remote = ray.remote(num_cpus=0, num_gpus=1 if gpus else 0)(NodeProbe)
    places = nodes if len(nodes) > 1 else nodes * (1 if gpus else 2)
    actors = [
        remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in places
    ]
    facts = ray.get([actor.facts.remote(options.storage) for actor in actors], timeout=_SECONDS)
    answer: dict[str, Any] = {
        "nodes": [
            {
                "cpus": node["Resources"].get("CPU", 0),
                "gpus": node["Resources"].get("GPU", 0),
                "memory": node["Resources"].get("memory", 0),
                "labels": node.get("Labels") or {},
                **found,
            }
            for node, found in zip(nodes, facts, strict=False)
        ],
        "free": {name: free.get(name, 0) for name in ("CPU", "GPU", "memory")},
        "mlflow": check_mlflow(options.mlflow, where="from the head").model_dump(mode="json")
        if options.mlflow
        else None,
    }
    if len(actors) > 1:
        backend = "nccl" if gpus else "gloo"
        address = ray.get(actors[0].free_address.remote())
        runs = [
            actor.all_reduce.remote(address, rank, len(actors), backend) for rank, actor in enumerate(actors)
        ]
        try:
            seconds = max(ray.get(runs, timeout=_SECONDS))
            bandwidth = bus_gigabytes_per_second(seconds, len(actors))
            answer["all_reduce"] = {
                "ranks": len(actors),
                "backend": backend,
                "gigabytes_per_second": bandwidth,
            }
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            answer["all_reduce"] = {"ranks": len(actors), "backend": backend, "error": reason[:300]}
    sys.stdout.write(MARK + json.dumps(answer) + "\n")
    sys.stdout.flush()
    ray.shutdown()


if __name__ == "__main__":
    main()
