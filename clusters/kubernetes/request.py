"""Plan and profile -> the RayJob (``ray.io/v1``) that runs it. Pure; Kubernetes' own names and units throughout.

Why HTTPMode: the operator itself posts the job to the head, with our fixed ``jobId``. No submitter pod that can race
the head, hang on a log stream, or end and mark a running job as failed, as K8sJobMode's has; after a lost head the
operator posts the same id again. What a submitter pod would print, the ``run-log`` container beside the head prints.

Why the stop is a deadline: KubeRay leaves a cluster whose job was stopped through Ray running for ever, and takes
``suspend`` only from jobs without deletion rules. A deadline in the past ends a run in every phase, frees its pods
by the rules, is never retried, and keeps the object, and with it the record, until its time is over.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from orchestrator.clusters.kubernetes.pod_templates import (
    RUN_FOLDER,
    container_security,
    head_template,
    worker_template,
)
from orchestrator.clusters.shared.capacity import nodes_for, refuse_spares
from orchestrator.clusters.shared.driver_command import environment_variables, kept_driver_command
from orchestrator.clusters.shared.safe_names import label_value, rayjob_name, submission_id
from orchestrator.errors import SpecError
from orchestrator.planning.plan import Plan
from orchestrator.runs import Began, RunStatus
from orchestrator.spec.profile import ClusterProfile, NodeGroup
from orchestrator.waited import BEFORE

RUN_LABEL = "trainwright/run"
LAUNCH_LABEL = "trainwright/launch"
RUN_ID, JOB_NAME, DIGEST = "trainwright/run-id", "trainwright/job-name", "trainwright/plan-digest"
STORAGE, TOTAL_STEPS, STOP = "trainwright/storage", "trainwright/total-steps", "trainwright/stop"
WAITED = "trainwright/waited"
"""Annotations of a RayJob; ``trainwright/stop`` says that a person ended it, and when, in seconds since the epoch, and
``trainwright/waited`` as JSON what it had waited for until then, where it had no driver: its pods go at once.
"""

PLAN_KEY, PACKAGE_KEY = "plan.json", "working-dir.zip"
"""Keys of the run's ConfigMap, and so names of files below ``RUN_FOLDER``."""
PACKAGE_IN_CONFIG_MAP = f"file://{RUN_FOLDER}/{PACKAGE_KEY}"
LARGEST_CONFIG_MAP_BYTES = 1_000_000
"""Kubernetes refuses ConfigMaps over 1 MiB; the object's other fields need some of it."""

_RAY_VERSION = "2.60.0"
_IDLE_SECONDS = 60


def plan_to_rayjob(
    plan: Plan,
    profile: ClusterProfile,
    launch: int = 1,
    package: str | None = None,
    before: RunStatus | None = None,
) -> dict[str, Any]:
    """The RayJob of one launch. Raises ResourcesError or SpecError where the plan can never fit the profile.

    Args:
        package: URI of the working directory's zip file, as Ray downloads it; None: no working directory.
        before: The launch before it, where that ended without a driver.
    """
    options = profile.kubernetes
    spec: dict[str, Any] = {
        "entrypoint": shlex.join(kept_driver_command(f"{RUN_FOLDER}/{PLAN_KEY}", launch)),
        "jobId": submission_id(plan.run_id, launch),
        "submissionMode": "HTTPMode",
        # JSON is YAML; strings in it need no second thought about quoting
        "runtimeEnvYAML": json.dumps(_runtime_env(plan, profile, package), sort_keys=True),
        "metadata": {
            "run": plan.run_id,
            "launch": str(launch),
            "digest": plan.digest,
            **({BEFORE: before.model_dump_json(exclude_defaults=True)} if before else {}),
        },
        "backoffLimit": options.cluster_retries,
        "preRunningDeadlineSeconds": max(1, round(options.start_deadline)),
        "rayClusterSpec": _ray_cluster(plan, profile, launch),
    }
    if options.active_deadline is not None:
        spec["activeDeadlineSeconds"] = max(1, round(options.active_deadline))
    if options.queue:
        # Kueue starts and suspends the job itself, and asks for this older way of cleaning up
        spec |= {"suspend": True, "shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": _IDLE_SECONDS}
    else:
        spec["deletionStrategy"] = {"deletionRules": _deletion_rules(profile)}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": rayjob_name(plan.run_id, launch),
            "namespace": options.namespace,
            "labels": _labels(plan, profile, launch),
            "annotations": {
                **options.annotations,
                RUN_ID: plan.run_id,
                JOB_NAME: plan.job.name,
                DIGEST: plan.digest,
                STORAGE: plan.storage,
                TOTAL_STEPS: str(plan.total_steps),
            },
        },
        "spec": spec,
    }


def plan_to_config_map(
    plan: Plan, profile: ClusterProfile, launch: int, package_base64: str | None
) -> dict[str, Any]:
    """What the pods mount at ``RUN_FOLDER``: the plan, and a small working directory. Without its owner."""
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": rayjob_name(plan.run_id, launch),
            "namespace": profile.kubernetes.namespace,
            "labels": _labels(plan, profile, launch),
        },
        "data": {PLAN_KEY: plan.model_dump_json()},
    }
    if package_base64 is not None:
        body["binaryData"] = {PACKAGE_KEY: package_base64}
    return body


def stop_patch(
    rayjob: dict[str, Any], profile: ClusterProfile, now: float, waited: Sequence[Began] = ()
) -> dict[str, Any]:
    """Merge patch that ends a RayJob now, in any phase; see the head of this file.

    Args:
        now: In seconds since the epoch. KubeRay notes no end of a job that was still in its queue.
        waited: What it has waited for, where it has no driver.
    """
    spec: dict[str, Any] = {"activeDeadlineSeconds": 1}
    if rayjob["spec"].get("deletionStrategy"):
        failed = {"jobDeploymentStatus": "Failed"}
        spec["deletionStrategy"] = {
            "deletionRules": [
                {"policy": "DeleteCluster", "condition": {**failed, "ttlSeconds": 0}},
                {
                    "policy": "DeleteSelf",
                    "condition": {**failed, "ttlSeconds": round(profile.kubernetes.keep_job)},
                },
            ]
        }
    notes = {STOP: f"{now:.0f}", **({WAITED: json.dumps(waited)} if waited else {})}
    return {"metadata": {"annotations": notes}, "spec": spec}


def _runtime_env(plan: Plan, profile: ClusterProfile, package: str | None) -> dict[str, Any]:
    made: dict[str, Any] = {"env_vars": environment_variables(plan, profile)}
    if plan.job.environment.pip:
        made["pip"] = list(plan.job.environment.pip)
    if package is not None:
        made["working_dir"] = package
    return made


def _labels(plan: Plan, profile: ClusterProfile, launch: int) -> dict[str, str]:
    labels = {
        **profile.kubernetes.labels,
        "app.kubernetes.io/managed-by": "trainwright",
        RUN_LABEL: label_value(plan.run_id),
        LAUNCH_LABEL: str(launch),
    }
    if profile.kubernetes.queue:
        labels["kueue.x-k8s.io/queue-name"] = profile.kubernetes.queue
    if profile.kubernetes.gang_scheduler != "none":
        labels["ray.io/gang-scheduling-enabled"] = "true"
    if profile.kubernetes.gang_scheduler == "yunikorn":
        labels["yunikorn.apache.org/app-id"] = label_value(submission_id(plan.run_id, launch))
    if profile.kubernetes.priority_class and profile.kubernetes.gang_scheduler in (
        "volcano",
        "kai-scheduler",
    ):
        labels["ray.io/priority-class-name"] = profile.kubernetes.priority_class
    return labels


def _deletion_rules(profile: ClusterProfile) -> list[dict[str, Any]]:
    """Workers go at once, the head when its logs are old, the object last. Failed is there besides FAILED for runs
    that never became a Ray job. With autoscaling KubeRay takes no DeleteWorkers; there idle nodes go by themselves.
    """
    keep_head = round(profile.kubernetes.keep_head)
    keep_job = max(keep_head, round(profile.kubernetes.keep_job))
    stages = [("DeleteCluster", keep_head), ("DeleteSelf", keep_job)]
    if not profile.kubernetes.autoscaling:
        stages = [("DeleteWorkers", 0), *stages]
    conditions = ({"jobStatus": "SUCCEEDED"}, {"jobStatus": "FAILED"}, {"jobDeploymentStatus": "Failed"})
    return [
        {"policy": policy, "condition": {**condition, "ttlSeconds": seconds}}
        for condition in conditions
        for policy, seconds in stages
    ]


def _check_group_may_change(plan: Plan, profile: ClusterProfile) -> None:
    """Raises SpecError where a run that could begin with few workers would have to wait for the pods of the most."""
    options = profile.kubernetes
    if not plan.sizes:
        return
    if options.queue:
        who = f"the Kueue queue {options.queue} (kubernetes.queue)"
    elif options.gang_scheduler != "none" and not options.autoscaling:
        who = f"{options.gang_scheduler} (kubernetes.gang_scheduler without kubernetes.autoscaling)"
    else:
        return
    raise SpecError(
        f"scaling.workers: {who} of cluster {profile.name} starts all {plan.world_size} workers or none; give a number"
    )


def _ray_cluster(plan: Plan, profile: ClusterProfile, launch: int) -> dict[str, Any]:
    options = profile.kubernetes
    _check_group_may_change(plan, profile)
    refuse_spares(plan, "a run on Kubernetes has pods for its own workers alone; leave it out there")
    nodes = nodes_for(plan, profile)
    groups = [group for group in profile.node_groups if nodes.get(group.name) or options.autoscaling]
    auth = {"mode": "token"}
    if profile.secrets.ray_token_secret:
        auth["secretName"] = profile.secrets.ray_token_secret
    cluster: dict[str, Any] = {
        "rayVersion": profile.ray_version or _RAY_VERSION,
        "authOptions": auth,
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": str(profile.head.offered_cpus)},
            "template": head_template(plan, profile, launch, _labels(plan, profile, launch)),
        },
        "workerGroupSpecs": [
            _worker_group(plan, profile, launch, group, nodes.get(group.name, 0)) for group in groups
        ],
    }
    if options.autoscaling:
        cluster["enableInTreeAutoscaling"] = True
        cluster["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": _IDLE_SECONDS,
            "resources": {bound: {"cpu": "500m", "memory": "512Mi"} for bound in ("requests", "limits")},
            "securityContext": container_security(),
        }
    if options.gcs_fault_tolerance == "redis":
        cluster["gcsFaultToleranceOptions"] = {"backend": "redis", "redisAddress": options.redis_address}
    elif options.gcs_fault_tolerance == "rocksdb":
        cluster["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
    return cluster


def _worker_group(
    plan: Plan, profile: ClusterProfile, launch: int, group: NodeGroup, nodes: int
) -> dict[str, Any]:
    least, most = (group.min, group.max) if profile.kubernetes.autoscaling else (nodes, nodes)
    return {
        "groupName": group.name,
        "replicas": max(nodes, least),
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": {},
        # Ray's own labels: what scaling.node_labels selects, and the market as Ray names it
        "labels": {**group.labels, "ray.io/market-type": "spot" if group.spot else "on-demand"},
        "template": worker_template(plan, profile, launch, group, _labels(plan, profile, launch)),
    }
