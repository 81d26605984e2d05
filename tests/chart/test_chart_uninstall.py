"""`helm uninstall` refuses to cut runs off, and leaves nothing behind that the operator alone could remove."""

from __future__ import annotations

import importlib.util

import fake_kubernetes
import pytest
from chartkit.helm import CHART, HelmError, find, render

FINALIZER = "ray.io/rayjob-finalizer"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("before_uninstall", CHART / "files" / "before_uninstall.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kubernetes():
    with fake_kubernetes.FakeKubernetes() as server:
        yield server


def rayjob(name, state, *, finalizers=(FINALIZER,)):
    pod = {"spec": {"containers": [{"name": "ray-head"}]}}
    notes = {"trainwright/run-id": f"run-{name}"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "annotations": notes, "finalizers": list(finalizers)},
        "spec": {
            "entrypoint": "true",
            "rayClusterSpec": {"headGroupSpec": {"rayStartParams": {}, "template": pod}},
        },
        "status": {"jobDeploymentStatus": state, "rayClusterName": f"{name}-cluster"},
    }


def ray_cluster(name):
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": name}}


def look(script, kubernetes):
    return script.before_uninstall(
        script.Api(kubernetes.url, kubernetes.namespace, kubernetes.token, None), "training", "train"
    )


@pytest.mark.parametrize("state", ["", "Initializing", "Running", "Suspended", "Retrying"])
def test_a_run_that_is_alive_is_named_and_nothing_is_touched(script, kubernetes, state):
    for name, of in (("old", "Complete"), ("new", state)):
        kubernetes.put("rayjobs", rayjob(name, of))
        kubernetes.put("rayclusters", ray_cluster(f"{name}-cluster"))
    with pytest.raises(SystemExit) as refused:
        look(script, kubernetes)
    said = str(refused.value)
    assert "1 of 2 RayJobs in training have not ended" in said
    assert "trainwright stop run-new --cluster train" in said and "run-old" not in said
    assert set(kubernetes.objects["rayclusters"]) == {"old-cluster", "new-cluster"}
    assert all(job["metadata"]["finalizers"] == [FINALIZER] for job in kubernetes.objects["rayjobs"].values())


@pytest.mark.parametrize("state", ["Complete", "Failed", "ValidationFailed"])
def test_ended_runs_are_let_go_and_stay_as_records(script, kubernetes, state):
    kubernetes.put("rayjobs", rayjob("old", state, finalizers=(FINALIZER, "example.com/mine")))
    kubernetes.put("rayjobs", rayjob("older", state, finalizers=()))
    kubernetes.put("rayclusters", ray_cluster("old-cluster"))  # that of the older one is gone already
    assert "2 ended RayJobs stay" in look(script, kubernetes)
    assert kubernetes.objects["rayjobs"]["old"]["metadata"]["finalizers"] == ["example.com/mine"]
    assert not kubernetes.objects["rayclusters"]


def test_a_cluster_without_kuberay_holds_nothing_up(script, kubernetes):
    kubernetes.has_kuberay = False
    assert "no run is alive" in look(script, kubernetes)


def test_a_right_that_is_missing_is_an_error(script, kubernetes):
    kubernetes.denied.add(("list", "rayjobs"))
    with pytest.raises(script.urllib.error.HTTPError):
        look(script, kubernetes)


def test_helm_keeps_the_release_where_the_check_fails(release):
    release.run("install")
    release.api.job_ends = "Failed"
    with pytest.raises(HelmError, match="before-uninstall"):
        release.run("uninstall")
    deployment = "/apis/apps/v1/namespaces/training/deployments/train-mlflow"
    assert deployment in release.api.objects
    assert not [path for path in release.api.objects if path.endswith("train-before-uninstall")]
    release.run("uninstall", "--no-hooks")
    assert deployment not in release.api.objects


def test_the_check_has_its_own_rights_and_reaches_the_api_server():
    job = find(render(), "Job", "train-before-uninstall")
    pod = job["spec"]["template"]
    assert pod["metadata"]["labels"]["trainwright/submitter"] == "true"
    assert pod["spec"]["serviceAccountName"] == "train-before-uninstall"
    role = find(render(), "Role", "train-before-uninstall")
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"list", "patch", "delete"}
    assert not find(render({"checks": {"uninstall": False}}), "Job", "train-before-uninstall")
