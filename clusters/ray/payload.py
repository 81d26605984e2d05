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

_STATES: dict[str, tuple[RunState, EndReason | None]] = {
    "PENDING": (RunState.PENDING, None),
    "RUNNING": (RunState.STARTING, None),  # its records or its output tell whether it takes steps already
    "STOPPED": (RunState.STOPPED, EndReason.STOPPED_BY_USER),
    "SUCCEEDED": (RunState.SUCCEEDED, EndReason.COMPLETED),
    "FAILED": (RunState.FAILED, EndReason.DRIVER_LOST),
}
"""Ray's job status -> state, and why it ended where nothing better is known."""

_REASON_OF_EXIT_CODE = {
    2: EndReason.BAD_SPEC,
    3: EndReason.USER_ERROR,
    4: EndReason.INFRASTRUCTURE,
    5: EndReason.STOPPED_BY_USER,
}
"""The driver's own exit codes; any other means that it could not speak for itself any more."""


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
    """How a launch stands, from Ray's word for its job and from the driver's own record, where that is known. Pure.

    A recorded end holds, whatever Ray says: it was written once, by whoever ended the run. Without one, a job that
    has ended is an end, though the record still says that it runs: its driver could not write any more.
    """
    metadata = job["metadata"]
    summary = json.loads(metadata["plan"])
    state, reason = _STATES[job["status"]]
    base = RunStatus(
        run_id=metadata["run"],
        state=state,
        reason=reason,
        name=summary["job"]["name"],
        cluster=profile.name,
        launch=int(metadata["launch"]),
        submitted_at=(job.get("start_time") or 0) / 1000,
        total_steps=summary["total_steps"],
        urls={"dashboard": str(profile.address), "checkpoints": f"{summary['storage']}/checkpoints"},
    )
    if record is not None:
        kept = {"attempt": record.attempt, "step": record.step, "metrics": record.metrics}
        base = base.model_copy(update={**kept, "urls": {**base.urls, **record.urls}})
        if record.state.is_final:
            said = {"state": record.state, "reason": record.reason, "message": record.message}
            return base.model_copy(update={**said, "ended_at": record.ended_at})
        if not state.is_final:
            running = state if state is RunState.PENDING else record.state
            return base.model_copy(update={"state": running, "message": record.message})
    if not state.is_final:
        return base.model_copy(update={"message": _sentence(job) if state is RunState.PENDING else ""})
    ended = {"ended_at": (job.get("end_time") or 0) / 1000 or None}
    if state is RunState.FAILED:
        if record is None:  # with a record, a driver that could still speak would have written its end there
            reason = _REASON_OF_EXIT_CODE.get(job.get("driver_exit_code") or 0, EndReason.DRIVER_LOST)
        if job.get("error_type") == "RUNTIME_ENV_SETUP_FAILURE":
            reason = EndReason.BAD_SPEC if plan_has_pip(summary) else EndReason.INFRASTRUCTURE
        state = RunState.STOPPED if reason is EndReason.STOPPED_BY_USER else state
        return base.model_copy(update={"state": state, "reason": reason, "message": _sentence(job), **ended})
    message = "ended at once by a stop" if state is RunState.STOPPED else "took all its steps"
    return base.model_copy(update={"message": message, **ended})


def plan_has_pip(plan: dict[str, Any]) -> bool:
    """Whether a plan (as JSON) installs packages: then a failed environment is most often a wrong requirement."""
    return bool(plan["job"]["environment"]["pip"])


def _sentence(job: dict[str, Any]) -> str:
    """The last line that says something in Ray's message, which may hold a traceback or a log's end."""
    lines = [line.strip() for line in str(job.get("message") or "").splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""
