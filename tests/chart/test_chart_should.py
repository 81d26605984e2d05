"""Focused cases, one value set and one path each: "Should …"."""

from __future__ import annotations

from configparser import ConfigParser
from typing import Any, NamedTuple

import pytest
from chartkit.combinations import FILES
from chartkit.helm import MONITORING, Object, Values, find, merge, render
from chartkit.jobs import profile_of

ABSENT = object()
S3 = {"storage": {"url": "s3://bucket/runs"}}
POSTGRES = {"mlflow": {"databaseSecret": "database"}}
SCALED = {"mlflow": {"replicas": 3, "databaseSecret": "database", "artifacts": "s3://bucket/mlflow"}}
INGRESS = {
    "ingress": {"enabled": True, "host": "mlflow.example.com", "tlsSecret": "tls", "className": "nginx"}
}
GROUP = {
    "name": "gpu", "cpus": 8, "memory": "64Gi", "gpus": 2, "acceleratorType": "A100", "min": 1, "max": 3, "spot": True,
    "labels": {"pool": "gpu"}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}  # fmt: skip
GPU = {"nodeGroups": [GROUP]}
CLUSTER = {"rayCluster": {"enabled": True}}
GPU_CLUSTER = {**GPU, **CLUSTER}
AUTOSCALED = {**CLUSTER, "jobs": {"autoscaling": True}}
KUEUE = {"kueue": {"enabled": True}}
PRIORITY = {
    "priorityClasses": [{"name": "urgent", "value": 1000, "preempt": True}, {"name": "low", "value": -5}]
}
OWN_OPERATOR = {"kuberay-operator": {"enabled": False}}
PROFILE = ("ConfigMap", "train-profile", "data/profile.yaml")
SERVER = "spec/template/spec/containers/0"
BACKUP = "spec/jobTemplate/spec/template/spec"
HEAD = "spec/headGroupSpec/template/spec"
WORKER = "spec/workerGroupSpecs/0"


MIRRORED = {
    "global": {"imageRegistry": "mirror.example.com:5000/hub"},
    "kuberay-operator": {"image": {"repository": "mirror.example.com:5000/hub/kuberay/operator"}},
}
STOCK = FILES["presets/stock-image.yaml"]
OTHER_MLFLOW = {"registry": "r.example.com", "repository": "team/m", "tag": "1"}
DIGEST = "sha256:" + "a" * 64
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
        }
    }
}
PLACED = {
    "mlflow": {
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": AFFINITY,
        "podLabels": {"team": "ml"},
        "podAnnotations": {"a/b": "c"},
        "environment": {"HTTPS_PROXY": "http://proxy:3128"},
    }
}
RDMA = {
    "nodeGroups": [
        {
            **GROUP,
            "annotations": {"k8s.v1.cni.cncf.io/networks": "rdma"},
            "resources": {"vpc.amazonaws.com/efa": 4},
            "podLabels": {"network": "fabric"},
            "environment": {"FI_PROVIDER": "efa", "A": "the group's"},
        }
    ],
    "jobs": {
        "environment": {"A": "the job's"},
        "claims": [
            {"claim": "images", "path": "/sets/images"},
            {"claim": "s", "path": "/s", "readOnly": False},
        ],
    },
    "head": {"podLabels": {"team": "a"}, "annotations": {"a/b": "c"}},
}


class Has:
    """Expect that a text or a list holds this."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return all(part in other for part in self.parts)  # type: ignore[operator]

    def __repr__(self) -> str:
        return f"Has{self.parts}"


class Lacks(Has):
    """Expect that a text or a list doesn't hold this."""

    def __eq__(self, other: object) -> bool:
        return not any(part in other for part in self.parts)  # type: ignore[operator]


class Case(NamedTuple):
    """``path`` leads to ``expected`` in the object; ABSENT: there is no such path, or no such object."""

    should: str
    values: Values
    kind: str
    name: str
    path: str
    expected: Any


def reach(o: Object | None, path: str) -> Any:
    """The value at a path whose steps are keys, list positions or ``name=…`` of a list's item."""
    value: Any = o
    steps = path.split("/") if path else []
    while steps:
        step = steps.pop(0)
        if isinstance(value, list):
            if "=" in step:
                key, wanted = step.split("=", 1)
                value = next((item for item in value if item.get(key) == wanted), None)
            else:
                value = value[int(step)] if int(step) < len(value) else None
        elif isinstance(value, dict):
            # A key may hold slashes itself, as annotations do.
            while step not in value and steps:
                step = f"{step}/{steps.pop(0)}"
            value = value.get(step, ABSENT)
        else:
            return ABSENT
        if value is None or value is ABSENT:
            return ABSENT
    return value


CASES = [
    # Names and labels
    Case("name all after the release", {}, "Service", "train-mlflow", "metadata/name", "train-mlflow"),
    Case("use fullnameOverride", {"fullnameOverride": "ai"}, "Service", "ai-mlflow", "metadata/name", "ai-mlflow"),
    Case("label with the release", {}, "Role", "train-submitter", "metadata/labels/app.kubernetes.io/instance", "train"),
    Case("label as part of trainwright", {}, "Secret", "train-ray-token", "metadata/labels/app.kubernetes.io/part-of", "trainwright"),
    Case("put objects into the release's namespace", {}, "Role", "train-submitter", "metadata/namespace", "training"),
    # Namespace
    Case("leave the Namespace alone by default", {}, "Namespace", "training", "", ABSENT),
    Case("enforce restricted on the Namespace", {"namespace": {"create": True}}, "Namespace", "training", "metadata/labels/pod-security.kubernetes.io/enforce", "restricted"),
    Case("enforce baseline if asked", {"namespace": {"create": True, "podSecurity": "baseline"}}, "Namespace", "training", "metadata/labels/pod-security.kubernetes.io/enforce", "baseline"),
    Case("warn at restricted even with baseline", {"namespace": {"create": True, "podSecurity": "baseline"}}, "Namespace", "training", "metadata/labels/pod-security.kubernetes.io/warn", "restricted"),
    Case("keep the Namespace on uninstall", {"namespace": {"create": True}}, "Namespace", "training", "metadata/annotations/helm.sh/resource-policy", "keep"),
    # ServiceAccounts and RBAC
    Case("make a ServiceAccount for jobs", {}, "ServiceAccount", "train-jobs", "automountServiceAccountToken", False),
    Case("make a ServiceAccount for MLflow", {}, "ServiceAccount", "train-mlflow", "automountServiceAccountToken", False),
    Case("make a ServiceAccount for submitters", {}, "ServiceAccount", "train-submitter", "automountServiceAccountToken", True),
    Case("annotate the jobs' ServiceAccount", {"jobs": {"serviceAccountAnnotations": {"a/b": "c"}}}, "ServiceAccount", "train-jobs", "metadata/annotations/a/b", "c"),
    Case("annotate MLflow's ServiceAccount", {"mlflow": {"serviceAccountAnnotations": {"a/b": "c"}}}, "ServiceAccount", "train-mlflow", "metadata/annotations/a/b", "c"),
    Case("make no ServiceAccount for an absent MLflow", {"mlflow": {"enabled": False}}, "ServiceAccount", "train-mlflow", "", ABSENT),
    Case("make no ServiceAccount for jobs that have one", {"jobs": {"serviceAccount": "irsa"}}, "ServiceAccount", "train-jobs", "", ABSENT),
    Case("run jobs as an existing ServiceAccount", {"jobs": {"serviceAccount": "irsa"}}, *PROFILE, Has("service_account: irsa")),
    Case("run the interactive cluster as it, too", {**CLUSTER, "jobs": {"serviceAccount": "irsa"}}, "RayCluster", "train", f"{HEAD}/serviceAccountName", "irsa"),
    Case("make no ServiceAccount for an MLflow that has one", {"mlflow": {"serviceAccount": "mine"}}, "ServiceAccount", "train-mlflow", "", ABSENT),
    Case("run MLflow as an existing ServiceAccount", {"mlflow": {"serviceAccount": "mine"}}, "Deployment", "train-mlflow", "spec/template/spec/serviceAccountName", "mine"),
    Case("back up as an existing ServiceAccount", {"mlflow": {"serviceAccount": "mine"}}, "CronJob", "train-mlflow-backup", f"{BACKUP}/serviceAccountName", "mine"),
    Case("test as an existing ServiceAccount", {"mlflow": {"serviceAccount": "mine"}}, "Pod", "train-test", "spec/serviceAccountName", "mine"),
    # Registry
    Case("take the image from another registry", MIRRORED, *PROFILE, Has("image: mirror.example.com:5000/hub/trainwright:0.1.0")),
    Case("take MLflow's image from it", {**MIRRORED, "mlflow": {"image": OTHER_MLFLOW}}, "Deployment", "train-mlflow", f"{SERVER}/image", "mirror.example.com:5000/hub/team/m:1"),
    Case("take the backup's image from it", MIRRORED, "CronJob", "train-mlflow-backup", f"{BACKUP}/containers/0/image", "mirror.example.com:5000/hub/trainwright:0.1.0"),
    Case("take the test's image from it", MIRRORED, "Pod", "train-test", "spec/containers/0/image", "mirror.example.com:5000/hub/trainwright:0.1.0"),
    Case("take the image of the check before uninstall from it", MIRRORED, "Job", "train-before-uninstall", "spec/template/spec/containers/0/image", "mirror.example.com:5000/hub/trainwright:0.1.0"),
    Case("take the interactive cluster's image from it", {**MIRRORED, **CLUSTER}, "RayCluster", "train", f"{HEAD}/containers/0/image", "mirror.example.com:5000/hub/trainwright:0.1.0"),
    # An image that has only Ray
    Case("run Ray's own image", STOCK, *PROFILE, Has("image: docker.io/rayproject/ray:2.60.0-py311\n")),
    Case("run MLflow's own image", STOCK, "Deployment", "train-mlflow", f"{SERVER}/image", "ghcr.io/mlflow/mlflow:v3.17.2-full"),
    Case("run as the user of Ray's image", STOCK, *PROFILE, Has("user: 1000\n  group: 100\n")),
    Case("run MLflow in the same group, for the claim that both write", STOCK, "Deployment", "train-mlflow", "spec/template/spec/securityContext/fsGroup", 100),
    Case("claim a volume for packages", STOCK, "PersistentVolumeClaim", "train-packages", "spec/accessModes", ["ReadWriteMany"]),
    Case("claim none that is there already", merge(STOCK, {"packages": {"existingClaim": "c"}}), "PersistentVolumeClaim", "train-packages", "", ABSENT),
    Case("take the one that is there", merge(STOCK, {"packages": {"existingClaim": "c"}}), *PROFILE, Has("    claim: c\n  user")),
    Case("let each pod install for itself", merge(STOCK, {"packages": {"shared": False}}), *PROFILE, Lacks("claim: train-packages")),
    Case("claim no volume then", merge(STOCK, {"packages": {"shared": False}}), "PersistentVolumeClaim", "train-packages", "", ABSENT),
    Case("claim none by default", {}, "PersistentVolumeClaim", "train-packages", "", ABSENT),
    Case("install nothing by default", {}, *PROFILE, Lacks("packages:")),
    Case("let jobs reach the index", STOCK, "NetworkPolicy", "train-ray", "spec/egress", Has({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "TCP", "port": 443}]})),
    # Where MLflow runs
    Case("select MLflow's nodes", PLACED, "Deployment", "train-mlflow", "spec/template/spec/nodeSelector", {"pool": "system"}),
    Case("tolerate their taints", PLACED, "Deployment", "train-mlflow", "spec/template/spec/tolerations/0/key", "system"),
    Case("select the backup's nodes", PLACED, "CronJob", "train-mlflow-backup", f"{BACKUP}/nodeSelector", {"pool": "system"}),
    Case("tolerate the backup's taints", PLACED, "CronJob", "train-mlflow-backup", f"{BACKUP}/tolerations/0/key", "system"),
    Case("give MLflow an affinity", PLACED, "Deployment", "train-mlflow", "spec/template/spec/affinity", AFFINITY),
    Case("label MLflow's pods", PLACED, "Deployment", "train-mlflow", "spec/template/metadata/labels/team", "ml"),
    Case("leave MLflow's selector alone", PLACED, "Deployment", "train-mlflow", "spec/selector/matchLabels/team", ABSENT),
    Case("annotate MLflow's pods", PLACED, "Deployment", "train-mlflow", "spec/template/metadata/annotations/a/b", "c"),
    Case("give MLflow further variables", PLACED, "Deployment", "train-mlflow", f"{SERVER}/env/name=HTTPS_PROXY/value", "http://proxy:3128"),
    Case("select no nodes for MLflow by default", {}, "Deployment", "train-mlflow", "spec/template/spec/nodeSelector", ABSENT),
    # What a node group takes besides
    Case("pass on a group's further resources", RDMA, *PROFILE, Has("resources:\n      vpc.amazonaws.com/efa: 4")),
    Case("pass on a group's annotations", RDMA, *PROFILE, Has("annotations:\n      k8s.v1.cni.cncf.io/networks: rdma")),
    Case("take them in the interactive cluster", {**RDMA, **CLUSTER}, "RayCluster", "train", f"{WORKER}/template/spec/containers/0/resources/limits/vpc.amazonaws.com/efa", "4"),
    Case("annotate them in the interactive cluster", {**RDMA, **CLUSTER}, "RayCluster", "train", f"{WORKER}/template/metadata/annotations/k8s.v1.cni.cncf.io/networks", "rdma"),
    Case("pass on a group's labels", RDMA, *PROFILE, Has("pod_labels:\n      network: fabric")),
    Case("pass on a group's variables", RDMA, *PROFILE, Has("FI_PROVIDER: efa")),
    Case("pass on the head's labels and annotations", RDMA, *PROFILE, Has("annotations:\n    a/b: c\n  pod_labels:\n    team: a")),
    Case("label a group's pods in the interactive cluster", {**RDMA, **CLUSTER}, "RayCluster", "train", f"{WORKER}/template/metadata/labels/network", "fabric"),
    Case("label its head", {**RDMA, **CLUSTER}, "RayCluster", "train", "spec/headGroupSpec/template/metadata/labels/team", "a"),
    Case("set a group's variables in it", {**RDMA, **CLUSTER}, "RayCluster", "train", f"{WORKER}/template/spec/containers/0/env/name=FI_PROVIDER/value", "efa"),
    Case("let jobs' variables go before a group's", {**RDMA, **CLUSTER}, "RayCluster", "train", f"{WORKER}/template/spec/containers/0/env/name=A/value", "the job's"),
    Case("mount data sets to be read", RDMA, *PROFILE, Has("- claim: images\n      path: /sets/images\n      read_only: true")),
    Case("mount a claim to be written", RDMA, *PROFILE, Has("- claim: s\n      path: /s\n      read_only: false")),
    Case("mount data sets in the interactive cluster", {**RDMA, **CLUSTER}, "RayCluster", "train", f"{WORKER}/template/spec/containers/0/volumeMounts/name=claim-0/readOnly", True),
    Case("mount them on its head", {**RDMA, **CLUSTER}, "RayCluster", "train", f"{HEAD}/volumes/name=claim-1/persistentVolumeClaim/claimName", "s"),
    Case("bind the chart's submitter", {}, "RoleBinding", "train-submitter", "subjects/0/name", "train-submitter"),
    Case("bind a group", {"submitters": [{"kind": "Group", "name": "ds"}]}, "RoleBinding", "train-submitter", "subjects/1/apiGroup", "rbac.authorization.k8s.io"),
    Case("bind a ServiceAccount of another namespace", {"submitters": [{"kind": "ServiceAccount", "name": "ci", "namespace": "ci"}]}, "RoleBinding", "train-submitter", "subjects/1/namespace", "ci"),
    Case("bind a ServiceAccount of this namespace", {"submitters": [{"kind": "ServiceAccount", "name": "ci"}]}, "RoleBinding", "train-submitter", "subjects/1/namespace", "training"),
    Case("render no rule for Kueue without a queue", {}, "Role", "train-submitter", "rules/7", ABSENT),
    Case("render a rule for Kueue with a queue", {"jobs": {"queue": "q"}}, "Role", "train-submitter", "rules/7/apiGroups", ["kueue.x-k8s.io"]),
    # Secrets
    Case("generate Ray's token", {}, "Secret", "train-ray-token", "type", "Opaque"),
    Case("keep Ray's token on uninstall", {}, "Secret", "train-ray-token", "metadata/annotations/helm.sh/resource-policy", "keep"),
    Case("render no token when there is one", {"rayToken": {"existingSecret": "t"}}, "Secret", "train-ray-token", "", ABSENT),
    Case("name the administrator admin", {}, "Secret", "train-mlflow-admin", "data/username", "YWRtaW4="),
    Case("keep the administrator on uninstall", {}, "Secret", "train-mlflow-admin", "metadata/annotations/helm.sh/resource-policy", "keep"),
    Case("render no administrator when there is one", {"mlflow": {"existingSecret": "m"}}, "Secret", "train-mlflow-admin", "", ABSENT),
    Case("render no administrator without auth", {"mlflow": {"auth": False}}, "Secret", "train-mlflow-admin", "", ABSENT),
    Case("make a user for jobs", {}, "Secret", "train-mlflow-jobs", "data/username", "am9icw=="),
    Case("render no user for jobs when there is one", {"jobs": {"mlflowSecret": "j"}}, "Secret", "train-mlflow-jobs", "", ABSENT),
    Case("render no user for jobs without MLflow", {"mlflow": {"enabled": False}}, "Secret", "train-mlflow-jobs", "", ABSENT),
    # Storage
    Case("claim shared storage", {}, "PersistentVolumeClaim", "train-storage", "spec/accessModes", ["ReadWriteMany"]),
    Case("keep the storage on uninstall", {}, "PersistentVolumeClaim", "train-storage", "metadata/annotations/helm.sh/resource-policy", "keep"),
    Case("set the storage's size", {"storage": {"size": "2Ti"}}, "PersistentVolumeClaim", "train-storage", "spec/resources/requests/storage", "2Ti"),
    Case("leave the StorageClass to the cluster", {}, "PersistentVolumeClaim", "train-storage", "spec/storageClassName", ABSENT),
    Case("set the StorageClass", {"storage": {"storageClass": "efs"}}, "PersistentVolumeClaim", "train-storage", "spec/storageClassName", "efs"),
    Case("set the access mode", {"storage": {"accessMode": "ReadWriteOnce"}}, "PersistentVolumeClaim", "train-storage", "spec/accessModes", ["ReadWriteOnce"]),
    Case("claim nothing with object storage", S3, "PersistentVolumeClaim", "train-storage", "", ABSENT),
    Case("claim nothing with an existing claim", {"storage": {"existingClaim": "x"}}, "PersistentVolumeClaim", "train-storage", "", ABSENT),
    Case("claim a volume for MLflow", {}, "PersistentVolumeClaim", "train-mlflow", "spec/accessModes", ["ReadWriteOnce"]),
    Case("set MLflow's volume size", {"mlflow": {"size": "1Ti"}}, "PersistentVolumeClaim", "train-mlflow", "spec/resources/requests/storage", "1Ti"),
    Case("set MLflow's StorageClass", {"mlflow": {"storageClass": "ssd"}}, "PersistentVolumeClaim", "train-mlflow", "spec/storageClassName", "ssd"),
    Case("claim no MLflow volume with PostgreSQL and S3", SCALED, "PersistentVolumeClaim", "train-mlflow", "", ABSENT),
    Case("claim no MLflow volume with an existing claim", {"mlflow": {"existingClaim": "m"}}, "PersistentVolumeClaim", "train-mlflow", "", ABSENT),
    # MLflow's Deployment
    Case("render no server when off", {"mlflow": {"enabled": False}}, "Deployment", "train-mlflow", "", ABSENT),
    Case("run one server", {}, "Deployment", "train-mlflow", "spec/replicas", 1),
    Case("recreate with a volume", {}, "Deployment", "train-mlflow", "spec/strategy/type", "Recreate"),
    Case("recreate with PostgreSQL and artifacts on a volume", POSTGRES, "Deployment", "train-mlflow", "spec/strategy/type", "Recreate"),
    Case("roll without a volume", SCALED, "Deployment", "train-mlflow", "spec/strategy/type", "RollingUpdate"),
    Case("run three servers", SCALED, "Deployment", "train-mlflow", "spec/replicas", 3),
    Case("spread three servers", SCALED, "Deployment", "train-mlflow", "spec/template/spec/topologySpreadConstraints/0/topologyKey", "kubernetes.io/hostname"),
    Case("not spread one server", {}, "Deployment", "train-mlflow", "spec/template/spec/topologySpreadConstraints", ABSENT),
    Case("run the image", {}, "Deployment", "train-mlflow", f"{SERVER}/image", "registry.example.com/trainwright:0.1.0"),
    Case("run the server's own image", {"mlflow": {"image": OTHER_MLFLOW}}, "Deployment", "train-mlflow", f"{SERVER}/image", "r.example.com/team/m:1"),
    Case("run a tag", {"image": {"repository": "t", "tag": "v2"}}, *PROFILE, Has("image: t:v2\n")),
    Case("run a digest", {"image": {"registry": "r:5000", "repository": "t", "digest": DIGEST}}, *PROFILE, Has(f"image: r:5000/t@{DIGEST}\n")),
    Case("run MLflow by digest", {"mlflow": {"image": {"repository": "m", "digest": DIGEST}}}, "Deployment", "train-mlflow", f"{SERVER}/image", f"m@{DIGEST}"),
    Case("pull if not present", {}, "Deployment", "train-mlflow", f"{SERVER}/imagePullPolicy", "IfNotPresent"),
    Case("pull always if asked", {"imagePullPolicy": "Always"}, "Deployment", "train-mlflow", f"{SERVER}/imagePullPolicy", "Always"),
    Case("pull with secrets", {"imagePullSecrets": ["r"]}, "Deployment", "train-mlflow", "spec/template/spec/imagePullSecrets/0/name", "r"),
    Case("pull without secrets by default", {}, "Deployment", "train-mlflow", "spec/template/spec/imagePullSecrets", ABSENT),
    Case("run as MLflow's ServiceAccount", {}, "Deployment", "train-mlflow", "spec/template/spec/serviceAccountName", "train-mlflow"),
    Case("mount no API token", {}, "Deployment", "train-mlflow", "spec/template/spec/automountServiceAccountToken", False),
    Case("hide services from the environment", {}, "Deployment", "train-mlflow", "spec/template/spec/enableServiceLinks", False),
    Case("serve artifacts by proxy", {}, "Deployment", "train-mlflow", f"{SERVER}/args", Has("--serve-artifacts", "--artifacts-destination=/mlflow/artifacts")),
    Case("keep artifacts in S3", SCALED, "Deployment", "train-mlflow", f"{SERVER}/args", Has("--artifacts-destination=s3://bucket/mlflow")),
    Case("set the workers", {"mlflow": {"workers": 7}}, "Deployment", "train-mlflow", f"{SERVER}/args", Has("--workers=7")),
    Case("expose metrics", {}, "Deployment", "train-mlflow", f"{SERVER}/args", Has("--expose-prometheus=/tmp/metrics")),
    Case("expose no metrics without monitoring", {"monitoring": {"enabled": False}}, "Deployment", "train-mlflow", f"{SERVER}/args", Lacks("--expose-prometheus=/tmp/metrics")),
    Case("turn job execution off", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_SERVER_ENABLE_JOB_EXECUTION/value", "false"),
    Case("turn telemetry off", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_DISABLE_TELEMETRY/value", "true"),
    Case("use SQLite on the volume", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_BACKEND_STORE_URI/value", "sqlite:////mlflow/mlflow.db"),
    Case("say nothing of the database with PostgreSQL", POSTGRES, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_BACKEND_STORE_URI", ABSENT),
    Case("mount the database's Secret", POSTGRES, "Deployment", "train-mlflow", "spec/template/spec/volumes/name=database/secret/secretName", "database"),
    Case("mount the administrator's Secret", {}, "Deployment", "train-mlflow", "spec/template/spec/volumes/name=admin/secret/secretName", "train-mlflow-admin"),
    Case("mount an existing administrator's Secret", {"mlflow": {"existingSecret": "m"}}, "Deployment", "train-mlflow", "spec/template/spec/volumes/name=admin/secret/secretName", "m"),
    Case("let only owner and group read Secrets", {}, "Deployment", "train-mlflow", "spec/template/spec/volumes/name=admin/secret/defaultMode", 0o440),
    Case("mount no Secret without auth", {"mlflow": {"auth": False}}, "Deployment", "train-mlflow", "spec/template/spec/volumes/name=admin", ABSENT),
    Case("turn auth on", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=TRAINWRIGHT_MLFLOW_AUTH/value", "true"),
    Case("turn auth off", {"mlflow": {"auth": False}}, "Deployment", "train-mlflow", f"{SERVER}/env/name=TRAINWRIGHT_MLFLOW_AUTH/value", "false"),
    Case("let jobs edit what submitters made", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=TRAINWRIGHT_DEFAULT_PERMISSION/value", "EDIT"),
    Case("give artifact credentials", {"mlflow": {"artifacts": "s3://bucket/m", "artifactsSecret": "c"}}, "Deployment", "train-mlflow", f"{SERVER}/envFrom/0/secretRef/name", "c"),
    Case("allow the short Service name", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_SERVER_ALLOWED_HOSTS/value", Has("train-mlflow,", "train-mlflow:5000")),
    Case("allow the full Service name", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_SERVER_ALLOWED_HOSTS/value", Has("train-mlflow.training.svc.cluster.local,", "train-mlflow.training.svc.cluster.local:5000")),
    Case("allow the address that Prometheus scrapes", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_SERVER_ALLOWED_HOSTS/value", Has("$(POD_IP):5000")),
    Case("allow the Ingress", INGRESS, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_SERVER_ALLOWED_HOSTS/value", Has("mlflow.example.com,", "mlflow.example.com:443")),
    Case("allow further hosts", {"mlflow": {"allowedHosts": ["m.internal:80"]}}, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_SERVER_ALLOWED_HOSTS/value", Has("m.internal:80")),
    Case("never allow all hosts", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_SERVER_ALLOWED_HOSTS/value", Lacks(",*,")),
    Case("allow the Ingress's origin", INGRESS, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_SERVER_CORS_ALLOWED_ORIGINS/value", "https://mlflow.example.com"),
    Case("allow no other origin by default", {}, "Deployment", "train-mlflow", f"{SERVER}/env/name=MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", ABSENT),
    Case("probe what needs no password", {}, "Deployment", "train-mlflow", f"{SERVER}/livenessProbe/httpGet/path", "/health"),
    Case("wait five minutes for the start", {}, "Deployment", "train-mlflow", f"{SERVER}/startupProbe/failureThreshold", 60),
    Case("set memory request and limit alike", {}, "Deployment", "train-mlflow", f"{SERVER}/resources/limits/memory", "2Gi"),
    Case("bound ephemeral storage", {}, "Deployment", "train-mlflow", f"{SERVER}/resources/limits/ephemeral-storage", "4Gi"),
    Case("make the root file system read-only", {}, "Deployment", "train-mlflow", f"{SERVER}/securityContext/readOnlyRootFilesystem", True),
    Case("run as a fixed user", {}, "Deployment", "train-mlflow", "spec/template/spec/securityContext/runAsUser", 10001),
    # Service, PDB, Ingress, backup
    Case("keep the Service inside", {}, "Service", "train-mlflow", "spec/type", "ClusterIP"),
    Case("serve on 5000", {}, "Service", "train-mlflow", "spec/ports/0/port", 5000),
    Case("render no Service when off", {"mlflow": {"enabled": False}}, "Service", "train-mlflow", "", ABSENT),
    Case("let one pod leave at a time", {}, "PodDisruptionBudget", "train-mlflow", "spec/maxUnavailable", 1),
    Case("render no budget when off", {"mlflow": {"enabled": False}}, "PodDisruptionBudget", "train-mlflow", "", ABSENT),
    Case("render no Ingress by default", {}, "Ingress", "train-mlflow", "", ABSENT),
    Case("terminate TLS", INGRESS, "Ingress", "train-mlflow", "spec/tls/0/secretName", "tls"),
    Case("route the host", INGRESS, "Ingress", "train-mlflow", "spec/rules/0/host", "mlflow.example.com"),
    Case("set the IngressClass", INGRESS, "Ingress", "train-mlflow", "spec/ingressClassName", "nginx"),
    Case("back SQLite up", {}, "CronJob", "train-mlflow-backup", "spec/schedule", "17 3 * * *"),
    Case("never run two backups", {}, "CronJob", "train-mlflow-backup", "spec/concurrencyPolicy", "Forbid"),
    Case("back up next to the checkpoints", {}, "CronJob", "train-mlflow-backup", f"{BACKUP}/containers/0/args/1", "/storage/backups/train-mlflow"),
    Case("back up to the volume with object storage", S3, "CronJob", "train-mlflow-backup", f"{BACKUP}/containers/0/args/1", "/mlflow/backups"),
    Case("keep as many backups as asked", {"mlflow": {"backupsKept": 30}}, "CronJob", "train-mlflow-backup", f"{BACKUP}/containers/0/args/2", "30"),
    Case("back up on the server's node", {}, "CronJob", "train-mlflow-backup", f"{BACKUP}/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/topologyKey", "kubernetes.io/hostname"),
    Case("render no backup with PostgreSQL", POSTGRES, "CronJob", "train-mlflow-backup", "", ABSENT),
    Case("render no backup without a schedule", {"mlflow": {"backupSchedule": ""}}, "CronJob", "train-mlflow-backup", "", ABSENT),
    # Quotas
    Case("limit the CPUs", {}, "ResourceQuota", "train", "spec/hard/requests.cpu", "62"),
    Case("limit the memory", {}, "ResourceQuota", "train", "spec/hard/limits.memory", "190464Mi"),
    Case("count what runs beside a head", {"jobs": {"maxConcurrent": 40}}, "ResourceQuota", "train", "spec/hard/limits.cpu", "152"),
    Case("allow no GPU without a GPU group", {}, "ResourceQuota", "train", "spec/hard/requests.nvidia.com/gpu", "0"),
    Case("count the groups' GPUs", GPU, "ResourceQuota", "train", "spec/hard/requests.nvidia.com/gpu", "6"),
    Case("replace a limit", {"quota": {"hard": {"requests.cpu": 7}}}, "ResourceQuota", "train", "spec/hard/requests.cpu", "7"),
    Case("forbid load balancers", {}, "ResourceQuota", "train", "spec/hard/services.loadbalancers", "0"),
    Case("render no quota when off", {"quota": {"enabled": False}}, "ResourceQuota", "train", "", ABSENT),
    Case("give limits to containers without", {}, "LimitRange", "train", "spec/limits/0/default/memory", "1Gi"),
    Case("request no more memory than a small limit", {"limitRange": {"memory": "128Mi"}}, "LimitRange", "train", "spec/limits/0/defaultRequest/memory", "128Mi"),
    Case("request no more CPU than a small limit", {"limitRange": {"cpu": "50m"}}, "LimitRange", "train", "spec/limits/0/defaultRequest/cpu", "50m"),
    Case("request as much as before where the limit is large", {"limitRange": {"cpu": 2}}, "LimitRange", "train", "spec/limits/0/defaultRequest/cpu", "100m"),
    Case("render no LimitRange when off", {"limitRange": {"enabled": False}}, "LimitRange", "train", "", ABSENT),
    Case("render no PriorityClass by default", {}, "PriorityClass", "train-urgent", "", ABSENT),
    Case("let an urgent job preempt", PRIORITY, "PriorityClass", "train-urgent", "preemptionPolicy", "PreemptLowerPriority"),
    Case("not let others preempt", PRIORITY, "PriorityClass", "train-low", "preemptionPolicy", "Never"),
    Case("set a negative priority", PRIORITY, "PriorityClass", "train-low", "value", -5),
    # Kueue
    Case("render no queue by default", {}, "LocalQueue", "train", "", ABSENT),
    Case("make a LocalQueue", KUEUE, "LocalQueue", "train", "spec/clusterQueue", "train"),
    Case("use Kueue's newest API", KUEUE, "LocalQueue", "train", "apiVersion", "kueue.x-k8s.io/v1beta2"),
    Case("admit this namespace only", KUEUE, "ClusterQueue", "train", "spec/namespaceSelector/matchLabels", {"kubernetes.io/metadata.name": "training"}),
    Case("count a group's GPUs", {**KUEUE, **GPU}, "ClusterQueue", "train", "spec/resourceGroups/0/flavors/name=train-gpu/resources/2/nominalQuota", 6),
    Case("count the heads", KUEUE, "ClusterQueue", "train", "spec/resourceGroups/0/flavors/name=train-heads/resources/name=cpu/nominalQuota", 30),
    Case("preempt lower priorities", KUEUE, "ClusterQueue", "train", "spec/preemption/withinClusterQueue", "LowerPriority"),
    Case("not preempt if asked", {"kueue": {"enabled": True, "preemption": False}}, "ClusterQueue", "train", "spec/preemption/withinClusterQueue", "Never"),
    Case("select a group's nodes", {**KUEUE, **GPU}, "ResourceFlavor", "train-gpu", "spec/nodeLabels", {"pool": "gpu"}),
    Case("tolerate a group's taints", {**KUEUE, **GPU}, "ResourceFlavor", "train-gpu", "spec/tolerations/0/key", "nvidia.com/gpu"),
    # Interactive cluster
    Case("render no RayCluster by default", {}, "RayCluster", "train", "", ABSENT),
    Case("ask for a token", CLUSTER, "RayCluster", "train", "spec/authOptions", {"mode": "token", "secretName": "train-ray-token"}),
    Case("use an existing token", {**CLUSTER, "rayToken": {"existingSecret": "t"}}, "RayCluster", "train", "spec/authOptions/secretName", "t"),
    Case("state Ray's version", CLUSTER, "RayCluster", "train", "spec/rayVersion", "2.60.0"),
    Case("keep the head's Service inside", CLUSTER, "RayCluster", "train", "spec/headGroupSpec/serviceType", "ClusterIP"),
    Case("schedule no work on the head", CLUSTER, "RayCluster", "train", "spec/headGroupSpec/rayStartParams/num-cpus", "0"),
    Case("declare no port for Ray Client", CLUSTER, "RayCluster", "train", f"{HEAD}/containers/0/ports", Lacks({"name": "client", "containerPort": 10001})),
    Case("run as the jobs' ServiceAccount", CLUSTER, "RayCluster", "train", f"{HEAD}/serviceAccountName", "train-jobs"),
    Case("mount no API token without autoscaling", CLUSTER, "RayCluster", "train", f"{HEAD}/automountServiceAccountToken", False),
    Case("mount the API token beside the autoscaler", AUTOSCALED, "RayCluster", "train", f"{HEAD}/automountServiceAccountToken", True),
    Case("never mount the API token on workers", AUTOSCALED, "RayCluster", "train", f"{WORKER}/template/spec/automountServiceAccountToken", False),
    Case("secure the autoscaler", AUTOSCALED, "RayCluster", "train", "spec/autoscalerOptions/securityContext/allowPrivilegeEscalation", False),
    Case("set the group's bounds", GPU_CLUSTER, "RayCluster", "train", f"{WORKER}/maxReplicas", 3),
    Case("start the group's least", GPU_CLUSTER, "RayCluster", "train", f"{WORKER}/replicas", 1),
    Case("ask for GPUs", GPU_CLUSTER, "RayCluster", "train", f"{WORKER}/template/spec/containers/0/resources/limits/nvidia.com/gpu", "2"),
    Case("ask for no GPUs without", CLUSTER, "RayCluster", "train", f"{WORKER}/template/spec/containers/0/resources/limits/nvidia.com/gpu", ABSENT),
    Case("select the group's nodes", GPU_CLUSTER, "RayCluster", "train", f"{WORKER}/template/spec/nodeSelector", {"pool": "gpu"}),
    Case("tolerate the group's taints", GPU_CLUSTER, "RayCluster", "train", f"{WORKER}/template/spec/tolerations/0/key", "nvidia.com/gpu"),
    Case("spread spot workers over zones", GPU_CLUSTER, "RayCluster", "train", f"{WORKER}/template/spec/topologySpreadConstraints/0/topologyKey", "topology.kubernetes.io/zone"),
    Case("not spread workers that stay", CLUSTER, "RayCluster", "train", f"{WORKER}/template/spec/topologySpreadConstraints", ABSENT),
    Case("size shared memory from the memory", CLUSTER, "RayCluster", "train", f"{WORKER}/template/spec/volumes/name=shm/emptyDir/sizeLimit", "4915Mi"),
    Case("mount the storage", CLUSTER, "RayCluster", "train", f"{WORKER}/template/spec/volumes/name=storage/persistentVolumeClaim/claimName", "train-storage"),
    Case("mount no storage with object storage", {**CLUSTER, **S3}, "RayCluster", "train", f"{WORKER}/template/spec/volumes/name=storage", ABSENT),
    # Network
    Case("deny by default", {}, "NetworkPolicy", "train-default-deny", "spec/policyTypes", ["Ingress", "Egress"]),
    Case("render no policy when off", {"networkPolicy": {"enabled": False}}, "NetworkPolicy", "train-default-deny", "", ABSENT),
    Case("let a foreign operator in", OWN_OPERATOR, "NetworkPolicy", "train-dashboard", "spec/ingress/0/from/0/namespaceSelector/matchLabels", {"kubernetes.io/metadata.name": "kuberay-operator"}),
    Case("render no policy for a foreign operator's pod", OWN_OPERATOR, "NetworkPolicy", "train-operator", "", ABSENT),
    Case("render no policy for an absent autoscaler", {}, "NetworkPolicy", "train-autoscaler", "", ABSENT),
    Case("render no policy for absent metrics", {"monitoring": {"enabled": False}}, "NetworkPolicy", "train-metrics", "", ABSENT),
    Case("render no policy for an absent MLflow", {"mlflow": {"enabled": False}}, "NetworkPolicy", "train-mlflow", "", ABSENT),
    Case("give MLflow no way out with SQLite", {}, "NetworkPolicy", "train-mlflow", "spec/egress", ABSENT),
    # Observability
    Case("ship the runs dashboard", {}, "ConfigMap", "train-dashboard-runs", "metadata/labels/grafana_dashboard", "1"),
    Case("ship the platform dashboard", {}, "ConfigMap", "train-dashboard-platform", "data/trainwright-platform.json", Has('service=\\"train-mlflow\\"', 'namespace=\\"training\\"')),
    Case("render no dashboard when off", {"monitoring": {"dashboards": False}}, "ConfigMap", "train-dashboard-runs", "", ABSENT),
    Case("scrape MLflow as its administrator", {}, "ServiceMonitor", "train-mlflow", "spec/endpoints/0/basicAuth/username/name", "train-mlflow-admin"),
    Case("scrape an open MLflow without a user", {"mlflow": {"auth": False}}, "ServiceMonitor", "train-mlflow", "spec/endpoints/0/basicAuth", ABSENT),
    Case("scrape every Ray node", {}, "PodMonitor", "train-ray", "spec/selector/matchLabels", {"ray.io/is-ray-node": "yes"}),
    Case("set the interval", {"monitoring": {"interval": "5s"}}, "PodMonitor", "train-ray", "spec/podMetricsEndpoints/0/interval", "5s"),
    Case("label monitors", {"monitoring": {"labels": {"release": "p"}}}, "PodMonitor", "train-ray", "metadata/labels/release", "p"),
    Case("label rules", {"monitoring": {"labels": {"release": "p"}}}, "PrometheusRule", "train", "metadata/labels/release", "p"),
    Case("set the stall threshold", {"monitoring": {"stalledSeconds": 60}}, "PrometheusRule", "train", "spec/groups/0/rules/alert=TrainwrightRunStalled/expr", Has("> 60")),
    Case("set the restart threshold", {"monitoring": {"restartsPerHour": 9}}, "PrometheusRule", "train", "spec/groups/0/rules/alert=TrainwrightRestartLoop/expr", Has("> 9")),
    Case("set the checkpoint threshold", {"monitoring": {"checkpointAgeSeconds": 99}}, "PrometheusRule", "train", "spec/groups/0/rules/alert=TrainwrightCheckpointTooOld/expr", Has("> 99")),
    Case("set the idle threshold", {"monitoring": {"gpuIdlePercent": 20}}, "PrometheusRule", "train", "spec/groups/0/rules/alert=TrainwrightGpuIdle/expr", Has("< 20")),
    Case("watch MLflow", {}, "PrometheusRule", "train", "spec/groups/0/rules/alert=TrainwrightMlflowDown/labels/severity", "critical"),
    Case("not watch an absent MLflow", {"mlflow": {"enabled": False}}, "PrometheusRule", "train", "spec/groups/0/rules/alert=TrainwrightMlflowDown", ABSENT),
    Case("render no ServiceMonitor when off", {"monitoring": {"enabled": False}}, "ServiceMonitor", "train-mlflow", "", ABSENT),
    # Profile
    Case("name the profile after the release", {}, *PROFILE, Has("name: train\n")),
    Case("print the ingress as the link to MLflow", INGRESS, *PROFILE, Has("mlflow_ui: https://mlflow.example.com\n")),
    Case("open the dashboards' Secrets by name alone", {}, "Role", "train-dashboards", "rules/3/resourceNames", ["train-ray-token", "train-mlflow-jobs"]),
    Case("open no Secret of MLflow's without MLflow", {"mlflow": {"enabled": False}}, "Role", "train-dashboards", "rules/2/resourceNames", ["train-ray-token"]),
    Case("let dashboards be forwarded", {}, "Role", "train-dashboards", "rules/1", {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create", "get"]}),
    Case("point the profile at MLflow", {}, *PROFILE, Has("mlflow: http://train-mlflow.training.svc:5000\n")),
    Case("point the profile at a foreign MLflow", {"mlflow": {"enabled": False, "externalUri": "https://m"}}, *PROFILE, Has("mlflow: https://m\n")),
    Case("say nothing of an absent MLflow", {"mlflow": {"enabled": False}}, *PROFILE, Lacks("mlflow")),
    Case("name no MLflow user without auth", {"mlflow": {"auth": False}}, *PROFILE, Lacks("mlflow_secret")),
    Case("queue jobs in the chart's queue", KUEUE, *PROFILE, Has("queue: train\n")),
    Case("queue jobs in another queue", {"jobs": {"queue": "theirs"}}, *PROFILE, Has("queue: theirs\n")),
    Case("queue no jobs by default", {}, *PROFILE, Lacks("queue:")),
    Case("store in S3", S3, *PROFILE, Has("storage: s3://bucket/runs\n")),
    Case("name no claim with S3", S3, *PROFILE, Lacks("storage_claim")),
    # helm test
    Case("check MLflow by helm test", {}, "Pod", "train-test", "metadata/annotations/helm.sh/hook", "test"),
    Case("render no test when off", {"mlflow": {"enabled": False}}, "Pod", "train-test", "", ABSENT),
]  # fmt: skip


def test_there_are_at_least_120_cases():
    assert len(CASES) >= 120
    assert len({case.should for case in CASES}) == len(CASES), "two cases say the same"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"Should {case.should}")
def test_should(case):
    objects = render(case.values, api_versions=(MONITORING,))
    found = find(objects, case.kind, case.name)
    if not case.path:
        assert found is None, f"{case.kind} {case.name} is there"
        return
    assert found is not None, f"{case.kind} {case.name} is missing"
    value = reach(found, case.path)
    assert case.expected == value, f"{case.kind}/{case.name} {case.path} is {value!r}"


def test_should_render_no_monitor_without_the_prometheus_operator():
    kinds = {o["kind"] for o in render()}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


def test_should_use_kueues_older_api_where_the_newer_is_missing():
    objects = render(KUEUE, api_versions=("kueue.x-k8s.io/v1beta1",))
    assert find(objects, "ClusterQueue", "train")["apiVersion"] == "kueue.x-k8s.io/v1beta1"


def test_should_shorten_long_release_names():
    objects = render(release="a" * 53)
    assert all(len(o["metadata"]["name"]) <= 63 for o in objects)
    assert find(objects, "Service", "a" * 40 + "-mlflow")


def test_should_follow_the_releases_namespace():
    objects = render(namespace="elsewhere")
    assert {o["metadata"].get("namespace", "elsewhere") for o in objects} == {"elsewhere"}


def test_should_install_anew_where_what_is_installed_changes_and_only_then():
    def key(values):
        return profile_of(render(values)).kubernetes.packages.key

    assert key(STOCK) == key(merge(STOCK, {"packages": {"indexUrl": "https://i.example.com/simple"}}))
    others = (
        merge(STOCK, {"packages": {"requirements": STOCK["packages"]["requirements"] + "# more\n"}}),
        merge(STOCK, {"image": {"registry": "mirror.example.com"}}),
    )
    assert len({key(STOCK), *map(key, others)}) == 3


def test_should_tell_pip_the_indexes_and_where_the_wheel_is():
    (config,) = [
        o for o in render(STOCK) if o["kind"] == "ConfigMap" and "-packages-" in o["metadata"]["name"]
    ]
    assert config["immutable"] is True
    told = ConfigParser()
    told.read_string(config["data"]["pip.conf"])
    assert dict(told["global"]) == {
        "index-url": "https://pypi.org/simple",
        "extra-index-url": "\nhttps://download.pytorch.org/whl/cpu",
        "find-links": "/etc/trainwright/packages",
    }
    assert config["data"]["requirements.txt"] == STOCK["packages"]["requirements"]
