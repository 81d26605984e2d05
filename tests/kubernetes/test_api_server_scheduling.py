"""Where the real scheduler puts our pods, on nodes that are objects only: no kubelet, nothing runs."""

from __future__ import annotations

import datetime

import pytest
from chartkit.combinations import GPU_GROUPS
from chartkit.helm import pod_templates
from chartkit.jobs import plan_for
from control_plane import ApiError, wait_until
from release import pod_of

from orchestrator.clusters.kubernetes.request import plan_to_rayjob

pytestmark = pytest.mark.usefixtures("kuberay_crds", "other_crds")

GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
SYSTEM_TAINT = {"key": "pool", "value": "system", "effect": "NoSchedule"}
VALUES = {
    "nodeGroups": GPU_GROUPS,
    "head": {
        "labels": {"pool": "system"},
        "tolerations": [{"key": "pool", "operator": "Equal", "value": "system"}],
    },
}


def node(name, *, labels=None, taints=(), cpus="16", memory="64Gi", gpus="0"):
    """A node that says that it is ready."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    amounts = {
        "cpu": cpus,
        "memory": memory,
        "nvidia.com/gpu": gpus,
        "pods": "110",
        "ephemeral-storage": "1Ti",
    }
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": {"taints": list(taints)},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{**ready, "lastHeartbeatTime": now, "lastTransitionTime": now}],
        },
    }


@pytest.fixture
def nodes(control_plane, release):
    """Adds nodes, and takes them and the release's pods away again. They count as ready for less than a minute: nobody reports for them."""
    made = []

    def add(*bodies):
        for body in bodies:
            control_plane.create(body)
            control_plane.request(
                "PATCH", f"/api/v1/nodes/{body['metadata']['name']}/status", {"status": body["status"]},
                content_type="application/merge-patch+json",
            )  # fmt: skip
            made.append(body)
        for body in bodies:
            wanted = len(body["spec"]["taints"])
            wait_until(
                "the taint of a new node is taken away",
                lambda body=body, wanted=wanted: (
                    len(control_plane.get(body)["spec"].get("taints", [])) == wanted
                ),
            )

    yield add
    release.run("uninstall")
    pods = f"/api/v1/namespaces/{release.namespace}/pods"
    control_plane.request(
        "DELETE", pods, gracePeriodSeconds=0
    )  # one that waits would take the next test's nodes
    for body in made:
        control_plane.delete(body)


def bind_claims(release):
    """A volume for each claim of the release, as a provisioner would make it."""
    claims = [body for body in release.rendered() if body["kind"] == "PersistentVolumeClaim"]
    for body in claims:
        name = body["metadata"]["name"]
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{release.namespace}-{name}"},
            "spec": {
                "capacity": {"storage": body["spec"]["resources"]["requests"]["storage"]},
                "accessModes": body["spec"]["accessModes"],
                "hostPath": {"path": "/nowhere"},
                "claimRef": {"namespace": release.namespace, "name": name},
            },
        }
        release.plane.create(volume)
    wait_until(
        "the claims are bound",
        lambda: all(release.plane.get(body)["status"]["phase"] == "Bound" for body in claims),
    )


def node_of(release, name):
    """The node that a pod was bound to; fails with what the scheduler says where it was bound to none."""
    path = f"/api/v1/namespaces/{release.namespace}/pods/{name}"

    def is_bound():
        return "nodeName" in release.plane.request("GET", path)["spec"]

    try:
        wait_until(f"{name} has a node", is_bound, seconds=30)
    except TimeoutError:
        pytest.fail(f"{name}: {release.plane.request('GET', path)['status']}")
    return release.plane.request("GET", path)["spec"]["nodeName"]


def why_not(release, name):
    """What the scheduler says of a pod that fits nowhere."""

    def said():
        pod = release.plane.request("GET", f"/api/v1/namespaces/{release.namespace}/pods/{name}")
        conditions = {c["type"]: c for c in pod["status"].get("conditions", [])}
        return conditions.get("PodScheduled", {}).get("message")

    return wait_until(f"the scheduler says why {name} waits", said, seconds=30)


def create_pods(release, rayjob, prefix="job"):
    """Head and workers as the operator makes them; returns their names."""
    names = []
    for index, (_, template) in enumerate(pod_templates([rayjob])):
        name = f"{prefix}-{index}"
        release.plane.create(pod_of(template, name, release.namespace))
        names.append(name)
    return names


def test_every_pod_goes_to_the_nodes_that_the_values_name(release, nodes):
    release.run("install", values=VALUES)
    bind_claims(release)
    nodes(
        node("system", labels={"pool": "system"}, taints=[SYSTEM_TAINT]),
        node("plain"),
        node("gpu", labels={"pool": "h100"}, taints=[GPU_TAINT], cpus="64", memory="1100Gi", gpus="8"),
    )
    profile = release.profile()
    head, worker = create_pods(release, plan_to_rayjob(plan_for(profile, 8, 1), profile))
    assert (node_of(release, head), node_of(release, worker)) == ("system", "gpu")
    (mlflow,) = release.pods("app.kubernetes.io/component=mlflow")
    assert node_of(release, mlflow["metadata"]["name"]) == "plain", (
        "no toleration of ours lets it onto the others"
    )
    _, second = create_pods(release, plan_to_rayjob(plan_for(profile, 8, 1), profile), "second")
    assert "Insufficient nvidia.com/gpu" in why_not(release, second)


def test_the_backup_goes_where_mlflow_is(release, nodes):
    """Both mount one volume, which one node only can mount."""
    release.run("install")
    bind_claims(release)
    nodes(node("a"), node("b"), node("c"))
    (mlflow,) = release.pods("app.kubernetes.io/component=mlflow")
    where = node_of(release, mlflow["metadata"]["name"])
    (cronjob,) = [body for body in release.rendered() if body["kind"] == "CronJob"]
    ((_, template),) = pod_templates([cronjob])
    for index in range(3):
        release.plane.create(pod_of(template, f"backup-{index}", release.namespace))
        assert node_of(release, f"backup-{index}") == where


def test_spread_workers_go_to_different_nodes(release, nodes):
    release.run("install")
    bind_claims(release)
    nodes(node("one"), node("two"))
    profile = release.profile()
    plan = plan_for(profile, 2, 0)
    scaling = plan.job.scaling.model_copy(update={"placement": "spread"})
    plan = plan.model_copy(update={"job": plan.job.model_copy(update={"scaling": scaling})})
    _, template = pod_templates([plan_to_rayjob(plan, profile)])[1]
    for index in range(2):
        release.plane.create(pod_of(template, f"worker-{index}", release.namespace))
    assert {node_of(release, "worker-0"), node_of(release, "worker-1")} == {"one", "two"}


def test_an_urgent_job_takes_the_place_of_another(release, nodes):
    urgent = {"name": "most-urgent", "value": 1000, "preempt": True}
    release.run("install", values={"nodeGroups": GPU_GROUPS, "priorityClasses": [urgent]})
    bind_claims(release)
    nodes(
        node("plain-2"),
        node("gpu-2", labels={"pool": "h100"}, taints=[GPU_TAINT], cpus="64", memory="1100Gi", gpus="8"),
    )
    profile = release.profile()
    _, low = create_pods(release, plan_to_rayjob(plan_for(profile, 8, 1), profile), "low")
    assert node_of(release, low) == "gpu-2"
    options = profile.kubernetes.model_copy(update={"priority_class": "train-most-urgent"})
    urgent = profile.model_copy(update={"kubernetes": options})
    _, high = create_pods(release, plan_to_rayjob(plan_for(urgent, 8, 1), urgent), "high")

    def is_going():
        """Without a kubelet a pod that is evicted stays until it is deleted by force."""
        path = f"/api/v1/namespaces/{release.namespace}/pods/{low}"
        try:
            pod = release.plane.request("GET", path)
        except ApiError as error:
            return error.status == 404
        if pod["metadata"].get("deletionTimestamp"):
            release.plane.request("DELETE", path, gracePeriodSeconds=0)
        return False

    wait_until("the other job's pod is evicted", is_going, seconds=40)
    assert node_of(release, high) == "gpu-2"
