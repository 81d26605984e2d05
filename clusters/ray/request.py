"""Plan and profile -> a payload of Ray's Jobs API, and back. Pure."""

from __future__ import annotations

import shlex
from typing import Any

from orchestrator.clusters.shared.driver_command import environment_variables, kept_driver_command
from orchestrator.clusters.shared.packaging import PLAN_NAME
from orchestrator.clusters.shared.safe_names import submission_id
from orchestrator.planning.plan import Plan
from orchestrator.runs import RunStatus
from orchestrator.spec.profile import ClusterProfile
from orchestrator.waited import BEFORE


def plan_to_ray_job(
    plan: Plan, profile: ClusterProfile, launch: int = 1, before: RunStatus | None = None
) -> dict[str, Any]:
    """The Jobs API's payload for one launch, without the package. Pure; holds no secret.

    Args:
        before: the launch before it, where that ended without a driver.
    """
    runtime_env: dict[str, Any] = {"env_vars": environment_variables(plan, profile)}
    if plan.job.environment.pip:
        runtime_env["pip"] = list(plan.job.environment.pip)
    return {
        "submission_id": submission_id(plan.run_id, launch),
        "entrypoint": shlex.join(kept_driver_command(PLAN_NAME, launch)),
        "runtime_env": runtime_env,
        "metadata": {
            "trainwright": plan.version,
            "run": plan.run_id,
            "launch": str(launch),
            "digest": plan.digest,
            "plan": plan.model_dump_json(),
            **({BEFORE: before.model_dump_json(exclude_defaults=True)} if before else {}),
        },
    }


def job_to_plan(job: dict[str, Any]) -> Plan:
    """The plan that a job was submitted with."""
    return Plan.model_validate_json(job["metadata"]["plan"])


def is_ours(job: dict[str, Any]) -> bool:
    """Whether a job of the cluster was submitted by us."""
    metadata = job.get("metadata") or {}
    return bool(metadata.get("run") and metadata.get("launch") and metadata.get("plan"))


def run_of(job: dict[str, Any]) -> str:
    """The run that a job of ours belongs to."""
    return str(job["metadata"]["run"])


def launch_of(job: dict[str, Any]) -> int:
    """Number of the launch that a job of ours is."""
    return int(job["metadata"]["launch"])
