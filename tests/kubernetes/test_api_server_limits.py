"""Pod Security, ResourceQuota and LimitRange as the API server enforces them on what we make."""

from __future__ import annotations

import pytest
from chartkit.combinations import GPU_GROUPS
from chartkit.helm import pod_templates
from chartkit.jobs import plan_for
from control_plane import ApiError, wait_until
from rayjob_cases import CASES, manifest
from release import make_namespace, pod_of

from orchestrator.clusters.kubernetes.request import plan_to_rayjob

pytestmark = pytest.mark.usefixtures("kuberay_crds", "other_crds")


def plain_pod(namespace, **spec):
    """A restricted pod that asks for nothing."""
    security = {
        "allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container = {"name": "c", "image": "registry.example.com/any:1", "securityContext": security}
    body = {
        "spec": {"containers": [container], "automountServiceAccountToken": False, **spec},
        "metadata": {},
    }
    return pod_of(body, "plain", namespace)


@pytest.fixture(scope="module")
def golden_namespace(control_plane):
    """A "restricted" namespace with what the golden manifests name."""
    make_namespace(control_plane, "golden")
    control_plane.create(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "jobs"}}, "golden"
    )
    control_plane.create(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "high"},
            "value": 5,
        }
    )
    wait_until(
        "the default account",
        lambda: control_plane.request("GET", "/api/v1/namespaces/golden/serviceaccounts/default"),
    )
    return "golden"


@pytest.mark.parametrize("name", CASES)
def test_pod_security_admits_the_pods_of_every_golden_rayjob(control_plane, golden_namespace, name):
    templates = pod_templates([manifest(name)])
    assert len(templates) >= 2
    for _, template in templates:
        control_plane.create(
            pod_of(template, "pod", golden_namespace), dryRun="All", fieldValidation="Strict"
        )


BREAKS = {
    "privileged": {"privileged": True, "allowPrivilegeEscalation": True},
    "escalation": {"allowPrivilegeEscalation": True},
    "root": {"runAsUser": 0},
    "capability": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}},
    "seccomp": {"seccompProfile": {"type": "Unconfined"}},
}


@pytest.mark.parametrize("name", BREAKS)
def test_pod_security_refuses(control_plane, golden_namespace, name):
    _, template = pod_templates([manifest("smallest")])[0]
    pod = pod_of(template, "pod", golden_namespace)
    pod["spec"]["containers"][0]["securityContext"].update(BREAKS[name])
    with pytest.raises(ApiError, match="violates PodSecurity") as refused:
        control_plane.create(pod, dryRun="All")
    assert refused.value.status == 403


@pytest.mark.parametrize("field, value", [("hostNetwork", True), ("volumes", [{"name": "x", "hostPath": {"path": "/"}}])])  # fmt: skip
def test_pod_security_refuses_what_reaches_the_host(control_plane, golden_namespace, field, value):
    with pytest.raises(ApiError, match="violates PodSecurity"):
        control_plane.create(plain_pod(golden_namespace, **{field: value}), dryRun="All")


def used(release):
    """What the quota counts now."""
    path = f"/api/v1/namespaces/{release.namespace}/resourcequotas/{release.name}"
    return release.plane.request("GET", path)["status"].get("used", {})


SIZES = {
    "default": {},
    "many jobs": {"jobs": {"maxConcurrent": 40}},
    "GPUs and autoscaling": {"nodeGroups": GPU_GROUPS, "jobs": {"autoscaling": True, "maxConcurrent": 20}},
}


@pytest.mark.parametrize("name", SIZES)
def test_the_quota_admits_all_that_the_values_promise_and_refuses_more(release, name):
    """MLflow, its backup, as many heads as jobs may run at once, and each node group at its most, all at one time."""
    values = SIZES[name]
    release.run("install", values=values)
    wait_until("MLflow's pod is made", release.pods)
    objects, profile = release.rendered(), release.profile()
    (cronjob,) = [body for body in objects if body["kind"] == "CronJob"]
    ((_, backup),) = pod_templates([cronjob])
    create = release.plane.create
    create(pod_of(backup, "backup", release.namespace), fieldValidation="Strict")
    for index in range(values.get("jobs", {}).get("maxConcurrent", 10)):
        cluster = plan_to_rayjob(plan_for(profile, 1, 0), profile)["spec"]["rayClusterSpec"]
        head = pod_of(cluster["headGroupSpec"]["template"], f"head-{index}", release.namespace)
        if autoscaler := cluster.get("autoscalerOptions"):
            head["spec"]["containers"].append(  # as the operator does
                {
                    "name": "autoscaler",
                    "image": "any",
                    "resources": autoscaler["resources"],
                    "securityContext": autoscaler["securityContext"],
                }
            )
        create(head, fieldValidation="Strict")
    for group in profile.node_groups:
        plan = plan_for(profile, group.max * (group.gpus or int(group.cpus)), 1 if group.gpus else 0)
        (workers,) = [
            g
            for g in plan_to_rayjob(plan, profile)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
            if g["groupName"] == group.name
        ]
        for index in range(group.max):
            worker = pod_of(workers["template"], f"{group.name}-{index}", release.namespace)
            create(worker, fieldValidation="Strict")
    with pytest.raises(ApiError, match="exceeded quota: train") as refused:
        for index in range(6):  # what the quota adds for the operator is more than one small worker
            create({**worker, "metadata": {**worker["metadata"], "name": f"more-{index}"}})
    assert refused.value.status == 403


def test_a_gpu_is_refused_where_no_group_has_one(release):
    release.run("install")
    pod = plain_pod(release.namespace)
    pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    with pytest.raises(ApiError, match=r"exceeded quota: train.*requests.nvidia.com/gpu=1"):
        release.plane.create(pod)


@pytest.mark.parametrize("kind", ["LoadBalancer", "NodePort"])
def test_a_service_to_the_outside_is_refused(release, kind):
    release.run("install")
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "out"},
        "spec": {"type": kind, "ports": [{"port": 80}]},
    }
    with pytest.raises(ApiError, match="exceeded quota"):
        release.plane.create(body, release.namespace)


def test_the_limit_range_fills_in_what_a_container_leaves_out(release):
    release.run("install", values={"limitRange": {"cpu": "200m", "memory": "128Mi"}})
    made = release.plane.create(plain_pod(release.namespace))
    assert made["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "200m", "memory": "128Mi"},
        "requests": {"cpu": "100m", "memory": "128Mi"},
    }


def test_without_a_limit_range_the_quota_refuses_a_container_that_states_nothing(release):
    release.run("install", values={"limitRange": {"enabled": False}})
    wait_until("MLflow's pod is made", release.pods)
    with pytest.raises(ApiError, match=r"must specify limits\.cpu"):
        release.plane.create(plain_pod(release.namespace))


def test_the_quota_counts_what_runs_and_lets_go_of_it(release):
    # the operator's own chart has a pod, its stand-in none
    release.run("install", values={"kuberay-operator": {"enabled": False}})
    wait_until("MLflow is counted", lambda: used(release).get("requests.cpu") == "500m")
    release.plane.create(plain_pod(release.namespace))
    wait_until("the pod is counted", lambda: used(release)["requests.cpu"] == "600m")
    release.plane.request("DELETE", f"/api/v1/namespaces/{release.namespace}/pods/plain")
    wait_until("the pod is let go", lambda: used(release)["requests.cpu"] == "500m")
