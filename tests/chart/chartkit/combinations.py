"""Value combinations that the chart is rendered with: every storage with every MLflow with every set of extras."""

from __future__ import annotations

from chartkit.helm import CHART, KUBE_VERSIONS, MONITORING, Object, Values, merge, render, values_file

GPU_GROUPS = [
    {"name": "cpu", "cpus": 4, "memory": "16Gi", "max": 4},
    {
        "name": "h100",
        "cpus": 64,
        "memory": "1Ti",
        "gpus": 8,
        "acceleratorType": "H100",
        "min": 1,
        "max": 4,
        "spot": True,
        "labels": {"pool": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "sharedMemory": "256Gi",
    },
]

STORAGE: dict[str, Values] = {
    "claim": {},
    "existing-claim": {"storage": {"existingClaim": "shared"}},
    "s3": {"storage": {"url": "s3://bucket/runs", "existingSecret": "storage-credentials"}},
    "gcs": {
        "storage": {"url": "gs://bucket/runs"},
        "jobs": {"serviceAccountAnnotations": {"iam.gke.io/gcp-service-account": "jobs@p.iam.example.com"}},
    },
}

MLFLOW: dict[str, Values] = {
    "sqlite": {},
    "postgres": {"mlflow": {"databaseSecret": "database"}},
    "postgres-s3": {
        "mlflow": {"replicas": 3, "databaseSecret": "database", "artifacts": "s3://bucket/mlflow"}
    },
    "no-auth": {"mlflow": {"auth": False, "backupSchedule": ""}},
    "external": {"mlflow": {"enabled": False, "externalUri": "https://mlflow.example.com"}},
    "none": {"mlflow": {"enabled": False}},
}

EXTRAS: dict[str, Values] = {
    "plain": {},
    "queued": {
        "nodeGroups": GPU_GROUPS,
        "kueue": {"enabled": True},
        "priorityClasses": [{"name": "urgent", "value": 1000, "preempt": True}],
        "submitters": [{"kind": "Group", "name": "data-science"}],
    },
    "interactive": {
        "nodeGroups": GPU_GROUPS,
        "rayCluster": {"enabled": True},
        "jobs": {"autoscaling": True, "environment": {"NCCL_DEBUG": "WARN"}},
        "imagePullSecrets": ["registry"],
        "kuberay-operator": {"enabled": False},
    },
    "bare": {
        "networkPolicy": {"enabled": False},
        "quota": {"enabled": False},
        "limitRange": {"enabled": False},
        "monitoring": {"enabled": False},
        "namespace": {"create": True},
    },
}

COMBINATIONS: dict[str, Values] = {
    f"{storage}/{mlflow}/{extras}": merge(merge(STORAGE[storage], MLFLOW[mlflow]), EXTRAS[extras])
    for storage in STORAGE
    for mlflow in MLFLOW
    for extras in EXTRAS
}

REQUIREMENTS = f"# for Python 3.11 on x86_64\nray==2.60.0 --hash=sha256:{'a' * 64}\n"
# What a preset takes besides itself.
TAKES: dict[str, Values] = {
    "presets/stock-image.yaml": {"packages": {"requirements": REQUIREMENTS, "wheelConfigMap": "wheel"}}
}

FILES: dict[str, Values] = {
    (name := path.relative_to(CHART).as_posix()): merge(values_file(name), TAKES.get(name, {}))
    for folder in ("presets", "ci")
    for path in sorted((CHART / folder).glob("*.yaml"))
}

ALL = {**COMBINATIONS, **FILES}
NAMES = sorted(ALL)


def kube_version_of(name: str) -> str:
    """The Kubernetes version that a combination is rendered for, where one is enough: all have their turn."""
    return KUBE_VERSIONS[NAMES.index(name) % len(KUBE_VERSIONS)]


def render_combination(name: str) -> list[Object]:
    """A combination for its version, with the Prometheus operator there; rendered once in a test session."""
    return render(ALL[name], kube_version=kube_version_of(name), api_versions=(MONITORING,))
