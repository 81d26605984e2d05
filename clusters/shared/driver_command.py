"""The one command that runs a job on every cluster, and the variables that its processes see. Pure."""

from __future__ import annotations

from orchestrator.planning.plan import Plan
from orchestrator.spec.profile import ClusterProfile


def driver_command(plan_path: str, launch: int) -> list[str]:
    """The one command that runs a job, wherever."""
    return ["python", "-m", "orchestrator.driver", "--plan", plan_path, "--launch", str(launch)]


def environment_variables(plan: Plan, profile: ClusterProfile) -> dict[str, str]:
    """Variables of every process of a job; the job's own go before the profile's."""
    return {"RAY_TRAIN_V2_ENABLED": "1", **profile.environment, **plan.job.environment.env}
