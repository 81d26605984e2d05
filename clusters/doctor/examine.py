"""``doctor``: what keeps jobs from running on a cluster, one line a check, each with the mend. Takes under two minutes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.clusters.doctor.checks import (
    Check,
    check_clock,
    check_mlflow,
    check_packages,
    check_storage,
    failed,
    passed,
    warned,
)
from orchestrator.clusters.doctor.probe import MARK
from orchestrator.clusters.kubernetes.api import KubernetesApi
from orchestrator.clusters.kubernetes.cluster import KubernetesCluster
from orchestrator.clusters.ray.api import RayClient
from orchestrator.clusters.ray.cluster import RayJobsCluster
from orchestrator.clusters.shared.run_records import is_reachable_from_here
from orchestrator.errors import NotFoundError, TrainwrightError
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, Plan, ResolvedJob, RunContext
from orchestrator.runs import new_run_id
from orchestrator.section import format_bytes
from orchestrator.spec.load import home
from orchestrator.spec.profile import ClusterProfile

_PROBE_SECONDS, _PODS_SECONDS = 80.0, 100.0
_SMALL_DISK_BYTES = 5 * 10**9
_SMALL_SHARED_MEMORY_BYTES = 256 * 10**6

RIGHTS = (
    ("create", "rayjobs", "ray.io"),
    ("get", "rayjobs", "ray.io"),
    ("list", "rayjobs", "ray.io"),
    ("watch", "rayjobs", "ray.io"),
    ("patch", "rayjobs", "ray.io"),
    ("delete", "rayjobs", "ray.io"),
    ("get", "rayclusters", "ray.io"),
    ("create", "configmaps", ""),
    ("get", "configmaps", ""),
    ("patch", "configmaps", ""),
    ("list", "pods", ""),
    ("get", "pods/log", ""),
)
"""All that submitting, watching, reading and stopping runs needs: verb, resource, API group."""


def doctor(profile: ClusterProfile) -> Iterator[Check]:
    """All checks of a profile's kind, each as soon as it is known. Raises nothing that a cluster can cause."""
    yield check_packages()
    kinds = {"local": _local_checks, "ray": _ray_checks, "kubernetes": _kubernetes_checks}
    yield from kinds[profile.kind](profile)


def _local_checks(profile: ClusterProfile) -> Iterator[Check]:
    folder = profile.storage or str(home())
    disk = _existing(Path(folder)) if "://" not in folder else Path("/")
    free = shutil.disk_usage(disk).free
    if free < _SMALL_DISK_BYTES:
        yield warned(
            "disk", f"{format_bytes(free)} free at {disk}", "make room, or set TRAINWRIGHT_HOME elsewhere"
        )
    else:
        yield passed("disk", f"{format_bytes(free)} free at {disk}")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    if shared < _SMALL_SHARED_MEMORY_BYTES:
        yield warned(
            "shared memory",
            f"{format_bytes(shared)} free at /dev/shm",
            "give /dev/shm more (docker run --shm-size=2g); Ray uses slow files instead",
        )
    else:
        yield passed("shared memory", f"{format_bytes(shared)} free at /dev/shm")
    yield check_storage(folder)
    yield check_mlflow(_mlflow_uri(profile) or f"sqlite:///{home()}/mlflow.db")


def _ray_checks(profile: ClusterProfile) -> Iterator[Check]:
    client = RayClient(profile)
    cluster = RayJobsCluster(profile, client)
    try:
        client.list()  # asks for the token, which the version does not everywhere
        found = client.versions()
        yield passed(
            "reachable", f"Ray {found['ray']}, Python {found['python'] or 'unknown'} at {profile.address}"
        )
        client.check_versions()
        yield check_clock(client.clock_ahead_seconds(), "the head's clock")
    except TrainwrightError as error:
        yield failed("reachable", str(error), "the checks that come after it were left out")
        return
    if is_reachable_from_here(str(profile.storage)):
        yield check_storage(str(profile.storage))
    else:
        yield warned(
            "storage from here",
            f"{profile.storage} is not mounted here",
            "mount it, or use s3:// or gs://: status and logs by rank then don't need a job on the cluster",
        )
    command = ["python", "-m", "orchestrator.clusters.doctor.probe", "--storage", str(profile.storage)]
    uri = _mlflow_uri(profile)
    try:
        output = cluster.run_on_head([*command, "--mlflow", uri], run_timeout_seconds=_PROBE_SECONDS)
        line = next(line for line in output.splitlines() if line.startswith(MARK))
    except (TrainwrightError, StopIteration) as error:
        yield failed(
            "cluster", str(error) or "the probe said nothing", "look at the job's log in Ray's dashboard"
        )
        return
    yield from probe_to_checks(json.loads(line[len(MARK) :]), found)
    if not uri:
        yield check_mlflow(uri)


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


def _kubernetes_checks(profile: ClusterProfile) -> Iterator[Check]:
    api = KubernetesApi(profile)
    began = time.monotonic()
    try:
        version = api.version()
        milliseconds = (time.monotonic() - began) * 1000
        yield passed("reachable", f"Kubernetes {version} in {milliseconds:.0f}ms")
        yield check_clock(api.clock_ahead_seconds(), "the API server's clock")
        if api.rayjob_crd_is_served():
            yield passed("KubeRay", "RayJobs (ray.io/v1) are served")
        else:
            yield failed(
                "KubeRay", "the API server knows no RayJobs (ray.io/v1)", "install the KubeRay operator 1.7"
            )
        denied = [
            f"{verb} {resource}" for verb, resource, group in RIGHTS if not api.may(verb, resource, group)
        ]
        may_run = not denied
        if denied:
            yield failed(
                "rights",
                f"in namespace {api.namespace} you may not {', '.join(denied)}",
                "ask for the role <name>-submitter of the chart, or one like it",
            )
        else:
            yield passed("rights", f"all {len(RIGHTS)} that runs need in namespace {api.namespace}")
    except TrainwrightError as error:
        yield failed("access", str(error), "the checks that come after it were left out")
        return
    if claim := profile.kubernetes.storage_claim:
        yield _check_claim(api, claim)
    if "://" in str(profile.storage):
        yield check_storage(str(profile.storage))
    uri = _mlflow_uri(profile)
    if may_run:
        yield from _look_from_pods(profile, api, uri)
    if ".svc" in uri or not uri.startswith("http"):
        yield warned(
            "MLflow from here",
            f"{uri or 'no URI'}: known only inside the cluster, not looked at from here",
            "kubectl port-forward it to look at runs from here",
        )
    else:
        yield check_mlflow(uri)


def _look_from_pods(profile: ClusterProfile, api: KubernetesApi, mlflow: str) -> Iterator[Check]:
    """What a head and up to two nodes of the first node group find, started as a run's pods are."""
    command = ["python", "-m", "orchestrator.clusters.doctor.probe", "--storage", str(profile.storage)]
    try:
        answer = KubernetesCluster(profile, api).run_on_head(
            _probe_plan(profile), [*command, "--mlflow", mlflow], mark=MARK, seconds=_PODS_SECONDS
        )
    except TrainwrightError as error:
        yield failed("pods", str(error), "free room for a head and a node, or see kubectl get events")
        return
    probe = json.loads(answer)
    yield from probe_to_checks(probe, {"python": probe["nodes"][0]["versions"]["python"]})


def _probe_plan(profile: ClusterProfile) -> Plan:
    """A run of one worker on each of up to two nodes; its driver is never started."""
    nodes = max(1, min(2, sum(group.max for group in profile.node_groups)))
    job = ResolvedJob.model_validate(
        {
            "name": "doctor",
            "model": {"family": "mlp", "in_features": 1, "outputs": 2},
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "digits"}},
            "training": {"max_steps": 1, "global_batch_size": nodes},
            "scaling": {"workers": nodes, "placement": "spread"},
        }
    )
    context = RunContext(
        version=__version__,
        run_id=new_run_id("doctor"),
        base_dir="",
        storage=f"{profile.storage}/doctor",
        cache="",
        tracking_uri="",
    )
    return make_plan(job, DataFacts(), Counts(0, 0, 0, ()), context)


def _check_claim(api: KubernetesApi, claim: str) -> Check:
    try:
        phase = api.storage_claim_phase(claim)
    except NotFoundError as error:
        return failed("storage claim", str(error), "create it, or name another in kubernetes.storage_claim")
    except TrainwrightError as error:  # runs don't need the right to look at it
        return warned("storage claim", str(error), "see below whether the pods can write to it")
    if phase == "Lost":
        return failed(
            "storage claim", f"{claim} has lost its volume", "restore the volume, or create another claim"
        )
    if phase != "Bound":
        return warned("storage claim", f"{claim} is {phase}", "it may be bound by the first pod that uses it")
    return passed("storage claim", f"{claim} is bound")


def _mlflow_uri(profile: ClusterProfile) -> str:
    return profile.mlflow or os.environ.get("MLFLOW_TRACKING_URI") or ""


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
