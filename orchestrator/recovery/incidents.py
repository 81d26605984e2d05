"""From an exception to an incident: what failed, on which rank, in one sentence, and whether a retry can help. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import (
    CheckpointError,
    DataError,
    HangError,
    InfrastructureError,
    NotANumberError,
    NotFoundError,
    NoticeError,
    ResizeError,
    ResourcesError,
    SpecError,
    StoppedError,
    SupersededError,
    TrainwrightError,
    UserCodeError,
)
from orchestrator.runs import EndReason
from orchestrator.storage.faults import NO_ROOM

_COLLATERAL = re.compile(
    r"connection (closed|reset|refused)|connect(ion)? (timed out|failure)|gloo|nccl|watchdog|broken pipe|"
    r"timed out waiting|process ?group|socket",
    re.IGNORECASE,
)
_NODE_OUT_OF_MEMORY = re.compile(r"memory monitor|running low on memory", re.IGNORECASE)
"""What Ray says when it ended a worker for its memory. (Of every killed worker it says that this *may* be the cause.)"""
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|OutOfMemory|\bOOM\b|memory monitor", re.IGNORECASE
)
_TOLD_TO_END = re.compile(r"node was terminated expectedly")
"""What Ray says of a worker whose node was told to end (SIGTERM): on Kubernetes of a pod that is deleted or evicted."""
_ANOTHER_HEAD = "WrongClusterID"
"""What Ray's control store says to whoever knew the one before it."""
_DEVICE = re.compile(
    r"CUDA error|CUDA driver|cuDNN|CUDNN_STATUS|CUBLAS_STATUS|cuBLAS|NVML|NVLink|uncorrectable ECC|No CUDA GPUs|"
    r"device\(s\) is/are busy|Found no NVIDIA driver",
    re.IGNORECASE,
)
"""What torch says when a GPU, its driver or its links fail, or when a node has none where it should have one."""
_DEVICE_OR_CODE = re.compile(r"device-side assert|illegal memory access|misaligned address", re.IGNORECASE)
"""Of those, what a mistake in the job's own code causes as well as a broken GPU."""


@dataclass(frozen=True)
class Incident:
    """One failure, as a person should hear of it."""

    reason: EndReason
    message: str
    retry: bool
    """Whether trying again can help."""
    rank: int | None = None
    """First failing rank, where it was one."""
    most_retries: int | None = None
    """Where retrying can help, but hardly more often than this; None for as often as the job allows."""
    is_counted: bool = True
    """Whether a retry is charged to ``recovery.max_failures``: a node that is taken away is nobody's failure."""
    is_planned: bool = False
    """Whether nothing failed: the group was to have another size."""
    traceback: str = ""
    """Of the job's own code, where that is what failed."""
    is_hardware: bool = False
    """Whether a GPU, its driver or its links failed: another node may do better."""


def incident_of(error: BaseException) -> Incident:
    """What an exception of ``TorchTrainer.fit`` or of the driver means."""
    failures = getattr(error, "worker_failures", None)
    if (ranks := _preempted_ranks(error, failures)) is not None:
        who = f"workers {', '.join(map(str, ranks))}" if ranks else "workers"
        return Incident(
            EndReason.WORKER_LOST,
            f"the node of {who} was taken away (drained, preempted or told to end)",
            retry=True,
            rank=ranks[0] if ranks else None,
            is_counted=False,
        )
    if by_rank := _by_rank(failures):
        return min(by_rank, key=_weight)
    controller = getattr(error, "controller_failure", None)
    if controller is not None:
        if isinstance(controller, TrainwrightError):
            return _of_exception(controller, rank=None, traceback="")
        text = _last_line(controller)
        if _ANOTHER_HEAD in str(controller):
            lost = "the cluster's head was lost, and another one stands at its address"
            return Incident(EndReason.INFRASTRUCTURE, lost, retry=False)
        if type(controller).__name__ == "WorkerGroupStartupFailedError":
            return Incident(EndReason.WORKER_LOST, f"a worker was lost as it started: {text}", retry=True)
        if "Timeout" in type(controller).__name__:
            return Incident(EndReason.NO_RESOURCES, f"the workers did not start in time: {text}", retry=True)
        return Incident(EndReason.INFRASTRUCTURE, f"Ray Train's controller failed: {text}", retry=False)
    return _of_exception(error, rank=None, traceback="")


def hardware_ranks(error: BaseException) -> list[int]:
    """Ranks whose own hardware failed; not those that only lost their connection to them."""
    by_rank = _by_rank(getattr(error, "worker_failures", None))
    return [one.rank for one in by_rank if one.is_hardware and one.rank is not None]


def _by_rank(failures: object) -> list[Incident]:
    if not isinstance(failures, dict):
        return []
    return [_of_worker(rank, failure) for rank, failure in sorted(failures.items())]


def _preempted_ranks(error: BaseException, failures: object) -> list[int] | None:
    """Ranks whose node was drained or preempted; None where that is not what happened.

    Ray Train says so by an error of its own where it had notice, and of a dead worker where it had none; of one whose node
    was told to end, Ray says that alone. One such worker decides, as in Ray's own policy: the others then fail on their
    connection to it.
    """
    notice = getattr(error, "preemption_info", None)
    if notice is not None:
        return list(notice.preempted_ranks)
    if not isinstance(failures, dict):
        return None
    deaths = {rank: getattr(failure, "health_check_failure", failure) for rank, failure in failures.items()}
    return sorted(rank for rank, death in deaths.items() if _was_taken_away(death)) or None


def _was_taken_away(death: Any) -> bool:
    is_of_ray = isinstance(getattr(death, "preempted", None), bool)  # no words of the job's own code count
    return is_of_ray and (death.preempted or bool(_TOLD_TO_END.search(str(death))))


def _weight(incident: Incident) -> tuple[int, bool]:
    """Root causes first: when one rank fails, the others fail on their connection to it. And a notice before the loss
    that it told of.
    """
    if incident.reason is EndReason.INFRASTRUCTURE:
        return 2 if incident.is_hardware else 3, incident.is_counted
    return int(incident.reason is EndReason.WORKER_LOST), incident.is_counted


def _of_worker(rank: int, failure: BaseException) -> Incident:
    base = getattr(failure, "_base_exc", None)
    if base is not None:
        return _of_exception(base, rank, getattr(failure, "_traceback_str", ""))
    name, text = type(failure).__name__, str(failure)
    if "OutOfMemory" in name or _NODE_OUT_OF_MEMORY.search(text):
        return Incident(
            EndReason.OUT_OF_MEMORY,
            f"worker {rank} was ended because its node ran out of memory; lower training.micro_batch_size,"
            " use activation checkpointing or a sharded strategy, or give workers more memory",
            retry=False,
            rank=rank,
        )
    if "Actor" in name or "Died" in name or "HealthCheck" in name or "Unavailable" in name:
        return Incident(
            EndReason.WORKER_LOST, f"worker {rank} was lost ({_first_line(failure)})", retry=True, rank=rank
        )
    return _of_exception(failure, rank, "")


def _of_exception(error: BaseException, rank: int | None, traceback: str) -> Incident:
    text = _first_line(error)
    where = "" if rank is None else f"worker {rank}: "
    match error:
        case NotANumberError():
            return Incident(EndReason.NAN_LOSS, text, retry=False, rank=rank)
        case DataError():
            return Incident(EndReason.BAD_DATA, str(error), retry=False, rank=rank)
        case SpecError() | NotFoundError():
            return Incident(EndReason.BAD_SPEC, str(error), retry=False, rank=rank)
        case UserCodeError():
            return Incident(EndReason.USER_ERROR, str(error), retry=False, rank=rank)
        case CheckpointError():
            return Incident(EndReason.STORAGE_FAILED, str(error), retry=False, rank=rank)
        case ResourcesError():
            return Incident(EndReason.NO_RESOURCES, str(error), retry=False, rank=rank)
        case StoppedError():
            return Incident(EndReason.STOPPED_BY_USER, str(error), retry=False, rank=rank)
        case NoticeError():
            return Incident(EndReason.WORKER_LOST, str(error), retry=True, rank=rank, is_counted=False)
        case ResizeError():
            return Incident(
                EndReason.INFRASTRUCTURE, str(error), retry=True, rank=rank, is_counted=False, is_planned=True
            )
        case HangError():
            return Incident(EndReason.WORKER_LOST, str(error), retry=True, rank=rank)
        case SupersededError():
            return Incident(EndReason.INFRASTRUCTURE, str(error), retry=False, rank=rank)
        case InfrastructureError():
            return Incident(EndReason.INFRASTRUCTURE, str(error), retry=True, rank=rank)
        case MemoryError():
            return Incident(EndReason.OUT_OF_MEMORY, f"{where}out of memory: {text}", retry=False, rank=rank)
        case OSError() if error.errno in NO_ROOM:
            return Incident(
                EndReason.STORAGE_FAILED, f"{where}no space left on the disk: {text}", retry=False, rank=rank
            )
    if "OutOfMemory" in type(error).__name__ or _OUT_OF_MEMORY.search(text):
        return Incident(
            EndReason.OUT_OF_MEMORY,
            f"{where}out of memory ({text[:200]}); lower training.micro_batch_size, use activation checkpointing or a"
            " sharded strategy",
            retry=False,
            rank=rank,
        )
    if isinstance(error, RuntimeError) and _DEVICE_OR_CODE.search(text):
        return Incident(
            EndReason.USER_ERROR,
            f"{where}{type(error).__name__}: {text}",
            retry=True,
            rank=rank,
            traceback=traceback,
            most_retries=1,
        )
    is_of_the_group = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    if isinstance(error, RuntimeError) and _DEVICE.search(text):
        return Incident(
            EndReason.INFRASTRUCTURE,
            f"{where}the GPU or its driver failed ({text[:200]})",
            retry=True,
            rank=rank,
            is_hardware=not is_of_the_group,  # NCCL says "unhandled cuda error" of what failed elsewhere, too
        )
    if is_of_the_group or (isinstance(error, RuntimeError) and _COLLATERAL.search(text)):
        return Incident(
            EndReason.INFRASTRUCTURE,
            f"{where}lost the connection to another worker ({text[:200]})",
            retry=True,
            rank=rank,
        )
    if rank is None:
        return Incident(EndReason.INFRASTRUCTURE, f"{type(error).__name__}: {text}", retry=False)
    return Incident(
        EndReason.USER_ERROR,
        f"{where}{type(error).__name__}: {text}",
        retry=False,
        rank=rank,
        traceback=traceback,
    )


def _last_line(error: BaseException) -> str:
    """Of a text that holds a traceback, the line that says what it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__
