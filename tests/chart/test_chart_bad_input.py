"""Wrong values fail with a sentence that says what to set; none is ignored."""

from __future__ import annotations

import json
import re

import pytest
from chartkit.combinations import FILES, GPU_GROUPS, REQUIREMENTS
from chartkit.helm import CHART, HelmError, merge, template

DIGEST = "sha256:" + "a" * 64
STOCK = FILES["presets/stock-image.yaml"]

# (values, what the message says)
MISTAKES = {
    # Images
    "no image": ({"image": {}}, "image.repository is not set: set it to that of a trainwright image"),
    "an image in one text": ({"image": "r.example.com/t:1"}, "at '/image': got string, want object"),
    "latest": ({"image": {"repository": "t", "tag": "latest"}}, "at '/image/tag': value must be 'the tag of a version"),
    "latest for MLflow": ({"mlflow": {"image": {"repository": "m", "tag": "latest"}}}, "at '/mlflow/image/tag': value must be 'the tag of a version"),
    "a registry in the name": ({"image": {"repository": "r.example.com/t"}}, "at '/image/repository': value must be 'the image\\'s name without registry"),
    "a tag in the name": ({"image": {"repository": "t:1"}}, "at '/image/repository': value must be 'the image\\'s name without registry"),
    "a name of capitals": ({"image": {"repository": "Team"}}, "at '/image/repository': value must be 'an image\\'s name of small letters"),
    "a short digest": ({"image": {"repository": "t", "digest": "sha256:ab"}}, "at '/image/digest'"),
    "a tag and a digest": ({"image": {"repository": "t", "tag": "1", "digest": DIGEST}}, "image.tag and image.digest are both set, and a digest alone decides what runs: unset one"),
    "a tag and a digest of MLflow": ({"mlflow": {"image": {"repository": "m", "tag": "1", "digest": DIGEST}}}, "mlflow.image.tag and mlflow.image.digest are both set"),
    "MLflow's image without a version": ({"mlflow": {"image": {"repository": "m"}}}, "set mlflow.image.tag or mlflow.image.digest"),
    "a version of no MLflow": ({"mlflow": {"image": {"tag": "1"}}}, "mlflow.image names no image: set mlflow.image.repository"),
    "an operator from elsewhere": ({"global": {"imageRegistry": "m.example.com"}}, "set kuberay-operator.image.repository=m.example.com/…/operator"),
    "a nightly operator": ({"kuberay-operator": {"image": {"tag": "nightly"}}}, "at '/kuberay-operator/image/tag'"),
    # Packages that pods install
    "Ray's image without packages": ({"image": {"repository": "rayproject/ray", "tag": "2.60.0-py311"}}, "image.repository is rayproject/ray, which has no trainwright: set packages.enabled=true"),
    "packages without requirements": ({"packages": {"enabled": True}}, "packages.enabled is set without packages.requirements: make them with scripts/lock_packages.py"),
    "requirements for nothing": ({"packages": {"requirements": REQUIREMENTS}}, "packages.enabled is off: set packages.enabled=true, or unset them"),
    "requirements of another Python": (merge(STOCK, {"image": {"tag": "2.60.0-py312-gpu"}}), "image.tag is 2.60.0-py312-gpu and packages.requirements are for Python 3.11"),
    "an image of another Ray": (merge(STOCK, {"image": {"tag": "2.59.0-py311"}}), "image.tag is 2.59.0-py311 and rayVersion is 2.60.0: set both"),
    "requirements of another Ray": (merge(STOCK, {"packages": {"requirements": REQUIREMENTS.replace("2.60", "2.59")}}), "packages.requirements have no ray==2.60.0"),
    "a claim for packages of each pod": (merge(STOCK, {"packages": {"shared": False, "existingClaim": "c"}}), "packages.existingClaim is set and packages.shared is off"),
    "a password in an index": ({"packages": {"indexUrl": "https://a:b@i.example.com/simple"}}, "at '/packages/indexUrl'"),
    "a data set over the packages": ({"jobs": {"claims": [{"claim": "c", "path": "/opt/trainwright/sets"}]}}, "/opt/trainwright/sets and /opt/trainwright, which pods have already"),
    "pods of root": ({"runAs": {"user": 0}}, "at '/runAs/user': minimum: got 0, want 1"),
    # Unknown keys
    "unknown key": ({"mlflw": {}}, "additional properties 'mlflw' not allowed"),
    "unknown key below": ({"mlflow": {"replica": 1}}, "at '/mlflow': additional properties 'replica' not allowed"),
    "unknown key of a node group": ({"nodeGroups": [{"name": "a", "cpus": 1, "memory": "1Gi", "gpu": 1}]}, "additional properties 'gpu' not allowed"),
    "unknown key of the operator": ({"kuberay-operator": {"nosuch": 1}}, "at '/kuberay-operator': additional properties 'nosuch' not allowed"),
    "unknown key of a toleration": ({"nodeGroups": [{"name": "a", "cpus": 1, "memory": "1Gi", "tolerations": [{"efect": "x"}]}]}, "additional properties 'efect' not allowed"),
    # Wrong types
    "text for a number": ({"mlflow": {"replicas": "two"}}, "at '/mlflow/replicas': got string, want integer"),
    "number for a switch": ({"kueue": {"enabled": 1}}, "at '/kueue/enabled': got number, want boolean"),
    "text for a switch": ({"rayCluster": {"enabled": "false"}}, "at '/rayCluster/enabled': got string, want boolean"),
    "map for a list": ({"nodeGroups": {"cpu": {}}}, "at '/nodeGroups': got object, want array"),
    "number for an annotation": ({"jobs": {"serviceAccountAnnotations": {"a": 1}}}, "got number, want string"),
    "zero workers": ({"mlflow": {"workers": 0}}, "at '/mlflow/workers': minimum: got 0, want 1"),
    "a size without a unit": ({"storage": {"size": "100"}}, "at '/storage/size': '100' does not match pattern"),
    "a size in GB": ({"head": {"memory": "8GB"}}, "at '/head/memory': '8GB' does not match pattern"),
    "a duration without a unit": ({"jobs": {"keepHead": "60"}}, "at '/jobs/keepHead': '60' does not match pattern"),
    "a bucket of another kind": ({"storage": {"url": "https://bucket"}}, "at '/storage/url'"),
    "a relative storage path": ({"storage": {"path": "data"}}, "at '/storage/path'"),
    "a name that Kubernetes refuses": ({"rayToken": {"existingSecret": "My_Token"}}, "at '/rayToken/existingSecret'"),
    "no node group": ({"nodeGroups": []}, "at '/nodeGroups': minItems: got 0, want 1"),
    "a node group without memory": ({"nodeGroups": [{"name": "a", "cpus": 1}]}, "missing property 'memory'"),
    "a port out of range": ({"networkPolicy": {"storagePorts": [70000]}}, "maximum: got 70,000, want 65,535"),
    "all hosts": ({"mlflow": {"allowedHosts": ["*"]}}, "at '/mlflow/allowedHosts/0'"),
    "a wildcard origin": ({"mlflow": {"corsOrigins": ["https://*"]}}, "at '/mlflow/corsOrigins/0'"),
    "an unknown scheduler": ({"jobs": {"gangScheduler": "slurm"}}, "value must be one of 'none', 'volcano', 'yunikorn', 'kai-scheduler'"),
    "a schedule of four fields": ({"mlflow": {"backupSchedule": "1 2 3 4"}}, "at '/mlflow/backupSchedule'"),
    "privileged Pod Security": ({"namespace": {"podSecurity": "privileged"}}, "at '/namespace/podSecurity'"),
    "a priority above the user range": ({"priorityClasses": [{"name": "a", "value": 2000000000}]}, "at '/priorityClasses/0/value'"),
    # Choices that contradict each other
    "SQLite with two replicas": ({"mlflow": {"replicas": 2}}, "mlflow.replicas is 2 and the database is SQLite, which one pod alone can use: set mlflow.replicas=1, or mlflow.databaseSecret"),
    "two replicas with artifacts on a volume": ({"mlflow": {"replicas": 2, "databaseSecret": "d"}}, "artifacts are on one pod's volume: set mlflow.replicas=1, or mlflow.artifacts"),
    "auth off with an Ingress": ({"mlflow": {"auth": False}, "ingress": {"enabled": True, "host": "h", "tlsSecret": "t"}}, "set mlflow.auth=true, or ingress.enabled=false"),
    "an Ingress without a host": ({"ingress": {"enabled": True, "tlsSecret": "t"}}, "set ingress.host"),
    "an Ingress without TLS": ({"ingress": {"enabled": True, "host": "h"}}, "set ingress.tlsSecret"),
    "an Ingress to nothing": ({"mlflow": {"enabled": False}, "ingress": {"enabled": True, "host": "h", "tlsSecret": "t"}}, "set ingress.enabled=false"),
    "a data set over the storage": ({"jobs": {"claims": [{"claim": "c", "path": "/mnt/trainwright/sets"}]}}, "jobs.claims: /mnt/trainwright/sets and /mnt/trainwright, which pods have already"),
    "a data set in another": ({"jobs": {"claims": [{"claim": "c", "path": "/a/b"}, {"claim": "d", "path": "/a"}]}}, "jobs.claims: /a and /a/b, which"),
    "a label of ours": ({"head": {"podLabels": {"ray.io/cluster": "x"}}}, "at '/head/podLabels'"),
    "two storages": ({"storage": {"url": "s3://bucket/x", "existingClaim": "c"}}, "set storage.url for object storage or storage.existingClaim for a volume, not both"),
    "two MLflows": ({"mlflow": {"externalUri": "https://m"}}, "set mlflow.enabled=false to use the server at mlflow.externalUri"),
    "a claim that is not used": ({"mlflow": {"existingClaim": "c", "databaseSecret": "d", "artifacts": "s3://bucket/x"}}, "unset mlflow.existingClaim"),
    "an administrator without auth": ({"mlflow": {"auth": False, "existingSecret": "s"}}, "set mlflow.auth=true, or unset mlflow.existingSecret"),
    "two accounts of the jobs": ({"jobs": {"serviceAccount": "a", "serviceAccountAnnotations": {"b": "c"}}}, "annotate the existing ServiceAccount yourself, or unset jobs.serviceAccount"),
    "teams that reach nothing": ({"mlflow": {"enabled": False}, "networkPolicy": {"teamNamespaces": ["a"]}}, "networkPolicy.teamNamespaces is set and mlflow.enabled is off"),
    "two accounts of MLflow": ({"mlflow": {"serviceAccount": "a", "serviceAccountAnnotations": {"b": "c"}}}, "annotate the existing ServiceAccount yourself, or unset mlflow.serviceAccount"),
    "a label that selects": ({"mlflow": {"podLabels": {"app.kubernetes.io/component": "x"}}}, "mlflow.podLabels has app.kubernetes.io/component, which the chart sets itself: take it out"),
    "resources that Kueue does not cover": ({"kueue": {"enabled": True}, "nodeGroups": [{"name": "a", "cpus": 1, "memory": "1Gi", "resources": {"rdma/ib": 1}}]}, "set jobs.queue to a queue of yours that does, with kueue.enabled=false"),
    "a resource with a value of its own": ({"nodeGroups": [{"name": "a", "cpus": 1, "memory": "1Gi", "resources": {"cpu": 1}}]}, "at '/nodeGroups/0/resources'"),
    "a registry with a scheme": ({"global": {"imageRegistry": "https://r.example.com"}}, "at '/global/imageRegistry'"),
    "two queues": ({"kueue": {"enabled": True}, "jobs": {"queue": "q"}}, "unset jobs.queue to use the queue that the chart makes, or set kueue.enabled=false"),
    "a queue and a gang scheduler": ({"jobs": {"queue": "q", "gangScheduler": "volcano"}}, "set jobs.gangScheduler=none, or use no queue"),
    "a queue and autoscaling": ({"kueue": {"enabled": True}, "jobs": {"autoscaling": True}}, "set jobs.autoscaling=false, or use no queue"),
    "a gang scheduler that the operator doesn't know": ({"jobs": {"gangScheduler": "volcano"}}, "set kuberay-operator.batchScheduler.name=volcano"),
    "two node groups of one name": ({"nodeGroups": [GPU_GROUPS[0], GPU_GROUPS[0]]}, "two of nodeGroups are named cpu: give each a name of its own"),
    "more at least than at most": ({"nodeGroups": [{**GPU_GROUPS[0], "min": 9}]}, "nodeGroups cpu has min 9 above max 4: set min to 4 or less"),
    "too many groups for Kueue": ({"kueue": {"enabled": True}, "nodeGroups": [{**GPU_GROUPS[0], "name": f"g{i}"} for i in range(16)]}, "at most 15 nodeGroups and there are 16"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_refused_with_a_sentence(name):
    values, message = MISTAKES[name]
    with pytest.raises(HelmError) as error:
        template(values)
    assert message in str(error.value)


def test_a_gang_scheduler_that_the_operator_knows_is_accepted():
    template(
        {"jobs": {"gangScheduler": "volcano"}, "kuberay-operator": {"batchScheduler": {"name": "volcano"}}}
    )


@pytest.mark.parametrize("registry", ["", "r", "r:5000", "localhost:5000", "r.example.com/team"])
@pytest.mark.parametrize("repository", ["t", "a/b", "a/b-c.d__e"])
@pytest.mark.parametrize("version", [{"tag": "v1.2_x"}, {"digest": DIGEST}, {}])
def test_pinned_images_are_accepted(registry, repository, version):
    template({"image": {"registry": registry, "repository": repository, **version}})


def test_an_operator_that_is_there_already_is_pulled_from_wherever():
    template({"global": {"imageRegistry": "m.example.com"}, "kuberay-operator": {"enabled": False}})


def _patterns(schema):
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "pattern":
                yield value
            yield from _patterns(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _patterns(value)


def test_patterns_are_those_that_helm_can_compile():
    """RE2 knows no look-around, no back reference and no possessive quantifier."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    patterns = list(_patterns(schema))
    assert patterns
    for pattern in patterns:
        re.compile(pattern)
        assert not re.search(r"\(\?[=!<]|\\[1-9]|[*+?]\+|\(\?>", pattern), pattern


def test_the_schema_is_draft_07_and_closed():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"

    def walk(part, where):
        if isinstance(part, dict):
            if "properties" in part:
                assert part["additionalProperties"] is False, where
            for key, value in part.items():
                walk(value, f"{where}/{key}")

    walk(schema, "")
