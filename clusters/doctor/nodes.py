"""What is seen from the nodes of a cluster: the command that looks there, and what its answer means. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.clusters.doctor.checks import Check, check_clock, failed, passed, warned
from orchestrator.section import format_bytes
from orchestrator.spec.profile import ClusterProfile


def probe_command(profile: ClusterProfile, mlflow: str) -> list[str]:
    """What the head is given to run."""
    probe = ["python", "-m", "orchestrator.clusters.doctor.probe"]
    return [*probe, "--storage", str(profile.storage), "--mlflow", mlflow]


def probe_to_checks(probe: dict[str, Any], head: dict[str, str]) -> Iterator[Check]:
    """What the probe saw, as checks. Pure.

    Args:
        probe: What ``probe`` printed.
        head: Versions of Ray and Python on the head.
    """
    nodes, free = probe["nodes"], probe["free"]
    cpus, gpus = sum(node["cpus"] for node in nodes), sum(node["gpus"] for node in nodes)
    yield passed("nodes", f"{len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs")
    message = (
        f"{free['CPU']:g} of {cpus:g} CPUs, {free['GPU']:g} of {gpus:g} GPUs, {format_bytes(free['memory'])}"
    )
    if cpus and not free["CPU"]:
        yield warned("free", message, "all CPUs are taken: a job will wait")
    else:
        yield passed("free", message)
    for node in nodes:
        missing = [
            name for name, found in node["versions"].items() if found == "missing" and name != "kubernetes"
        ]
        if missing:
            yield failed(
                f"packages on {node['host']}",
                f"not installed: {', '.join(missing)}",
                "install trainwright on every node",
            )
        elif node["versions"]["python"] != head["python"]:
            yield failed(
                f"packages on {node['host']}",
                f"Python {node['versions']['python']}, but the head has {head['python']}",
                "use one environment or image on all nodes",
            )
        storage = Check.model_validate(node["storage"])
        if storage.outcome != "pass":
            yield storage
    if all(node["storage"]["outcome"] == "pass" for node in nodes):
        yield passed("storage from the nodes", f"written, read and deleted from all {len(nodes)}")
    times = [node["time"] for node in nodes]
    yield check_clock(max(times) - min(times), "the clock of one node")
    if probe["mlflow"]:
        yield Check.model_validate(probe["mlflow"])
    reduced = probe.get("all_reduce")
    if reduced is None:
        return
    if "error" in reduced:
        yield failed(
            "all-reduce",
            f"{reduced['backend']} over {reduced['ranks']} processes: {reduced['error']}",
            "open all ports between the nodes; with several networks set NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME",
        )
    else:
        speed = reduced["gigabytes_per_second"]
        yield passed(
            "all-reduce", f"{reduced['backend']} over {reduced['ranks']} processes: {speed:.2f} GB/s a link"
        )
