"""A RayJob's status -> how the run stands, by one table."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import datetime
from typing import Any, NamedTuple

from orchestrator.clusters.kubernetes.request import (
    JOB_NAME,
    LAUNCH_LABEL,
    RUN_ID,
    RUN_LABEL,
    STOP,
    STORAGE,
    TOTAL_STEPS,
    WAITED,
)
from orchestrator.clusters.shared.log_lines import last_line
from orchestrator.clusters.shared.progress import with_progress
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.spec.profile import ClusterProfile
from orchestrator.waited import BEFORE


class Row(NamedTuple):
    """One row: the first whose three patterns match decides; ``*`` matches all."""

    deployment: str
    job: str
    reason: str
    state: RunState
    why: EndReason | None
    message: str
    """``{message}`` and ``{reason}`` stand for what KubeRay says."""


_PENDING, _STARTING, _STOPPED = RunState.PENDING, RunState.STARTING, RunState.STOPPED
_SUCCEEDED, _FAILED = RunState.SUCCEEDED, RunState.FAILED

# fmt: off
TABLE = (
    #    deployment          job          reason                        state        why
    Row("",                 "*",         "*",                          _PENDING,    None, "KubeRay has not seen it yet"),
    Row("Initializing",     "*",         "*",                          _PENDING,    None, "its Ray cluster is starting"),
    Row("Waiting",          "*",         "*",                          _PENDING,    None, "its Ray cluster waits for a job"),
    Row("Suspending",       "*",         "*",                          _PENDING,    None, "its queue takes the nodes back"),
    Row("Suspended",        "*",         "*",                          _PENDING,    None, "waiting in its queue"),
    Row("Retrying",         "*",         "*",                          _PENDING,    None, "its Ray cluster failed; another one is started"),
    Row("Running",          "",          "*",                          _STARTING,   None, "the job is being handed to Ray"),
    Row("Running",          "PENDING",   "*",                          _STARTING,   None, "Ray is starting the driver"),
    Row("Running",          "RUNNING",   "*",                          _STARTING,   None, ""),
    Row("Running",          "SUCCEEDED", "*",                          _SUCCEEDED,  EndReason.COMPLETED, "took all its steps"),
    Row("Running",          "STOPPED",   "*",                          _STOPPED,    EndReason.STOPPED_BY_USER, "stopped through Ray"),
    Row("Running",          "FAILED",    "*",                          _FAILED,     EndReason.DRIVER_LOST, "{message}"),
    Row("Complete",         "SUCCEEDED", "*",                          _SUCCEEDED,  EndReason.COMPLETED, "took all its steps"),
    Row("Complete",         "STOPPED",   "*",                          _STOPPED,    EndReason.STOPPED_BY_USER, "stopped through Ray"),
    Row("Complete",         "*",         "*",                          _FAILED,     EndReason.DRIVER_LOST, "{message}"),
    Row("ValidationFailed", "*",         "*",                          _FAILED,     EndReason.BAD_SPEC, "KubeRay refuses the RayJob: {message}"),
    Row("Failed",           "*",         "ValidationFailed",           _FAILED,     EndReason.BAD_SPEC, "KubeRay refuses the RayJob: {message}"),
    Row("Failed",           "*",         "DeadlineExceeded",           _FAILED,     EndReason.DEADLINE, "it lived longer than kubernetes.active_deadline"),
    Row("Failed",           "*",         "PreRunningDeadlineExceeded", _FAILED,     EndReason.NO_RESOURCES, "its pods did not run within kubernetes.start_deadline"),
    Row("Failed",           "*",         "SubmissionFailed",           _FAILED,     EndReason.INFRASTRUCTURE, "KubeRay could not hand the job to Ray: {message}"),
    Row("Failed",           "*",         "JobDeploymentStatusTransitionGracePeriodExceeded",
                                                                       _FAILED,     EndReason.DRIVER_LOST, "Ray's head and KubeRay lost each other: {message}"),
    Row("Failed",           "*",         "JobStatusCheckTimeoutExceeded", _FAILED,  EndReason.DRIVER_LOST, "Ray's head did not answer KubeRay any more: {message}"),
    Row("Failed",           "SUCCEEDED", "*",                          _SUCCEEDED,  EndReason.COMPLETED, "took all its steps"),
    Row("Failed",           "STOPPED",   "*",                          _STOPPED,    EndReason.STOPPED_BY_USER, "stopped through Ray"),
    Row("Failed",           "*",         "*",                          _FAILED,     EndReason.DRIVER_LOST, "{reason}: {message}"),
)
# fmt: on

_EXIT_CODE = re.compile(r"exit code (-?\d+)")


def row_of(deployment: str, job: str, reason: str) -> Row:
    """The table's row; a deployment state of a newer KubeRay counts as pending, and says so."""
    for row in TABLE:
        if row.deployment == deployment and row.job in ("*", job) and row.reason in ("*", reason):
            return row
    message = f"KubeRay reports the state {deployment or 'none'} with job {job or 'none'}, which this version doesn't know"
    return Row(deployment, job, reason, RunState.PENDING, None, message)


def rayjob_to_status(
    rayjob: dict[str, Any],
    profile: ClusterProfile,
    record: RunStatus | None = None,
    problem: str | None = None,
) -> RunStatus:
    """How a launch stands. Pure.

    Args:
        rayjob: The object as the API server gives it.
        record: What the driver wrote, where that can be read. A recorded end holds, whatever KubeRay says.
        problem: Why pods do not run, where they don't.
    """
    metadata, status = rayjob["metadata"], rayjob.get("status") or {}
    notes = metadata.get("annotations") or {}
    said = str(status.get("message") or "")
    row = row_of(status.get("jobDeploymentStatus", ""), status.get("jobStatus", ""), status.get("reason", ""))
    state, why = row.state, row.why
    message = row.message.format(message=last_line(said), reason=status.get("reason", "")).strip(": ")
    # with a record, a driver that could still speak would have written its end there
    if why is EndReason.DRIVER_LOST and record is None and (code := _EXIT_CODE.search(said)):
        why = EndReason.of_exit_code(int(code[1]))
        state = RunState.STOPPED if why is EndReason.STOPPED_BY_USER else state
    if STOP in notes and state is not RunState.SUCCEEDED:
        has_ended = state.is_final or status.get("jobDeploymentStatus") == "Suspended"
        state, why = (RunState.STOPPED, EndReason.STOPPED_BY_USER) if has_ended else (RunState.STOPPING, None)
        message = "ended at once by a stop" if has_ended else "its pods are being removed"
    base = RunStatus(
        run_id=notes.get(RUN_ID, metadata["name"]),
        state=state,
        reason=why,
        message=message if state is not RunState.PENDING or not problem else problem,
        cluster=profile.name,
        name=notes.get(JOB_NAME, ""),
        launch=launch_of(rayjob),
        submitted_at=seconds_since_epoch(metadata.get("creationTimestamp")) or 0.0,
        ended_at=_ended_at(status, notes) if state.is_final else None,
        total_steps=int(notes.get(TOTAL_STEPS, 0)),
        urls={"checkpoints": f"{notes[STORAGE]}/checkpoints"} if STORAGE in notes else {},
    )
    if before := rayjob["spec"].get("metadata", {}).get(BEFORE):
        base = base.behind(RunStatus.model_validate_json(before))
    if WAITED in notes:
        base = base.having_waited((part, at) for part, at in json.loads(notes[WAITED]))
    if status.get("dashboardURL"):
        base = base.with_urls({"dashboard": f"http://{status['dashboardURL']}"})
    if record is not None:
        return base.with_record(record)
    # of a job that failed KubeRay quotes the log's end, and the driver says there why; the object outlives the log
    return with_progress(base, said.splitlines()) if state.is_final and STOP not in notes else base


def _ended_at(status: dict[str, Any], notes: dict[str, str]) -> float | None:
    """As KubeRay says; of a job that was stopped in its queue it says nothing."""
    if "endTime" in status:
        return seconds_since_epoch(status["endTime"])
    with contextlib.suppress(KeyError, ValueError):
        return float(notes[STOP])
    return None


def half_sent(status: RunStatus) -> str:
    """Why a launch without a ConfigMap does not begin, and what mends that."""
    mend = (
        f"submit the job again with --id {status.run_id}"
        if status.launch == 1
        else f"trainwright resume {status.run_id}"
    )
    return f"its plan is not there yet: if the command that sent it was killed, {mend}"


def seconds_since_epoch(stamp: str | None) -> float | None:
    """A Kubernetes time stamp as seconds since the epoch."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else None


def run_label_of(rayjob: dict[str, Any]) -> str:
    """What names its run among RayJobs."""
    return str(rayjob["metadata"]["labels"].get(RUN_LABEL, rayjob["metadata"]["name"]))


def launch_of(rayjob: dict[str, Any]) -> int:
    """Which launch of its run it is, from 1."""
    return int(rayjob["metadata"]["labels"].get(LAUNCH_LABEL, 1))


def ray_cluster_of(rayjob: dict[str, Any]) -> str:
    """The RayCluster that KubeRay made for it; empty where there is none."""
    return str((rayjob.get("status") or {}).get("rayClusterName") or "")
