"""A job of Ray's Jobs API -> how the run stands. Pure."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.clusters.shared.log_lines import last_line
from orchestrator.ledger import ENVIRONMENT
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.spec.profile import ClusterProfile
from orchestrator.waited import BEFORE

_STATES = {
    "PENDING": RunState.PENDING,
    "RUNNING": RunState.STARTING,  # its records or its output tell whether it takes steps already
    "STOPPED": RunState.STOPPED,
    "SUCCEEDED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
}
"""Ray's job status -> state, where nothing better is known."""


def job_to_status(job: dict[str, Any], profile: ClusterProfile, record: RunStatus | None) -> RunStatus:
    """How a launch stands, from Ray's word for its job and from the driver's own record, where that is known. Pure."""
    metadata = job["metadata"]
    summary = json.loads(metadata["plan"])
    status = RunStatus(
        run_id=metadata["run"],
        state=RunState.PENDING,
        message=last_line(job.get("message") or ""),
        name=summary["job"]["name"],
        cluster=profile.name,
        launch=int(metadata["launch"]),
        submitted_at=(job.get("start_time") or 0) / 1000,
        total_steps=summary["total_steps"],
        urls={"dashboard": str(profile.address), "checkpoints": f"{summary['storage']}/checkpoints"},
    )
    if job["status"] not in ("RUNNING", "SUCCEEDED") and job.get("driver_exit_code") is None:
        status = status.having_waited([(ENVIRONMENT, status.submitted_at)])  # Ray has no queue
    if BEFORE in metadata:
        status = status.behind(RunStatus.model_validate_json(metadata[BEFORE]))
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


def forgotten(cluster: str) -> str:
    """The beginning of a sentence."""
    return f"cluster {cluster} has forgotten, as one does that loses its head,"


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
    return (
        RunState.STOPPED if reason is EndReason.STOPPED_BY_USER else state,
        reason,
        last_line(job.get("message") or ""),
    )
