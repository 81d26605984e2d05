from pathlib import Path

import pytest
from cluster_cases import kubernetes_profile, plan, ray_profile
from pydantic import ValidationError

import orchestrator.clusters
from orchestrator.clusters import BACKENDS, open_cluster
from orchestrator.spec.load import load_profile
from orchestrator.spec.profile import ClusterProfile

FILES = sorted((Path(orchestrator.clusters.__file__).parent / "profiles").glob("*.yaml"))


def test_there_is_one_of_each_kind():
    assert {load_profile(str(file)).kind for file in FILES} == set(BACKENDS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_profile_has_its_file_s_name_and_renders_a_plan(file):
    profile = load_profile(str(file))
    assert profile.name == file.stem
    cluster = open_cluster(profile)
    assert cluster.profile == profile
    assert cluster.render(plan(storage="/data/runs/digits-abcdefgh")).run_id == "digits-abcdefgh"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ray_profile("head:8265"), "kind ray needs the dashboard's URL"),
        (lambda: ClusterProfile(name="a", kind="ray", address="http://h"), "storage: kind ray needs a path"),
        (lambda: ClusterProfile(name="a", kind="local", storage="gs://b/runs"), "storage: kind local keeps its runs in a folder"),
        (lambda: ClusterProfile(name="a", kind="local", notice_file="notice"), "notice_file: notice must be a whole path"),
        (lambda: kubernetes_profile(image=None), "image: kind kubernetes needs an image"),
        (lambda: kubernetes_profile(image="registry:5000/tw"), "must end with a tag other than latest"),
        (lambda: kubernetes_profile(image="tw:latest"), "must end with a tag other than latest"),
        (lambda: kubernetes_profile(head={"cpus": 2, "offered_cpus": 3}), "offered_cpus 3 is more than its cpus 2"),
        (lambda: kubernetes_profile(node_groups=[{"name": "a", "cpus": 1, "memory": "1GB", "resources": {"cpu": 2}}]), "resources.cpu has a field of its own"),
        (lambda: kubernetes_profile(node_groups=[{"name": "a", "cpus": 1, "memory": "1GB", "pod_labels": {"ray.io/x": "1"}}]), r"pod_labels\.ray\.io/x is set by"),
        (lambda: kubernetes_profile(node_groups=[{"name": "a", "cpus": 1, "memory": "1GB", "environment": {"HOME": "/"}}]), r"node_groups a: environment\.HOME is set by"),
        (lambda: kubernetes_profile(environment={"PYTHONPATH": "/code"}), r"environment\.PYTHONPATH is set by trainwright or the cluster"),
        (lambda: kubernetes_profile(environment={"RAY_TRAIN_V2_ENABLED": "0"}), r"environment\.RAY_TRAIN_V2_ENABLED is set by"),
        (lambda: ray_profile(environment={"MLFLOW_TRACKING_PASSWORD": "x"}), r"environment\.MLFLOW_TRACKING_PASSWORD is set by"),
        (lambda: ClusterProfile(name="a", kind="local", environment={"HOME": "/"}), r"environment\.HOME is set by"),
        (lambda: ClusterProfile(name="a", kind="local", environment={"a b": "/"}), "'a b' is not a name of an environment variable"),
        (lambda: kubernetes_profile(head={"pod_labels": {"trainwright/run": "a"}}), r"head: pod_labels\.trainwright/run is set by"),
        (lambda: kubernetes_profile({"claims": [{"claim": "a", "path": "sets"}]}), "path sets must be a whole path"),
        (lambda: kubernetes_profile({"claims": [{"claim": "a", "path": "/"}]}), "path / must be a whole path|lie in each"),
        (lambda: kubernetes_profile({"claims": [{"claim": "a", "path": "/tmp/sets"}]}), "/tmp/sets and /tmp, which pods have already"),
        (lambda: kubernetes_profile({"claims": [{"claim": "a", "path": "/opt/trainwright/x"}]}), "/opt/trainwright/x and /opt/trainwright, which"),
        (lambda: kubernetes_profile({"user": 0}), "user"),
        (lambda: kubernetes_profile({"packages": {"config_maps": [], "key": "a"}}), "config_maps"),
        (lambda: kubernetes_profile({"claims": [{"claim": "a", "path": "/a"}, {"claim": "b", "path": "/a/b/"}]}), "b: path /a/b/ and /a, which"),
        (lambda: kubernetes_profile({"storage_claim": "s", "claims": [{"claim": "a", "path": "/data"}]}, storage="/data/runs"), "/data and /data/runs, which"),
        (lambda: kubernetes_profile(node_groups=[]), "node_groups: kind kubernetes needs at least one"),
        (lambda: kubernetes_profile(storage="/data"), r"kubernetes\.storage_claim is needed"),
        (lambda: kubernetes_profile({"gcs_fault_tolerance": "redis"}), "redis_address is needed"),
        (lambda: kubernetes_profile({"queue": "q", "autoscaling": True}), "admits a fixed number of pods"),
        (lambda: kubernetes_profile(node_groups=[{"name": "a", "cpus": 1, "memory": "1GB", "min": 3}]), "min 3 is more than max 1"),
        (lambda: kubernetes_profile(node_groups=[{"name": "a", "cpus": 1, "memory": "1GB"}] * 2), "two groups have the same name"),
    ],
)  # fmt: skip
def test_a_profile_that_can_not_work_is_refused(make, sentence):
    with pytest.raises(ValidationError, match=sentence):
        make()
