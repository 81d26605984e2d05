"""For how many of a plan's workers nodes of some resources have room, and what they lack where that is too little."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.planning.plan import Plan

_NODE_ANSWER_SECONDS = 2.0


def shortage(nodes: Sequence[Mapping[str, float]], plan: Plan) -> str:
    """One sentence on what nodes of these resources lack for the plan's fewest workers; empty where they have room."""
    scaling = plan.job.scaling
    room = sum(workers_that_fit(node, plan) for node in nodes)
    if room >= plan.least_workers:
        return ""
    cpus = sum(node.get("CPU", 0) for node in nodes)
    gpus = sum(node.get("GPU", 0) for node in nodes)
    return (
        f"{plan.least_workers} workers of {scaling.cpus_per_worker:g} CPUs and {scaling.gpus_per_worker} GPUs are asked"
        f" for, but the cluster has room for {room}: {len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs in all"
    )


def workers_beside_readers(nodes: Sequence[Mapping[str, float]], plan: Plan, *, is_first: bool) -> int:
    """For how many of the plan's workers nodes with so much that is free have room.

    Args:
        nodes: what is free on each.
        plan: of the run.
        is_first: no task reads for the run yet, so room is left for one: without it all would wait for data.

    """
    data, scaling = plan.job.data, plan.job.scaling
    fit = [workers_that_fit(node, plan) for node in nodes]
    if not (is_first and data.reader == "ray"):
        return sum(fit)
    left = [
        node.get("CPU", 0) - workers * scaling.cpus_per_worker
        for node, workers in zip(nodes, fit, strict=True)
    ]
    lacks = max(0.0, data.reader_cpus - max(left, default=0.0))
    return max(0, sum(fit) - math.ceil(lacks / scaling.cpus_per_worker))


def workers_that_fit(node: Mapping[str, float], plan: Plan) -> int:
    """How many of the plan's workers a node of these resources has room for."""
    scaling = plan.job.scaling
    if scaling.accelerator_type and not node.get(f"accelerator_type:{scaling.accelerator_type}"):
        return 0
    asked = resources_per_worker(plan)
    return min(int((node.get(name, 0) + 1e-6) // amount) for name, amount in asked.items())


def resources_per_worker(plan: Plan) -> dict[str, float]:
    """By Ray's names."""
    scaling = plan.job.scaling
    asked = {
        "CPU": scaling.cpus_per_worker,
        "GPU": scaling.gpus_per_worker,
        "memory": scaling.memory_per_worker or 0,
    }
    return {name: amount for name, amount in asked.items() if amount}


def answers(node: Mapping[str, Any]) -> bool:
    """Whether a node's raylet takes connections."""
    address = node["NodeManagerAddress"], node["NodeManagerPort"]
    try:
        socket.create_connection(address, timeout=_NODE_ANSWER_SECONDS).close()
    except OSError:
        return False
    return True
