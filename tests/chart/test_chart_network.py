"""Who may connect to whom: the flow table of docs/helm.md, evaluated on the rendered NetworkPolicies."""

from __future__ import annotations

import pytest
from chartkit.flows import Pod, connects, outside
from chartkit.helm import merge, render

OURS = {
    "app.kubernetes.io/name": "trainwright",
    "app.kubernetes.io/instance": "train",
    "app.kubernetes.io/part-of": "trainwright",
}
HEAD = Pod({"ray.io/is-ray-node": "yes", "ray.io/node-type": "head", "ray.io/originated-from-crd": "RayJob"})
WORKER = Pod(
    {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker", "ray.io/originated-from-crd": "RayJob"}
)
JOB_SUBMITTER = Pod(
    {"ray.io/originated-from-crd": "RayJob", "app.kubernetes.io/created-by": "kuberay-operator"}
)
SUBMITTER = Pod({"trainwright/submitter": "true"})
OPERATOR = Pod({"app.kubernetes.io/name": "kuberay-operator"})
FOREIGN_OPERATOR = Pod({"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-operator")
MLFLOW = Pod({**OURS, "app.kubernetes.io/component": "mlflow"})
BACKUP = Pod({**OURS, "app.kubernetes.io/component": "backup"})
TEST = Pod({**OURS, "app.kubernetes.io/component": "test"})
STRANGER = Pod({"app": "something"})
OTHER_NAMESPACE = Pod({"ray.io/is-ray-node": "yes", "trainwright/submitter": "true"}, "elsewhere")
PROMETHEUS = Pod({"app": "prometheus"}, "monitoring")
INGRESS = Pod({"app": "nginx"}, "ingress-nginx")
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
API_SERVER = outside("172.20.0.1")
INTERNET = outside("93.184.216.34")
METADATA = outside("169.254.169.254")
PLAIN: dict = {}
AUTOSCALED = {"jobs": {"autoscaling": True}}
S3 = {"storage": {"url": "s3://bucket/runs"}}
MLFLOW_S3 = {"mlflow": {"artifacts": "s3://bucket/mlflow"}}
POSTGRES = {"mlflow": {"databaseSecret": "database"}}
INGRESS_ON = {"ingress": {"enabled": True, "host": "m.example.com", "tlsSecret": "tls"}}
FOREIGN = {"kuberay-operator": {"enabled": False}}
NO_MONITORING = {"monitoring": {"enabled": False}}
DOWNLOADS = {"networkPolicy": {"egress": [{"cidr": "0.0.0.0/0", "ports": [443]}]}}
EXTERNAL = {"mlflow": {"enabled": False, "externalUri": "https://mlflow.example.com:8443"}}
TEAMS = {"networkPolicy": {"teamNamespaces": ["vision", "elsewhere"]}}
SHARED = {"mlflow": {"enabled": False, "externalUri": "http://train-mlflow.platform.svc:5000"}}
LOCAL_DNS = {"networkPolicy": {"dnsCidrs": ["169.254.20.10/32"]}}

# (values, source, target, port, allowed)
FLOWS = {
    "submitter to dashboard": (PLAIN, SUBMITTER, HEAD, 8265, True),
    "the operator's job submitter to dashboard": (PLAIN, JOB_SUBMITTER, HEAD, 8265, True),
    "operator to dashboard": (PLAIN, OPERATOR, HEAD, 8265, True),
    "foreign operator to dashboard": (FOREIGN, FOREIGN_OPERATOR, HEAD, 8265, True),
    "foreign operator while ours runs": (PLAIN, FOREIGN_OPERATOR, HEAD, 8265, False),
    "worker to head's control store": (PLAIN, WORKER, HEAD, 6379, True),
    "head to worker": (PLAIN, HEAD, WORKER, 34567, True),
    "worker to worker, NCCL": (PLAIN, WORKER, WORKER, 50001, True),
    "worker to dashboard": (PLAIN, WORKER, HEAD, 8265, True),
    "worker to MLflow": (PLAIN, WORKER, MLFLOW, 5000, True),
    "head to MLflow": (PLAIN, HEAD, MLFLOW, 5000, True),
    "submitter to MLflow": (PLAIN, SUBMITTER, MLFLOW, 5000, True),
    "helm test to MLflow": (PLAIN, TEST, MLFLOW, 5000, True),
    "Prometheus to worker": (PLAIN, PROMETHEUS, WORKER, 8080, True),
    "Prometheus to autoscaler": (PLAIN, PROMETHEUS, HEAD, 44217, True),
    "Prometheus to MLflow": (PLAIN, PROMETHEUS, MLFLOW, 5000, True),
    "Prometheus to operator": (PLAIN, PROMETHEUS, OPERATOR, 8080, True),
    "Prometheus to worker without monitoring": (NO_MONITORING, PROMETHEUS, WORKER, 8080, False),
    "Prometheus to dashboard": (PLAIN, PROMETHEUS, HEAD, 8265, False),
    "operator to API server": (PLAIN, OPERATOR, API_SERVER, 443, True),
    "submitter to API server": (PLAIN, SUBMITTER, API_SERVER, 6443, True),
    "worker to API server": (PLAIN, WORKER, API_SERVER, 443, False),
    "head to API server": (PLAIN, HEAD, API_SERVER, 443, False),
    "head to API server with autoscaling": (AUTOSCALED, HEAD, API_SERVER, 443, True),
    "worker to API server with autoscaling": (AUTOSCALED, WORKER, API_SERVER, 443, False),
    "worker to object storage": (S3, WORKER, INTERNET, 443, True),
    "worker to the internet with a claim": (PLAIN, WORKER, INTERNET, 443, False),
    "worker to the internet if asked": (DOWNLOADS, WORKER, INTERNET, 443, True),
    "worker to the metadata server": (S3, WORKER, METADATA, 80, False),
    "MLflow to object storage": (MLFLOW_S3, MLFLOW, INTERNET, 443, True),
    "MLflow to the internet with a volume": (PLAIN, MLFLOW, INTERNET, 443, False),
    "MLflow to PostgreSQL": (POSTGRES, MLFLOW, outside("10.9.9.9"), 5432, True),
    "worker to PostgreSQL": (POSTGRES, WORKER, outside("10.9.9.9"), 5432, False),
    "worker to a foreign MLflow": (EXTERNAL, WORKER, INTERNET, 8443, True),
    "worker to another port of a foreign MLflow": (EXTERNAL, WORKER, INTERNET, 443, False),
    "ingress to MLflow": (INGRESS_ON, INGRESS, MLFLOW, 5000, True),
    "ingress to MLflow without an Ingress": (PLAIN, INGRESS, MLFLOW, 5000, False),
    "ingress to dashboard": (INGRESS_ON, INGRESS, HEAD, 8265, False),
    "stranger to dashboard": (PLAIN, STRANGER, HEAD, 8265, False),
    "stranger to control store": (PLAIN, STRANGER, HEAD, 6379, False),
    "stranger to MLflow": (PLAIN, STRANGER, MLFLOW, 5000, False),
    "another namespace to dashboard": (PLAIN, OTHER_NAMESPACE, HEAD, 8265, False),
    "another namespace to MLflow": (PLAIN, OTHER_NAMESPACE, MLFLOW, 5000, False),
    "a team's job to MLflow": (TEAMS, OTHER_NAMESPACE, MLFLOW, 5000, True),
    "a team's submitter to MLflow": (TEAMS, Pod({"trainwright/submitter": "true"}, "elsewhere"), MLFLOW, 5000, True),
    "a team's other pod to MLflow": (TEAMS, Pod({"app": "something"}, "elsewhere"), MLFLOW, 5000, False),
    "another team's job to MLflow": (TEAMS, Pod({"ray.io/is-ray-node": "yes"}, "third"), MLFLOW, 5000, False),
    "a team's job to another's head": (TEAMS, OTHER_NAMESPACE, HEAD, 8265, False),
    "a team's job to another's workers": (TEAMS, OTHER_NAMESPACE, WORKER, 50001, False),
    "a team's job to a shared MLflow, from its side": (SHARED, WORKER, Pod({**OURS, "app.kubernetes.io/component": "mlflow"}, "platform"), 5000, True),
    "the internet to dashboard": (PLAIN, INTERNET, HEAD, 8265, False),
    "job submitter to control store": (PLAIN, JOB_SUBMITTER, HEAD, 6379, False),
    "job submitter to MLflow": (PLAIN, JOB_SUBMITTER, MLFLOW, 5000, False),
    "submitter to control store": (PLAIN, SUBMITTER, HEAD, 6379, False),
    "backup to anywhere": (PLAIN, BACKUP, INTERNET, 443, False),
    "backup to MLflow": (PLAIN, BACKUP, MLFLOW, 5000, False),
    "MLflow to dashboard": (PLAIN, MLFLOW, HEAD, 8265, False),
    "stranger to stranger": (PLAIN, STRANGER, STRANGER, 80, False),
    "worker to NodeLocal DNSCache by TCP": (LOCAL_DNS, WORKER, outside("169.254.20.10"), 53, True),
}  # fmt: skip

EVERYONE = [HEAD, WORKER, JOB_SUBMITTER, SUBMITTER, OPERATOR, MLFLOW, BACKUP, TEST, STRANGER, OTHER_NAMESPACE, PROMETHEUS, INGRESS, INTERNET]  # fmt: skip


@pytest.mark.parametrize("name", FLOWS)
def test_flow(name):
    values, source, target, port, allowed = FLOWS[name]
    assert connects(render(values), source, target, port) is allowed


@pytest.mark.parametrize("values", [PLAIN, S3, merge(AUTOSCALED, INGRESS_ON), FOREIGN, EXTERNAL], ids=str)
@pytest.mark.parametrize("target", [HEAD, WORKER], ids=["head", "worker"])
def test_ray_client_is_closed_to_everyone(values, target):
    objects = render(values)
    assert not [source for source in EVERYONE if connects(objects, source, target, 10001)]


@pytest.mark.parametrize(
    "source", [HEAD, WORKER, JOB_SUBMITTER, SUBMITTER, OPERATOR, MLFLOW, BACKUP, TEST], ids=str
)
def test_everyone_resolves_names(source):
    objects = render()
    assert connects(objects, source, DNS, 53, "UDP")
    assert connects(objects, source, DNS, 53, "TCP")
    assert not connects(objects, source, outside("8.8.8.8"), 53, "UDP")


def test_without_policies_everything_is_open():
    assert connects(render({"networkPolicy": {"enabled": False}}), STRANGER, HEAD, 10001)


def test_the_policies_know_the_labels_of_our_own_pods():
    objects = render()
    for kind, name, path in (("Deployment", "train-mlflow", ("template",)), ("Pod", "train-test", ())):
        (o,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        template = o["spec"]["template"] if path else o
        known = MLFLOW if path else TEST
        assert known.labels.items() <= template["metadata"]["labels"].items()
