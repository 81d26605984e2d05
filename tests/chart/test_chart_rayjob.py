"""The RayJob that `trainwright submit` makes from the chart's profile meets what the chart enforces."""

from __future__ import annotations

import ast
import itertools
import re

import pytest
from chartkit.combinations import COMBINATIONS, FILES, GPU_GROUPS, render_combination
from chartkit.flows import Pod, connects
from chartkit.helm import REPO, find, pod_templates, render, values_file
from chartkit.jobs import plan_for, profile_of
from chartkit.podsecurity import violations
from chartkit.quotas import quantity, rayjob_demand
from chartkit.strict import errors, has_crd

from orchestrator.clusters.kubernetes.request import plan_to_config_map, plan_to_rayjob
from orchestrator.clusters.kubernetes.short_pod import short_pod
from orchestrator.spec.profile import MountedClaim

NAMES = [*sorted(COMBINATIONS)[::5], *sorted(FILES)]


def largest_job(objects):
    """A RayJob that takes every node of the first or, where there are GPUs, of the GPU group."""
    profile = profile_of(objects)
    group = max(profile.node_groups, key=lambda group: group.gpus)
    workers = group.max * (group.gpus or int(group.cpus))
    return plan_to_rayjob(plan_for(profile, workers, 1 if group.gpus else 0), profile)


@pytest.mark.parametrize("name", NAMES)
def test_rayjob_is_admitted(name):
    objects = render_combination(name)
    profile = profile_of(objects)
    rayjob = largest_job(objects)
    pods = pod_templates([rayjob])
    assert len(pods) >= 2
    assert [f"{where}: {v}" for where, pod in pods for v in violations(pod)] == []
    assert rayjob["metadata"]["namespace"] == "training"
    for _, pod in pods:
        assert find(objects, "ServiceAccount", pod["spec"]["serviceAccountName"])
        assert pod["spec"]["automountServiceAccountToken"] in (False, profile.kubernetes.autoscaling)
        for container in pod["spec"]["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {
        "mode": "token",
        "secretName": profile.secrets.ray_token_secret,
    }
    if quota := find(objects, "ResourceQuota", profile.name):
        hard, demand = quota["spec"]["hard"], rayjob_demand(rayjob)
        over = {k: (str(v), hard[k]) for k, v in demand.items() if k in hard and v > quantity(hard[k])}
        assert not over
        assert {"requests.cpu", "limits.cpu", "requests.memory", "limits.memory"} <= set(demand)


@pytest.mark.parametrize("name", NAMES)
def test_rayjob_is_valid(name):
    if not has_crd("ray.io/RayJob"):
        pytest.skip("the KubeRay CRDs are not at hand (../shared/crds)")
    objects = render_combination(name)
    assert errors(largest_job(objects)) == ()
    profile = profile_of(objects)
    assert errors(plan_to_config_map(plan_for(profile, 1, 0), profile, 1, None)) == ()


def test_as_many_jobs_as_the_values_say_fit_the_quota():
    """Ten heads, and workers on every node there is."""
    objects = render({"nodeGroups": GPU_GROUPS[:1], "jobs": {"maxConcurrent": 10}})
    profile = profile_of(objects)
    hard = find(objects, "ResourceQuota", "train")["spec"]["hard"]
    one = rayjob_demand(plan_to_rayjob(plan_for(profile, 1, 0), profile))
    group = quantity(4)
    heads = one["requests.cpu"] - group
    assert 10 * heads + profile.node_groups[0].max * group <= quantity(hard["requests.cpu"])


def test_rayjob_goes_to_the_queue_that_the_chart_makes_and_fits_it():
    objects = render({"nodeGroups": GPU_GROUPS, "kueue": {"enabled": True}})
    rayjob = largest_job(objects)
    queue = rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert find(objects, "LocalQueue", queue)
    assert rayjob["spec"]["suspend"]
    assert rayjob["spec"]["shutdownAfterJobFinishes"]
    flavors = find(objects, "ClusterQueue", "train")["spec"]["resourceGroups"][0]["flavors"]
    for resource in ("cpu", "memory", "nvidia.com/gpu"):
        quota = sum(
            quantity(r["nominalQuota"]) for f in flavors for r in f["resources"] if r["name"] == resource
        )
        assert rayjob_demand(rayjob)[f"requests.{resource}"] <= quota


def test_each_pod_of_a_queued_rayjob_is_counted_where_it_belongs():
    """By the rule of Kueue: a pod takes the first flavor with room whose taints it tolerates."""
    objects = render({"nodeGroups": GPU_GROUPS, "kueue": {"enabled": True}})
    cluster = largest_job(objects)["spec"]["rayClusterSpec"]
    [worker] = cluster["workerGroupSpecs"]

    def flavors_of(pods):
        tolerated = pods["template"]["spec"]["tolerations"]
        return [
            flavor["metadata"]["name"]
            for flavor in objects
            if flavor["kind"] == "ResourceFlavor"
            and all(tolerates(tolerated, taint) for taint in flavor["spec"]["nodeTaints"])
        ]

    def tolerates(tolerations, taint):
        return any((t["key"], t.get("value")) == (taint["key"], taint.get("value")) for t in tolerations)

    assert flavors_of(cluster["headGroupSpec"]) == ["train-heads"]
    assert flavors_of(worker) == [f"train-{worker['groupName']}"]


def test_rayjobs_pods_are_those_that_the_network_policies_know():
    """KubeRay adds its labels to every pod of a cluster; ours and its own must not be in each other's way."""
    objects = render()
    rayjob = largest_job(objects)
    cluster = rayjob["spec"]["rayClusterSpec"]
    added = {"ray.io/is-ray-node": "yes", "ray.io/cluster": "job-x-abcde"}
    head = Pod(
        {**cluster["headGroupSpec"]["template"]["metadata"]["labels"], **added, "ray.io/node-type": "head"}
    )
    labels = cluster["workerGroupSpecs"][0]["template"]["metadata"]["labels"]
    worker = Pod({**labels, **added, "ray.io/node-type": "worker"})
    mlflow = Pod(find(objects, "Deployment", "train-mlflow")["spec"]["template"]["metadata"]["labels"])
    assert connects(objects, worker, head, 6379)
    assert connects(objects, head, mlflow, 5000)
    assert connects(objects, worker, mlflow, 5000)
    assert not connects(objects, worker, head, 10001)


VERBS = ("get", "list", "create", "patch", "delete", "watch")


def asked_of_the_server():
    """Verbs and resources that the Kubernetes backend names in its calls, for the messages of errors."""
    for path in sorted((REPO / "clusters" / "kubernetes").glob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        named = {
            node.targets[0].id: node.value.value
            for node in module.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        }
        for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
            words = [named.get(getattr(word, "id", ""), getattr(word, "value", None)) for word in call.args]
            if getattr(call.func, "attr", None) == "pages":
                words.insert(0, "list")
            for verb, resource in itertools.pairwise(words):
                if verb in VERBS and isinstance(resource, str) and re.fullmatch("[a-z0-9./-]+", resource):
                    yield verb, resource


def test_the_submitters_role_covers_what_the_client_asks_for():
    pairs = set(asked_of_the_server())
    pairs -= {
        ("create", "selfsubjectaccessreviews"),
        ("get", "version"),
    }  # everyone may
    rayjobs = {verb for verb, resource in pairs if resource == "rayjobs.ray.io"}
    assert rayjobs == set(VERBS)
    assert {("list", "pods"), ("create", "configmaps"), ("create", "pods/exec")} <= pairs
    objects = render({"kueue": {"enabled": True}})
    granted = rights_of(find(objects, "Role", "train-submitter"))
    of_storage = rights_of(find(objects, "Role", "train-storage"))
    assert of_storage == {
        *((verb, "pods") for verb in ("create", "delete", "get", "list")),
        *((verb, "pods/exec") for verb in ("get", "create")),
    }
    of_dashboards = rights_of(find(objects, "Role", "train-dashboards"))
    assert pairs <= granted | of_storage | of_dashboards, pairs - granted
    assert not granted & {("create", "pods"), ("delete", "pods")}


def rights_of(role):
    return {
        (verb, f"{resource}.{group}" if group else resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_pod_that_takes_an_upload_is_admitted_and_holds_the_release_s_claim():
    objects = render(values_file("presets/laptop.yaml"))
    profile = profile_of(objects)
    options = profile.kubernetes
    pod = short_pod(
        profile,
        "trainwright-files-1",
        (MountedClaim(claim=str(options.storage_claim), path=str(profile.storage), read_only=False),),
    )
    assert errors(pod) == ()
    assert violations(pod) == []
    assert find(objects, "PersistentVolumeClaim", str(options.storage_claim))
