"""The chart's life on a real API server: every object accepted, upgraded, rolled back, removed and installed again."""

from __future__ import annotations

import subprocess

import pytest
from chartkit.combinations import ALL, FILES, NAMES
from chartkit.helm import HelmError, binary, pod_templates, render
from control_plane import ApiError, wait_until
from release import GENERATED, Release, is_there, make_namespace

pytestmark = pytest.mark.usefixtures("kuberay_crds", "other_crds")

EVERYTHING = FILES["ci/everything-values.yaml"]
STATUS_KINDS = ("Deployment", "CronJob", "PersistentVolumeClaim", "PodDisruptionBudget", "ResourceQuota")
"""Kinds whose status a controller writes, and so their resourceVersion."""


def settled(live):
    """What an upgrade may not change: everything that no controller writes."""
    kept = {}
    for name, body in live.items():
        kind = name.partition("/")[0]
        metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
        if kind in STATUS_KINDS:
            metadata.pop("resourceVersion")
            metadata["annotations"] = {
                key: value
                for key, value in metadata.get("annotations", {}).items()
                if not key.startswith("deployment.kubernetes.io/")
            }
        kept[name] = {**{k: v for k, v in body.items() if k != "status"}, "metadata": metadata}
    return kept


def mlflow_pod(release, count=1):
    selector = "app.kubernetes.io/component=mlflow"
    return wait_until(
        "MLflow's pod is made", lambda: len(release.pods(selector)) == count and release.pods(selector)
    )


@pytest.mark.parametrize(
    "values", [{}, {"mlflow": {"databaseSecret": "database"}}], ids=["sqlite", "postgres"]
)
def test_every_object_is_there_and_the_server_gets_its_pod(release, values):
    release.run("install", values=values)
    assert release.live()
    (pod,) = mlflow_pod(release)
    assert pod["status"]["phase"] == "Pending"
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_everything_at_once(control_plane, tmp_path):
    """In a namespace that helm makes and takes over, with Kueue's and the Prometheus operator's kinds there."""
    release = Release(control_plane, tmp_path, "everything", "platform")
    release.run("install", "--create-namespace", "--take-ownership", values=EVERYTHING)
    live = release.live()
    assert {"RayCluster/platform", "Ingress/platform-mlflow", "PriorityClass/platform-urgent"} <= set(live)
    assert {"ClusterQueue/platform", "LocalQueue/platform", "PrometheusRule/platform"} <= set(live)
    assert (
        live["Namespace/everything"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )
    mlflow_pod(release, EVERYTHING["mlflow"]["replicas"])
    before = settled(live)
    release.run("upgrade", values=EVERYTHING)
    assert settled(release.live()) == before
    release.run("uninstall")
    assert is_there(
        control_plane, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "everything"}}
    )
    assert not is_there(control_plane, live["PriorityClass/platform-urgent"])


def test_an_upgrade_with_the_same_values_changes_nothing(release):
    release.run("install")
    mlflow_pod(release)
    before = settled(release.live())
    release.run("upgrade")
    assert settled(release.live()) == before


def test_upgrade_and_rollback_keep_secrets_and_selectors(release):
    release.run("install")
    secrets, first = release.secrets(), release.live()
    changed = {
        "mlflow": {"workers": 3, "backupsKept": 3},
        "ingress": {"enabled": True, "host": "m.example.com", "tlsSecret": "tls"},
        "nodeGroups": [{"name": "big", "cpus": 16, "memory": "64Gi", "gpus": 4, "max": 2}],
        "priorityClasses": [{"name": "urgent", "value": 10}],
    }
    release.run("upgrade", values=changed)
    second = release.live()
    deployment = "Deployment/train-mlflow"
    assert second[deployment]["metadata"]["generation"] == first[deployment]["metadata"]["generation"] + 1
    assert second[deployment]["spec"]["selector"] == first[deployment]["spec"]["selector"]
    assert second["ResourceQuota/train"]["spec"]["hard"]["requests.nvidia.com/gpu"] == "8"
    assert release.secrets() == secrets
    release.run("rollback", "1")
    assert release.secrets() == secrets
    third = release.live()
    assert third.keys() == first.keys()
    for name in third:
        assert third[name].get("spec") == first[name].get("spec"), name
    assert not is_there(release.plane, second["Ingress/train-mlflow"])


def test_uninstalling_keeps_secrets_and_claims_and_a_new_release_takes_them_up(release):
    release.run("install")
    live, secrets = release.live(), release.secrets()
    mlflow_pod(release)
    release.run("uninstall")
    kept = {f"Secret/train-{name}" for name in GENERATED} | {
        f"PersistentVolumeClaim/train-{name}" for name in ("storage", "mlflow")
    }
    wait_until(
        "what is not kept is gone",
        lambda: {n for n, body in live.items() if is_there(release.plane, body)} == kept,
    )
    wait_until("the pods are gone", lambda: not release.pods())
    release.run("install")
    assert release.secrets() == secrets
    uid = "PersistentVolumeClaim/train-storage"
    assert release.live()[uid]["metadata"]["uid"] == live[uid]["metadata"]["uid"]


def test_the_backup_of_the_docs_gets_its_pod(release):
    release.run("install")
    command = [binary("kubectl"), "create", "job", "--from=cronjob/train-mlflow-backup", "before-upgrade"]
    config = ["--kubeconfig", str(release.plane.admin_kubeconfig), "-n", release.namespace]
    subprocess.run([*command, *config], check=True, timeout=60)
    wait_until("the backup's pod is made", lambda: release.pods("job-name=before-upgrade"))


def test_the_profile_of_the_docs_comes_out_by_kubectl(release):
    release.run("install")
    command = [
        binary("kubectl"),
        "get",
        "configmap",
        "train-profile",
        "-o",
        "jsonpath={.data.profile\\.yaml}",
    ]
    config = ["--kubeconfig", str(release.plane.admin_kubeconfig), "-n", release.namespace]
    out = subprocess.run([*command, *config], check=True, timeout=60, capture_output=True, text=True).stdout
    assert out.startswith("name: train\n")
    assert release.profile().kubernetes.namespace == release.namespace


def test_the_notes_see_whether_the_namespace_enforces_pod_security(release):
    assert "kubectl label namespace" not in release.run("install")
    make_namespace(release.plane, f"{release.namespace}-open", labels={})
    release.namespace += "-open"
    assert f"kubectl label namespace {release.namespace}" in release.run("install")


@pytest.fixture(scope="module")
def seen():
    """Objects that the server has taken already: most are the same in many combinations."""
    return set()


@pytest.fixture(scope="module")
def matrix(control_plane):
    """A namespace that enforces "restricted"."""
    make_namespace(control_plane, "matrix")


@pytest.mark.parametrize("name", NAMES)
def test_the_server_takes_every_object_and_pod_of_every_combination(control_plane, matrix, seen, name):
    """By server-side dry run with unknown fields refused; the pods too, each as if its controller made it."""
    objects = render(
        ALL[name], kube_version="1.36", api_versions=("monitoring.coreos.com/v1",), namespace="matrix"
    )
    refused = []
    for body in objects:
        if repr(body) in seen:
            continue
        try:
            control_plane.apply(body, dryRun="All", fieldValidation="Strict")
            if body["kind"] in ("ServiceAccount", "PriorityClass"):
                control_plane.apply(body)  # pods need it
            else:
                seen.add(repr(body))
        except ApiError as error:
            refused.append(f"{body['kind']}/{body['metadata']['name']}: {error}")
    for where, template in pod_templates(objects):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": "pod", "namespace": "matrix", "labels": template["metadata"]["labels"]}
        if repr(pod) in seen:
            continue
        try:
            control_plane.create(pod, dryRun="All", fieldValidation="Strict")
            seen.add(repr(pod))
        except ApiError as error:
            refused.append(f"{where}: {error}")
    for body in objects:
        if body["kind"] == "PriorityClass":
            control_plane.delete(body)
    assert refused == []


def test_a_priority_that_changes_is_refused_with_a_sentence(release):
    """The server keeps the value of a PriorityClass for ever."""
    urgent = {"name": "fixed", "value": 10}
    release.run("install", values={"priorityClasses": [urgent]})
    release.run("upgrade", values={"priorityClasses": [{**urgent, "description": "soon"}]})
    for change in ({"value": 11}, {"preempt": True}):
        with pytest.raises(HelmError, match=r"priorityClasses fixed .* give it another name"):
            release.run("upgrade", values={"priorityClasses": [{**urgent, **change}]})
    release.run("upgrade", values={"priorityClasses": [{"name": "fixed-2", "value": 11}]})


@pytest.mark.parametrize(
    "limits", [{"memory": "128Mi"}, {"cpu": "50m"}, {"cpu": "2", "memory": "4Gi"}], ids=str
)
def test_small_default_limits_are_taken(control_plane, matrix, limits):
    """A default request may not exceed the default limit."""
    (limit_range,) = [
        o for o in render({"limitRange": limits}, namespace="matrix") if o["kind"] == "LimitRange"
    ]
    control_plane.create(limit_range, dryRun="All", fieldValidation="Strict")
