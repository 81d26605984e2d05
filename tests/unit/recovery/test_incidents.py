import errno

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError
from ray.train import (
    PreemptionInfo,
    WorkerGroupError,  # noqa: F401 - importable where we expect it
)
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, PreemptionError
from ray.train.v2.api.exceptions import WorkerGroupError as GroupError

from orchestrator.errors import (
    CheckpointError,
    DataError,
    InfrastructureError,
    NotANumberError,
    ResourcesError,
    SpecError,
    StoppedError,
    SupersededError,
    UserCodeError,
)
from orchestrator.recovery.incidents import Incident, incident_of
from orchestrator.runs import EndReason


def group(**by_rank):
    failures = {}
    for name, error in by_rank.items():
        rank = int(name.removeprefix("rank"))
        wrapped = (
            error
            if isinstance(error, ActorDiedError | OutOfMemoryError)
            else UserExceptionWithTraceback(error, "trace")
        )
        failures[rank] = wrapped
    return GroupError("text", failures)


def killed(text):
    """What Ray raises for an actor whose process ended without a word."""
    error = ActorDiedError()
    error.error_msg = text
    return error


@pytest.mark.parametrize(
    ("error", "reason", "retry"),
    [
        (group(rank0=NotANumberError("step 3: nan")), EndReason.NAN_LOSS, False),
        (group(rank1=DataError("x")), EndReason.BAD_DATA, False),
        (group(rank0=ValueError("their bug")), EndReason.USER_ERROR, False),
        (group(rank0=CheckpointError("disk full")), EndReason.STORAGE_FAILED, False),
        (group(rank0=OSError(errno.ENOSPC, "No space left")), EndReason.STORAGE_FAILED, False),
        (group(rank0=ActorDiedError()), EndReason.WORKER_LOST, True),
        (
            group(rank0=killed("the process is killed by SIGKILL by OOM killer due to high memory usage")),
            EndReason.WORKER_LOST,
            True,
        ),
        (group(rank0=OutOfMemoryError("memory monitor")), EndReason.OUT_OF_MEMORY, False),
        (
            group(rank0=RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")),
            EndReason.OUT_OF_MEMORY,
            False,
        ),
        (
            group(rank0=RuntimeError("Connection closed by peer [127.0.0.1]:1")),
            EndReason.INFRASTRUCTURE,
            True,
        ),
    ],
)
def test_each_failure_has_its_reason(error, reason, retry):
    incident = incident_of(error)
    assert (incident.reason, incident.retry) == (reason, retry)
    assert "\n" not in incident.message


def test_the_root_cause_is_named_not_the_ranks_that_lost_it():
    gloo = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    incident = incident_of(group(rank0=gloo, rank1=ValueError("their bug"), rank2=gloo))
    assert (incident.rank, incident.reason, incident.traceback) == (1, EndReason.USER_ERROR, "trace")
    incident = incident_of(group(rank0=gloo, rank1=ActorDiedError()))
    assert (incident.rank, incident.reason) == (1, EndReason.WORKER_LOST)
    incident = incident_of(group(rank0=ActorDiedError(), rank1=ValueError("their bug")))
    assert (incident.rank, incident.reason) == (1, EndReason.USER_ERROR)


ADVICE = "lower training.micro_batch_size, use activation checkpointing or a sharded strategy"


class OutOfMemoryError_(RuntimeError):
    """As torch's, which can't be raised by name on a machine without a GPU."""


OutOfMemoryError_.__name__ = "OutOfMemoryError"  # ray's stands under the name


class DistBackendError(RuntimeError):
    """As torch's."""


class DistNetworkError(RuntimeError):
    """As torch's."""


class DistStoreError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("error", "reason", "message", "retry"),
    [
        (NotANumberError("step 3: nan\nmore"), EndReason.NAN_LOSS, "step 3: nan", False),
        (DataError("row 3\nof a.csv"), EndReason.BAD_DATA, "row 3\nof a.csv", False),
        (SpecError("a\nb"), EndReason.BAD_SPEC, "a\nb", False),
        (UserCodeError("a\nb"), EndReason.USER_ERROR, "a\nb", False),
        (CheckpointError("a\nb"), EndReason.STORAGE_FAILED, "a\nb", False),
        (ResourcesError("a\nb"), EndReason.NO_RESOURCES, "a\nb", False),
        (StoppedError("a\nb"), EndReason.STOPPED_BY_USER, "a\nb", False),
        (InfrastructureError("a\nb"), EndReason.INFRASTRUCTURE, "a\nb", True),
        (SupersededError("a\nb"), EndReason.INFRASTRUCTURE, "a\nb", False),
        (MemoryError("9 bytes\nmore"), EndReason.OUT_OF_MEMORY, "worker 3: out of memory: 9 bytes", False),
        (MemoryError(), EndReason.OUT_OF_MEMORY, "worker 3: out of memory: MemoryError", False),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            EndReason.STORAGE_FAILED,
            "worker 3: no space left on the disk: [Errno 28] No space left on device",
            False,
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            EndReason.STORAGE_FAILED,
            "worker 3: no space left on the disk: [Errno 122] Disk quota exceeded",
            False,
        ),
        (
            OSError(errno.EFBIG, "File too large"),
            EndReason.STORAGE_FAILED,
            "worker 3: no space left on the disk: [Errno 27] File too large",
            False,
        ),
        (
            OutOfMemoryError_("tried " + 300 * "x"),
            EndReason.OUT_OF_MEMORY,
            f"worker 3: out of memory (tried {194 * 'x'}); {ADVICE}",
            False,
        ),
        (
            RuntimeError("CUDA out of memory."),
            EndReason.OUT_OF_MEMORY,
            f"worker 3: out of memory (CUDA out of memory.); {ADVICE}",
            False,
        ),
        *[
            (
                kind("b" + 300 * "x"),
                EndReason.INFRASTRUCTURE,
                f"worker 3: lost the connection to another worker (b{199 * 'x'})",
                True,
            )
            for kind in (DistBackendError, DistNetworkError, DistStoreError)
        ],
        (
            RuntimeError("Socket closed\nmore"),
            EndReason.INFRASTRUCTURE,
            "worker 3: lost the connection to another worker (Socket closed)",
            True,
        ),
    ],
)
def test_a_rank_tells_what_failed(error, reason, message, retry):
    assert incident_of(group(rank3=error)) == Incident(reason, message, retry, rank=3)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "Permission denied"), ValueError("Socket closed"), RuntimeError("shapes differ")],
)
def test_an_error_of_the_jobs_own_code_comes_with_its_traceback(error):
    message = f"worker 3: {type(error).__name__}: {error}"
    expected = Incident(EndReason.USER_ERROR, message, False, rank=3, traceback="trace")
    assert incident_of(group(rank3=error)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Connection closed by peer",
        "connection RESET",
        "connection refused",
        "connect timed out",
        "connection timed out",
        "connect failure",
        "[gloo/transport]",
        "NCCL error",
        "Watchdog caught",
        "Broken pipe",
        "Timed out waiting for clients",
        "default process group",
        "ProcessGroupGloo",
        "socket",
    ],
)
def test_a_lost_connection_is_known_by_its_words(text):
    assert incident_of(RuntimeError(text)).reason is EndReason.INFRASTRUCTURE
    assert incident_of(RuntimeError(text)).retry


@pytest.mark.parametrize(
    "text", ["Out of memory", "can't allocate memory: 9", "OUTOFMEMORY", "an OOM here", "Memory monitor"]
)
def test_memory_that_ran_out_is_known_by_its_words(text):
    assert incident_of(RuntimeError(text)).reason is EndReason.OUT_OF_MEMORY
    assert incident_of(RuntimeError("a LOOM here")).reason is EndReason.INFRASTRUCTURE


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            killed("first\nsecond"),
            Incident(EndReason.WORKER_LOST, "worker 3 was lost (first)", True, rank=3),
        ),
        (
            OutOfMemoryError("x"),
            Incident(
                EndReason.OUT_OF_MEMORY,
                "worker 3 was ended because its node ran out of memory; lower training.micro_batch_size, use activation"
                " checkpointing or a sharded strategy, or give workers more memory",
                False,
                rank=3,
            ),
        ),
        (
            killed("the node was running low on memory"),
            Incident(
                EndReason.OUT_OF_MEMORY,
                "worker 3 was ended because its node ran out of memory; lower training.micro_batch_size, use activation"
                " checkpointing or a sharded strategy, or give workers more memory",
                False,
                rank=3,
            ),
        ),
    ],
)
def test_a_worker_that_is_gone(error, expected):
    assert incident_of(group(rank3=error)) == expected


@pytest.mark.parametrize(
    "name", ["ActorUnschedulableError", "WorkerCrashedDied", "WorkerHealthCheckTimeoutError", "Unavailable"]
)
def test_a_lost_worker_is_known_by_the_name_of_rays_error(name):
    error = type(name, (Exception,), {})("gone")
    assert incident_of(GroupError("text", {1: error})) == Incident(
        EndReason.WORKER_LOST, "worker 1 was lost (gone)", True, rank=1
    )


def test_a_wrapped_failure_may_come_without_its_traceback():
    wrapped = type("Wrapped", (Exception,), {"_base_exc": KeyError("name")})()
    assert incident_of(GroupError("text", {1: wrapped})) == Incident(
        EndReason.USER_ERROR, "worker 1: KeyError: 'name'", False, rank=1
    )


def test_a_failure_that_ray_wraps_in_nothing_is_the_jobs_own():
    assert incident_of(GroupError("text", {1: KeyError("name")})) == Incident(
        EndReason.USER_ERROR, "worker 1: KeyError: 'name'", False, rank=1
    )


def test_of_like_failures_the_lowest_rank_is_named():
    own = incident_of(group(rank5=ValueError("b"), rank4=ValueError("a")))
    assert (own.rank, own.message) == (4, "worker 4: ValueError: a")
    gone = incident_of(group(rank2=killed("b"), rank1=RuntimeError("socket"), rank3=killed("c")))
    assert (gone.rank, gone.reason) == (2, EndReason.WORKER_LOST)
    lost = incident_of(group(rank2=RuntimeError("socket"), rank1=RuntimeError("gloo")))
    assert (lost.rank, lost.reason) == (1, EndReason.INFRASTRUCTURE)


class StartupTimeoutError(Exception):
    """As Ray Train's, by name."""


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            StartupTimeoutError("Traceback\n  gave up\n\n"),
            Incident(EndReason.NO_RESOURCES, "the workers did not start in time: gave up", True),
        ),
        (
            ValueError("first\nsecond\nlast " + 600 * "x"),
            Incident(EndReason.INFRASTRUCTURE, f"Ray Train's controller failed: last {495 * 'x'}", False),
        ),
        (
            ValueError(" \n"),
            Incident(EndReason.INFRASTRUCTURE, "Ray Train's controller failed: ValueError", False),
        ),
    ],
)
def test_the_controller_tells_what_failed(failure, expected):
    assert incident_of(ControllerError(failure)) == expected


TAKEN = "was taken away (drained, preempted or told to end)"


@pytest.mark.parametrize(
    ("error", "message", "rank"),
    [
        (PreemptionError(PreemptionInfo(None, {"b": [3, 1], "a": [2]})), f"the node of workers 1, 2, 3 {TAKEN}", 1),
        (PreemptionError(PreemptionInfo(None, {})), f"the node of workers {TAKEN}", None),
        (
            GroupError("text", {2: RayActorError(preempted=True), 0: ActorDiedError(), 1: KeyError("bug")}),
            f"the node of workers 2 {TAKEN}",
            2,
        ),
    ],
)  # fmt: skip
def test_a_node_that_is_taken_away_is_nobodys_failure(error, message, rank):
    assert incident_of(error) == Incident(
        EndReason.WORKER_LOST, message, retry=True, rank=rank, is_counted=False
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ValueError("\n" + 600 * "x"),
            Incident(EndReason.INFRASTRUCTURE, f"ValueError: {500 * 'x'}", False),
        ),
        (
            GroupError("no rank", {}),
            Incident(
                EndReason.INFRASTRUCTURE,
                "WorkerGroupError: Training failed due to worker errors:",
                False,
            ),
        ),
        (MemoryError("9"), Incident(EndReason.OUT_OF_MEMORY, "out of memory: 9", False)),
        (
            RuntimeError("socket"),
            Incident(EndReason.INFRASTRUCTURE, "lost the connection to another worker (socket)", True),
        ),
    ],
)
def test_the_driver_tells_what_failed(error, expected):
    assert incident_of(error) == expected


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: all CUDA-capable devices are busy or unavailable",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error",
        "No CUDA GPUs are available",
        "Found no NVIDIA driver on your system",
        f"CUDA error: {300 * 'x'}",
    ],
)
def test_hardware_that_fails_is_tried_again(text):
    message = f"worker 3: the GPU or its driver failed ({text[:200]})"
    expected = Incident(EndReason.INFRASTRUCTURE, message, True, rank=3, is_hardware=True)
    assert incident_of(group(rank3=RuntimeError(text))) == expected
    lost = RuntimeError("Connection closed by peer")
    assert incident_of(group(rank0=lost, rank3=RuntimeError(text), rank4=lost)) == expected


@pytest.mark.parametrize("text", ["device-side assert triggered", "an illegal memory access was encountered"])
def test_what_code_or_hardware_may_have_done_is_tried_once_more(text):
    assert incident_of(group(rank3=RuntimeError(f"CUDA error: {text}"))) == Incident(
        EndReason.USER_ERROR,
        f"worker 3: RuntimeError: CUDA error: {text}",
        retry=True,
        rank=3,
        traceback="trace",
        most_retries=1,
    )


def test_a_gpu_without_memory_is_no_broken_one():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert incident_of(group(rank3=error)).reason is EndReason.OUT_OF_MEMORY
