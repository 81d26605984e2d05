"""What is checked on Kubernetes: the API server's answers from here, and a probe in pods like a run's."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

from orchestrator import __version__
from orchestrator.clusters.doctor.checks import (
    Check,
    check_clock,
    check_mlflow,
    check_storage,
    failed,
    mlflow_uri,
    passed,
    warned,
)
from orchestrator.clusters.doctor.nodes import probe_command, probe_to_checks
from orchestrator.clusters.doctor.probe import MARK
from orchestrator.clusters.kubernetes import server_facts
from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.errors import ImageError
from orchestrator.clusters.kubernetes.head_command import run_on_head
from orchestrator.clusters.kubernetes.pod_problems import IMAGE_MEND
from orchestrator.errors import NotFoundError, TrainwrightError
from orchestrator.models.sizes import UNCOUNTED
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, Plan, ResolvedJob, RunContext
from orchestrator.runs import new_run_id
from orchestrator.spec.addresses import service_of
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import is_uri
from orchestrator.storage.arrow import has_arrow

_PODS_SECONDS = 100.0

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
QUEUE_RIGHTS = (("list", "workloads", "kueue.x-k8s.io"),)
"""What it needs besides to say for what a queued job waits."""

CLAIM_RIGHTS = (
    ("create", "pods", ""),
    ("get", "pods", ""),
    ("delete", "pods", ""),
    ("create", "pods/exec", ""),
    ("get", "pods/exec", ""),
)
"""What a short pod needs that mounts a claim."""

DASHBOARD_RIGHTS = (
    ("list", "pods", ""),
    ("create", "pods/portforward", ""),
    ("get", "pods/portforward", ""),
)
"""What ``trainwright ui`` needs in the namespace to open what only pods reach."""


def kubernetes_checks(profile: ClusterProfile) -> Iterator[Check]:
    """Server, KubeRay, rights and storage from here; the rest from pods."""
    server = ApiServer(profile)
    began = time.monotonic()
    try:
        version = server_facts.version(server)
        milliseconds = (time.monotonic() - began) * 1000
        yield passed("reachable", f"Kubernetes {version} in {milliseconds:.0f}ms")
        yield check_clock(server_facts.clock_ahead_seconds(server), "the API server's clock")
        if server_facts.rayjobs_are_served(server):
            yield passed("KubeRay", "RayJobs (ray.io/v1) are served")
        else:
            yield failed(
                "KubeRay", "the API server knows no RayJobs (ray.io/v1)", "install the KubeRay operator 1.7"
            )
        needed = RIGHTS + (QUEUE_RIGHTS if profile.kubernetes.queue else ())
        denied = _denied(server, needed)
        may_run = not denied
        if denied:
            yield failed(
                "rights",
                f"in namespace {server.namespace} you may not {', '.join(denied)}",
                "ask for the role <name>-submitter of the chart, or one like it",
            )
        else:
            yield passed("rights", f"all {len(needed)} that runs need in namespace {server.namespace}")
        if profile.kubernetes.storage_claim:
            yield _check_claim_rights(server)
        yield _check_dashboard_rights(server)
    except TrainwrightError as error:
        yield failed("access", str(error), "the checks that come after it were left out")
        return
    if claim := profile.kubernetes.storage_claim:
        yield _check_claim(server, claim, "storage claim", "kubernetes.storage_claim")
    for mounted in profile.kubernetes.claims:
        yield _check_claim(server, mounted.claim, f"claim {mounted.claim}", "kubernetes.claims")
    if is_uri(str(profile.storage)) and has_arrow():
        yield check_storage(str(profile.storage))
    uri = mlflow_uri(profile)
    if may_run:
        yield from _look_from_pods(profile, server, uri)
    if service_of(uri) or not uri.startswith("http"):
        yield warned(
            "MLflow from here",
            f"{uri or 'no URI'}: known only inside the cluster, not looked at from here",
            f"trainwright ui --cluster {profile.name} opens it"
            if service_of(uri)
            else "look at it from a pod",
        )
    else:
        yield check_mlflow(uri)


def _denied(server: ApiServer, rights: tuple[tuple[str, str, str], ...]) -> list[str]:
    """Those of some rights that we do not have."""
    return [
        f"{verb} {resource}"
        for verb, resource, group in rights
        if not server_facts.may(server, verb, resource, group)
    ]


def _check_claim_rights(server: ApiServer) -> Check:
    denied = _denied(server, CLAIM_RIGHTS)
    if not denied:
        return passed("rights to the claim", f"all {len(CLAIM_RIGHTS)} that a short pod with it needs")
    return warned(
        "rights to the claim",
        f"in namespace {server.namespace} you may not {', '.join(denied)}: without that no logs, status and resume of runs whose"
        " pods or RayJobs are gone, no list --all, and no upload",
        "ask for the role <name>-storage of the chart, or one like it",
    )


def _check_dashboard_rights(server: ApiServer) -> Check:
    denied = _denied(server, DASHBOARD_RIGHTS)
    if not denied:
        return passed("rights to dashboards", "what only pods reach can be opened from here")
    return warned(
        "rights to dashboards",
        f"in namespace {server.namespace} you may not {', '.join(denied)}: trainwright ui can't open what only pods reach",
        "ask for the role <name>-dashboards of the chart, or one like it",
    )


def _look_from_pods(profile: ClusterProfile, server: ApiServer, mlflow: str) -> Iterator[Check]:
    """What a head and up to two nodes of the first node group find, started as a run's pods are."""
    try:
        answer = run_on_head(
            server, _probe_plan(profile), probe_command(profile, mlflow), mark=MARK, seconds=_PODS_SECONDS
        )
    except ImageError as error:
        yield failed("image", str(error), IMAGE_MEND)
        return
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
    return make_plan(job, DataFacts(), UNCOUNTED, context)


def _check_claim(server: ApiServer, claim: str, name: str, field: str) -> Check:
    said = ""
    try:
        phase = server_facts.claim_phase(server, claim)
        if phase == "Pending":
            with contextlib.suppress(TrainwrightError):  # runs don't need that right either
                said = server_facts.claim_warning(server, claim)
    except NotFoundError as error:
        return failed(name, str(error), f"create it, or name another in {field}")
    except TrainwrightError as error:  # runs don't need the right to look at it
        return warned(name, str(error), "see below whether the pods start with it")
    if phase == "Lost":
        return failed(name, f"{claim} has lost its volume", "restore the volume, or create another claim")
    if said:
        return failed(
            name,
            f"{claim} can't be bound: {said}",
            "give it a StorageClass that is there and has its access mode (of the chart: storage.storageClass,"
            " storage.accessMode; a claim keeps both, so delete it first), or name another claim",
        )
    if phase != "Bound":
        return warned(name, f"{claim} is {phase}", "it may be bound by the first pod that uses it")
    return passed(name, f"{claim} is bound")
