"""Pure translations between our types and Ray's Jobs API."""

from __future__ import annotations

import json
import shlex
from typing import Any

from orchestrator.clusters.shared.driver_command import driver_command, environment_variables
from orchestrator.clusters.shared.packaging import PLAN_NAME
from orchestrator.clusters.shared.safe_names import submission_id
from orchestrator.planning.plan import Plan
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.spec.profile import ClusterProfile

_STATES = {
    "PENDING": RunState.PENDING,
    "RUNNING": RunState.STARTING,  # its records or its output tell whether it takes steps already
    "STOPPED": RunState.STOPPED,
    "SUCCEEDED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
}
"""Ray's job status -> state, where nothing better is known."""


def plan_to_ray_job(plan: Plan, profile: ClusterProfile, launch: int = 1) -> dict[str, Any]:
    """The Jobs API's payload for one launch, without the package. Pure; holds no secret."""
    runtime_env: dict[str, Any] = {"env_vars": environment_variables(plan, profile)}
    if plan.job.environment.pip:
        runtime_env["pip"] = list(plan.job.environment.pip)
    return {
        "submission_id": submission_id(plan.run_id, launch),
        "entrypoint": shlex.join(driver_command(PLAN_NAME, launch)),
        "runtime_env": runtime_env,
        "metadata": {
            "trainwright": plan.version,
            "run": plan.run_id,
            "launch": str(launch),
            "digest": plan.digest,
            "plan": plan.model_dump_json(),
        },
    }


def job_to_plan(job: dict[str, Any]) -> Plan:
    """The plan that a job was submitted with."""
    return Plan.model_validate_json(job["metadata"]["plan"])


def is_ours(job: dict[str, Any]) -> bool:
    """Whether a job of the cluster was submitted by us."""
    metadata = job.get("metadata") or {}
    return bool(metadata.get("run") and metadata.get("launch") and metadata.get("plan"))


def job_to_status(job: dict[str, Any], profile: ClusterProfile, record: RunStatus | None) -> RunStatus:
    """How a launch stands, from Ray's word for its job and from the driver's own record, where that is known. Pure."""
    metadata = job["metadata"]
    summary = json.loads(metadata["plan"])
    status = RunStatus(
        run_id=metadata["run"],
        state=RunState.PENDING,
        message=_sentence(job),
        name=summary["job"]["name"],
        cluster=profile.name,
        launch=int(metadata["launch"]),
        submitted_at=(job.get("start_time") or 0) / 1000,
        total_steps=summary["total_steps"],
        urls={"dashboard": str(profile.address), "checkpoints": f"{summary['storage']}/checkpoints"},
    )
    state = _STATES[job["status"]]
    if state.is_final:
        # with a record, a driver that could still speak would have written its end there
        exit_code = job.get("driver_exit_code") if record is None else None
        status = status.ended(
            *_end(job, state, exit_code), ended_at=(job.get("end_time") or 0) / 1000 or None
        )
    elif state is not RunState.PENDING:
        status = status.at(state).saying("")
    return status if record is None else status.with_record(record)


def _end(job: dict[str, Any], state: RunState, exit_code: int | None) -> tuple[RunState, EndReason, str]:
    """State, reason and sentence of a job that has ended."""
    if state is RunState.SUCCEEDED:
        return state, EndReason.COMPLETED, "took all its steps"
    if state is RunState.STOPPED:
        return state, EndReason.STOPPED_BY_USER, "ended at once by a stop"
    reason = EndReason.of_exit_code(exit_code)
    if job.get("error_type") == "RUNTIME_ENV_SETUP_FAILURE":
        # one that installs packages fails most often by a wrong requirement
        installs = json.loads(job["metadata"]["plan"])["job"]["environment"]["pip"]
        reason = EndReason.BAD_SPEC if installs else EndReason.INFRASTRUCTURE
    return RunState.STOPPED if reason is EndReason.STOPPED_BY_USER else state, reason, _sentence(job)


def _sentence(job: dict[str, Any]) -> str:
    """The last line that says something in Ray's message, which may hold a traceback or a log's end."""
    lines = [line.strip() for line in str(job.get("message") or "").splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""
