import errno

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import WorkerGroupError  # noqa: F401 - importable where we expect it
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError as GroupError

from orchestrator.errors import CheckpointError, DataError, NotANumberError
from orchestrator.recovery.incidents import incident_of
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
