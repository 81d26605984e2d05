"""The one command that runs a job on every cluster, and the variables that its processes see. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.planning.plan import Plan
from orchestrator.spec.profile import ClusterProfile

DRIVER = ("-m", "orchestrator.driver")
"""What Python is given to run."""


def driver_command(
    plan_path: str, launch: int, *, python: str = "python", driver: Sequence[str] = DRIVER
) -> list[str]:
    """The one command that runs a job, wherever.

    Args:
        plan_path: The plan's file, as the driver finds it.
        python: The interpreter.
        driver: For tests: what stands for the driver.
    """
    return [python, *driver, "--plan", plan_path, "--launch", str(launch)]


def kept_driver_command(plan_path: str, launch: int) -> list[str]:
    """The same on a cluster, where a driver that is lost is started again within the same job."""
    return [*driver_command(plan_path, launch), "--keep"]


def environment_variables(plan: Plan, profile: ClusterProfile) -> dict[str, str]:
    """Variables of every process of a job; the job's own go before the profile's."""
    return {"RAY_TRAIN_V2_ENABLED": "1", **profile.environment, **plan.job.environment.env}
