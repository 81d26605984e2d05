"""Each feature of a profile against the whole manifest that it makes. To write the manifests anew after a change that is
meant: ``PYTHONPATH=tests/fakes python tests/unit/clusters/test_kubernetes_request.py``, then read the difference."""

import json
from pathlib import Path

import pytest
import yaml
from cluster_cases import kubernetes_profile, plan
from crd_schema import rayjob_errors, restricted_violations
from rayjob_cases import CASES, manifest

from orchestrator.clusters.kubernetes.request import plan_to_rayjob, stop_patch
from orchestrator.errors import SpecError

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", CASES)
def test_the_manifest_is_as_written_down(name):
    assert manifest(name) == yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())


def test_every_written_manifest_has_its_case():
    assert {file.stem for file in GOLDEN.glob("*.yaml")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_kuberay_takes_every_manifest_and_pod_security_too(name):
    assert rayjob_errors(manifest(name)) == []
    assert restricted_violations(manifest(name)) == []


def test_with_autoscaling_the_driver_s_log_is_seen_beside_the_head():
    """KubeRay then mounts its volume ray-logs at /tmp/ray in the first container and its own, where nothing is mounted there."""
    head = manifest("autoscaling")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "ray-logs", "emptyDir": {}} in head["volumes"]
    for container in head["containers"]:
        assert {"name": "ray-logs", "mountPath": "/tmp/ray"} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "submissionmode"), "HTTPMode"),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "none"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "tolerationz"), []),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"), "two"),
        (("spec", "deletionStrategy", "deletionRules", 0, "policy"), "DeleteAll"),
    ],
)
def test_the_check_finds_planted_mistakes(path, value):
    body = manifest("smallest")
    node = body
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert len(rayjob_errors(body)) == 1


def test_the_cel_rules_that_a_schema_can_not_say_hold_too():
    for name in CASES:
        spec = manifest(name)["spec"]
        rules = (spec.get("deletionStrategy") or {}).get("deletionRules", [])
        assert bool(rules) != bool(spec.get("shutdownAfterJobFinishes"))
        assert all(len(set(rule["condition"]) & {"jobStatus", "jobDeploymentStatus"}) == 1 for rule in rules)
        if spec.get("suspend"):
            assert spec["shutdownAfterJobFinishes"], "KubeRay refuses to suspend a job without it"
        if spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
            assert not any(rule["policy"] == "DeleteWorkers" for rule in rules)
        for condition in ("SUCCEEDED", "FAILED", "Failed"):
            stages = [
                rule["condition"]["ttlSeconds"] for rule in rules if condition in rule["condition"].values()
            ]
            assert stages == sorted(stages), "workers before the cluster before the object"


def test_a_stopped_job_still_passes_and_loses_its_pods_at_once():
    for name in ("smallest", "queue"):
        made, profile, options = CASES[name]()
        body = plan_to_rayjob(made, profile, **options)
        patch = stop_patch(body, profile, now=1000.0)
        body["metadata"]["annotations"] |= patch["metadata"]["annotations"]
        body["spec"] |= patch["spec"]
        assert rayjob_errors(body) == []
        assert body["spec"]["activeDeadlineSeconds"] == 1
        assert ("deletionStrategy" in patch["spec"]) == (name == "smallest")


def test_a_manifest_is_pure_and_holds_no_secret():
    assert manifest("secrets") == manifest("secrets")
    environment = [
        entry
        for container in manifest("secrets")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"][
            "containers"
        ]
        for entry in container["env"]
    ]
    assert all("valueFrom" in entry or entry["name"] == "HOME" for entry in environment)


def test_the_runtime_environment_is_yaml_that_says_what_was_meant():
    environment = yaml.safe_load(manifest("working_dir")["spec"]["runtimeEnvYAML"])
    assert environment["env_vars"]["A"] == 'b"c: {}'
    assert environment["working_dir"] == "file:///etc/trainwright/run/working-dir.zip"


ELASTIC = {"scaling": {"workers": {"min": 2, "max": 16}}}


def test_of_a_range_pods_for_the_most_workers_are_asked_for():
    """The driver waits for room for the fewest; what an autoscaler may bring is the profile's to say."""
    groups = [{"name": "cpu", "cpus": 2, "memory": "8GiB", "min": 1, "max": 6}]

    def asked(**options):
        made = plan_to_rayjob(plan(**ELASTIC), kubernetes_profile(options, node_groups=groups))
        [group] = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        return group["replicas"], group["minReplicas"], group["maxReplicas"]

    assert asked() == (4, 4, 4)  # 8 workers: the most that divide the batch and that six such nodes hold
    assert asked(autoscaling=True) == (4, 1, 6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"queue": "team-a"},
            r"the Kueue queue team-a \(kubernetes\.queue\) of cluster prod starts all 16 workers or none",
        ),
        (
            {"gang_scheduler": "volcano"},
            r"volcano \(kubernetes\.gang_scheduler without kubernetes\.autoscaling\)",
        ),
    ],
)
def test_a_range_is_refused_where_the_most_workers_would_be_waited_for(options, says):
    with pytest.raises(SpecError, match=says):
        plan_to_rayjob(plan(**ELASTIC), kubernetes_profile(options))
    autoscaled = {"gang_scheduler": "volcano", "autoscaling": True}
    assert plan_to_rayjob(plan(**ELASTIC), kubernetes_profile(autoscaled))


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        # through JSON: no YAML anchors for parts that are used twice
        text = yaml.safe_dump(json.loads(json.dumps(manifest(case))), sort_keys=True, width=110)
        (GOLDEN / f"{case}.yaml").write_text(text)
