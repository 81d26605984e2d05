"""Pod templates of a RayJob's head and worker groups. Pure; they pass Pod Security "restricted"."""

from __future__ import annotations

from typing import Any

from orchestrator.clusters.shared.safe_names import rayjob_name
from orchestrator.planning.plan import Plan
from orchestrator.spec.profile import ClusterProfile, MountedClaim, NodeGroup, Packages, Toleration
from orchestrator.storage import is_uri

RUN_FOLDER = "/etc/trainwright/run"
"""Where every pod of a run finds the run's ConfigMap."""
HEAD_CONTAINER = "ray-head"
"""The container of Ray's head, with the driver."""
RUN_LOG_CONTAINER = "run-log"
"""The container beside the head whose output is the run's log."""

_INSTALL_FOLDER = "/etc/trainwright/packages"
"""Where the script and its requirements are mounted."""
_PACKAGES_FOLDER = "/opt/trainwright"
"""Where the volume is that they are installed on."""
_SEARCHED = "/home/ray/anaconda3/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/nvidia/bin"
"""PATH of Ray's own images. Kubernetes can't put a folder in front of an image's PATH; it can only replace it."""
_AS_OUR_IMAGES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What the ENV lines of docker/Dockerfile say, for images that don't."""
_GPU = "nvidia.com/gpu"
_QUEUED_HEAD = {"key": "trainwright/head", "operator": "Exists"}
_QUEUED_WORKER = {"key": "trainwright/node-group", "operator": "Equal"}
"""What pods of a queued job tolerate. No node has such taints: the flavors of the chart's queue name them, so that Kueue counts
a head among the heads and a worker in its own group; else any pod takes the first flavor that has room."""
_RAY_LOGS = "ray-logs"
"""The volume that KubeRay, with autoscaling, would mount at /tmp/ray in the containers of Ray and of its autoscaler alone, by that
name: the driver's log lies there, and the container beside it shows it."""
_LONGEST_WORKER_GRACE_SECONDS = 45
"""At SIGTERM Ray drains a node for up to 30 s and ends its processes, within seconds where it is idle. A pod that still
waits for the head, in KubeRay's init container, doesn't hear the signal and holds its GPUs for all of the grace."""


def head_template(plan: Plan, profile: ClusterProfile, launch: int, labels: dict[str, str]) -> dict[str, Any]:
    """The head's pod: Ray's head with the driver, and beside it what shows the run's log."""
    head = profile.head
    ray = _ray_container(profile, name=HEAD_CONTAINER, cpus=head.cpus, memory=head.memory)
    ray["ports"] = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "metrics", "containerPort": 8080},
    ]
    template = _template(
        plan,
        profile,
        launch,
        {**head.pod_labels, **labels},
        containers=[ray, _run_log_container(profile, launch)],
        shared=head.memory * 3 // 10,
        node_labels=head.labels,
        tolerations=[*_tolerations(head.tolerations), *([_QUEUED_HEAD] if profile.kubernetes.queue else [])],
        # with autoscaling KubeRay puts a container into this pod that asks the API server for nodes
        automount=profile.kubernetes.autoscaling,
    )
    if head.annotations:
        template["metadata"]["annotations"] = dict(head.annotations)
    if profile.kubernetes.autoscaling:
        template["spec"]["volumes"].append({"name": _RAY_LOGS, "emptyDir": {}})
        for container in template["spec"]["containers"]:
            container["volumeMounts"].append({"name": _RAY_LOGS, "mountPath": "/tmp/ray"})
    return template


def worker_template(
    plan: Plan, profile: ClusterProfile, launch: int, group: NodeGroup, labels: dict[str, str]
) -> dict[str, Any]:
    """The pod of one node of a group."""
    shared = group.shared_memory if group.shared_memory is not None else group.memory * 3 // 10
    ray = _ray_container(profile, name="ray-worker", cpus=group.cpus, memory=group.memory, gpus=group.gpus)
    for amounts in ray["resources"].values():
        amounts |= {name: str(count) for name, count in group.resources.items()}
    ray["env"] += [{"name": name, "value": value} for name, value in group.environment.items()]
    ray["ports"] = [{"name": "metrics", "containerPort": 8080}]
    queued = [{**_QUEUED_WORKER, "value": group.name}] if profile.kubernetes.queue else []
    template = _template(
        plan,
        profile,
        launch,
        {**group.pod_labels, **labels},
        containers=[ray],
        shared=shared,
        node_labels=group.labels,
        tolerations=[*_tolerations(group.tolerations), *queued],
        automount=False,
    )
    if group.annotations:
        template["metadata"]["annotations"] = dict(group.annotations)
    grace = min(round(plan.job.recovery.stop_grace), _LONGEST_WORKER_GRACE_SECONDS)
    template["spec"]["terminationGracePeriodSeconds"] = grace
    if plan.job.scaling.placement == "spread":
        template["spec"]["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"trainwright/run": labels["trainwright/run"]}},
            }
        ]
    return template


def _template(
    plan: Plan,
    profile: ClusterProfile,
    launch: int,
    labels: dict[str, str],
    *,
    containers: list[dict[str, Any]],
    shared: int,
    node_labels: dict[str, str],
    tolerations: list[dict[str, Any]],
    automount: bool,
) -> dict[str, Any]:
    options = profile.kubernetes
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(shared)}},
        {"name": "run", "configMap": {"name": rayjob_name(plan.run_id, launch)}},
    ]
    if _mounts_storage(profile):
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": options.storage_claim}})
    if options.packages:
        volumes += _package_volumes(options.packages)
    volumes += _claim_volumes(options.claims)
    spec: dict[str, Any] = {
        "automountServiceAccountToken": automount,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": round(plan.job.recovery.stop_grace),
        "securityContext": pod_security(profile),
        "containers": containers,
        "volumes": volumes,
    }
    if options.packages:
        spec["initContainers"] = [_packages_container(profile, options.packages, containers[0])]
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.priority_class:
        spec["priorityClassName"] = options.priority_class
    if profile.secrets.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in profile.secrets.image_pull_secrets]
    if node_labels:
        spec["nodeSelector"] = dict(node_labels)
    if tolerations:
        spec["tolerations"] = tolerations
    return {"metadata": {"labels": labels}, "spec": spec}


def _tolerations(tolerations: tuple[Toleration, ...]) -> list[dict[str, Any]]:
    return [toleration.model_dump(exclude_none=True) for toleration in tolerations]


def _ray_container(
    profile: ClusterProfile, *, name: str, cpus: float, memory: int, gpus: int = 0
) -> dict[str, Any]:
    amounts = {"cpu": cpu_quantity(cpus), "memory": quantity(memory)}
    if gpus:
        amounts[_GPU] = str(gpus)
    container = {
        **_container(profile, name),
        "resources": {"requests": amounts, "limits": dict(amounts)},
    }
    container["volumeMounts"] += _claim_mounts(profile.kubernetes.claims)
    return container


def _claim_volumes(claims: tuple[MountedClaim, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"claim-{number}",
            "persistentVolumeClaim": {
                "claimName": mounted.claim,
                **({"readOnly": True} if mounted.read_only else {}),
            },
        }
        for number, mounted in enumerate(claims)
    ]


def _claim_mounts(claims: tuple[MountedClaim, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"claim-{number}",
            "mountPath": mounted.path,
            **({"readOnly": True} if mounted.read_only else {}),
        }
        for number, mounted in enumerate(claims)
    ]


def _run_log_container(profile: ClusterProfile, launch: int) -> dict[str, Any]:
    resources = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}}
    command = [
        "python",
        "-m",
        "orchestrator.clusters.kubernetes.run_log",
        "--plan",
        f"{RUN_FOLDER}/plan.json",
    ]
    return {
        **_container(profile, RUN_LOG_CONTAINER),
        "command": [*command, "--launch", str(launch)],
        "resources": resources,
    }


def files_template(profile: ClusterProfile, claims: tuple[MountedClaim, ...], seconds: int) -> dict[str, Any]:
    """The spec of a pod that does nothing for so long but hold claims, so that commands can be run where they are mounted."""
    options, head = profile.kubernetes, profile.head
    amounts = {"cpu": "100m", "memory": "256Mi"}
    container: dict[str, Any] = {
        "name": "files",
        "image": profile.image,
        "imagePullPolicy": options.image_pull_policy,
        "command": ["sleep", str(seconds)],
        "env": _environment(profile),
        "resources": {"requests": amounts, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *_claim_mounts(claims)],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": seconds,
        "terminationGracePeriodSeconds": 1,  # sleep does not hear that it should end
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(profile),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *_claim_volumes(claims)],
    }
    if options.packages:
        container["volumeMounts"].append(
            {"name": "packages", "mountPath": _PACKAGES_FOLDER, "readOnly": True}
        )
        spec["volumes"] += _package_volumes(options.packages)
        spec["initContainers"] = [_packages_container(profile, options.packages, container)]
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if profile.secrets.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in profile.secrets.image_pull_secrets]
    if head.labels:
        spec["nodeSelector"] = dict(head.labels)
    if head.tolerations:
        spec["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in head.tolerations]
    return spec


def _package_volumes(packages: Packages) -> list[dict[str, Any]]:
    claim = {"persistentVolumeClaim": {"claimName": packages.claim}} if packages.claim else {"emptyDir": {}}
    sources = [{"configMap": {"name": name}} for name in packages.config_maps]
    return [{"name": "packages", **claim}, {"name": "install", "projected": {"sources": sources}}]


def _packages_container(profile: ClusterProfile, packages: Packages, ray: dict[str, Any]) -> dict[str, Any]:
    """Installs what the pod runs with, or finds it there; it may take what Ray's container takes later, but no device."""
    amounts = {name: ray["resources"]["limits"][name] for name in ("cpu", "memory")}
    return {
        "name": "packages",
        "image": profile.image,
        "imagePullPolicy": profile.kubernetes.image_pull_policy,
        "command": ["python", f"{_INSTALL_FOLDER}/install_packages.py", f"{_PACKAGES_FOLDER}/{packages.key}"],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "securityContext": container_security(),
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "packages", "mountPath": _PACKAGES_FOLDER},
            {"name": "install", "mountPath": _INSTALL_FOLDER, "readOnly": True},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _container(profile: ClusterProfile, name: str) -> dict[str, Any]:
    environment = _environment(profile)
    if profile.secrets.mlflow_secret:
        environment += [
            {
                "name": f"MLFLOW_TRACKING_{key.upper()}",
                "valueFrom": {"secretKeyRef": {"name": profile.secrets.mlflow_secret, "key": key}},
            }
            for key in ("username", "password")
        ]
    mounts = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "run", "mountPath": RUN_FOLDER, "readOnly": True},
    ]
    if profile.kubernetes.packages:
        mounts.append({"name": "packages", "mountPath": _PACKAGES_FOLDER, "readOnly": True})
    if _mounts_storage(profile):
        mounts.append({"name": "storage", "mountPath": str(profile.storage)})
    container: dict[str, Any] = {
        "name": name,
        "image": profile.image,
        "imagePullPolicy": profile.kubernetes.image_pull_policy,
        "env": environment,
        "securityContext": container_security(),
        "volumeMounts": mounts,
        # a container that ends says in the pod's status why: its last lines
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if profile.secrets.storage_secret:
        container["envFrom"] = [{"secretRef": {"name": profile.secrets.storage_secret}}]
    return container


def _environment(profile: ClusterProfile) -> list[dict[str, Any]]:
    """What every container of ours needs to find Python and a folder to write to."""
    environment = {"HOME": "/tmp"}
    if packages := profile.kubernetes.packages:
        environment |= {"PATH": f"{_PACKAGES_FOLDER}/{packages.key}/bin:{_SEARCHED}", **_AS_OUR_IMAGES}
    return [{"name": name, "value": value} for name, value in environment.items()]


def _mounts_storage(profile: ClusterProfile) -> bool:
    return not is_uri(str(profile.storage)) and bool(profile.kubernetes.storage_claim)


def pod_security(profile: ClusterProfile) -> dict[str, Any]:
    """Security context of every pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": profile.kubernetes.user,
        "runAsGroup": profile.kubernetes.group,
        "fsGroup": profile.kubernetes.group,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Security context of every container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def quantity(count: int) -> str:
    """Bytes as Kubernetes writes them: whole mebibytes, rounded down."""
    return f"{count // 2**20}Mi"


def cpu_quantity(cpus: float) -> str:
    """Cores as Kubernetes writes them."""
    return str(int(cpus)) if float(cpus).is_integer() else f"{round(cpus * 1000)}m"
