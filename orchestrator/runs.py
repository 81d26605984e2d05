"""A submitted plan and how it stands: states, why it ended, and the record that clusters return."""

from __future__ import annotations

import secrets
from enum import StrEnum

from orchestrator.section import Section


class RunState(StrEnum):
    """How a run stands. The last three are final and are never overwritten."""

    PENDING = "pending"
    """Submitted; waiting for the cluster."""
    STARTING = "starting"
    """The driver lives; workers are starting."""
    RUNNING = "running"
    """Steps are being taken."""
    STOPPING = "stopping"
    """Asked to stop; finishing the step and saving."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED)


class EndReason(StrEnum):
    """Why a run ended."""

    COMPLETED = "completed"
    STOPPED_BY_USER = "stopped_by_user"
    BAD_SPEC = "bad_spec"
    BAD_DATA = "bad_data"
    USER_ERROR = "user_error"
    NAN_LOSS = "nan_loss"
    OUT_OF_MEMORY = "out_of_memory"
    NO_RESOURCES = "no_resources"
    WORKER_LOST = "worker_lost"
    DRIVER_LOST = "driver_lost"
    STORAGE_FAILED = "storage_failed"
    DEADLINE = "deadline"
    INFRASTRUCTURE = "infrastructure"

    @property
    def exit_code(self) -> int:
        """What ``run`` and ``status --wait`` exit with."""
        return _EXIT_CODES.get(self, 4)


_EXIT_CODES = {
    EndReason.COMPLETED: 0,
    EndReason.BAD_SPEC: 2,
    EndReason.BAD_DATA: 3,
    EndReason.USER_ERROR: 3,
    EndReason.NAN_LOSS: 3,
    EndReason.STOPPED_BY_USER: 5,
}


class RunStatus(Section):
    """How a run stands at one moment, as every cluster reports it."""

    run_id: str
    """The run."""
    state: RunState
    """How it stands."""
    reason: EndReason | None = None
    """Why it ended, once it has."""
    message: str = ""
    """One sentence for a person."""
    cluster: str = ""
    """Name of the profile it runs on."""
    name: str = ""
    """The job's name."""
    launch: int = 1
    """1 for the submission, one more for each ``resume``."""
    attempt: int = 0
    """Worker-group starts so far, over all launches."""
    submitted_at: float = 0.0
    """Seconds since the epoch."""
    ended_at: float | None = None
    """Seconds since the epoch, once it has ended."""
    step: int = 0
    """Last step that was logged."""
    total_steps: int = 0
    """Steps that the plan has."""
    metrics: dict[str, float] = {}
    """Last logged values by name."""
    urls: dict[str, str] = {}
    """Where to look: ``mlflow``, ``dashboard``, ``checkpoints``."""


def new_run_id(name: str) -> str:
    """A fresh id: the job's name and eight random characters; safe as a file, Ray and Kubernetes name."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    return f"{name}-{''.join(secrets.choice(alphabet) for _ in range(8))}"
