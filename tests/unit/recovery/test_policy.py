import pytest
from ray.exceptions import RayActorError
from ray.train import PreemptionInfo
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupFailedError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError

from orchestrator import events
from orchestrator.errors import InfrastructureError, NoticeError, ResizeError
from orchestrator.recovery.faulty_nodes import FaultyNodes, Node
from orchestrator.recovery.policy import RetryWhatCanHelp

RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE


def of_rank(rank, error):
    return WorkerGroupError("text", {rank: UserExceptionWithTraceback(error, "trace")})


LOST = of_rank(2, InfrastructureError("the store did not answer"))
OWN_FAULT = of_rank(1, ValueError("their bug"))
ASSERTED = of_rank(1, RuntimeError("CUDA error: device-side assert triggered"))
DRAINED = PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"node": [1, 3]}))
LEFT = of_rank(1, NoticeError("worker 1 will be taken away: step 7 is saved, no step is lost"))
TAKEN = WorkerGroupError(
    "text",
    {
        0: UserExceptionWithTraceback(RuntimeError("Connection closed by peer"), "trace"),
        2: WorkerHealthCheckFailedError("text", failure=RayActorError(preempted=True)),
    },
)


def node_died(how):
    said = f"The actor died because its node has died. Node Id: {56 * 'b'}\n\tthe actor's node was terminated {how}"
    death = RayActorError(error_msg=f"The actor died unexpectedly before finishing this task.\n{said}")
    return WorkerGroupError("text", {1: WorkerHealthCheckFailedError("text", failure=death)})


DELETED = node_died("expectedly: received SIGTERM")
"""As Ray says it of an actor whose raylet got the signal that a kubelet sends: a pod that is deleted or evicted."""
BROKE_DOWN = node_died("unexpectedly: health check failed due to missing too many heartbeats")
MORE = of_rank(0, ResizeError("there is room for 4 workers in place of 2: step 7 is saved, no step is lost"))
NO_ROOM = ControllerError(ResizeError("there was room for 4 workers, but they did not get it within 30 s"))
DIED_AT_START = ControllerError(WorkerGroupStartupFailedError("At least one of the worker actors failed"))


@pytest.mark.parametrize(
    ("max_failures", "errors", "decisions"),
    [
        (0, [LOST], [RAISE]),
        (1, [LOST, LOST], [RETRY, RAISE]),
        (2, [LOST, LOST, LOST], [RETRY, RETRY, RAISE]),
        (2, [OWN_FAULT], [RAISE]),
        (2, [LOST, OWN_FAULT], [RETRY, RAISE]),
        (3, [ASSERTED, ASSERTED], [RETRY, RAISE]),
        (3, [ASSERTED, LOST, ASSERTED], [RETRY, RETRY, RAISE]),
        (0, [ASSERTED], [RAISE]),
        (0, [DRAINED, TAKEN, DRAINED], [RETRY, RETRY, RETRY]),
        (1, [TAKEN, LOST, DRAINED, LOST], [RETRY, RETRY, RETRY, RAISE]),
        (0, [LEFT, LEFT, LOST], [RETRY, RETRY, RAISE]),
        (0, [DELETED, DELETED, DRAINED, BROKE_DOWN], [RETRY, RETRY, RETRY, RAISE]),
        (0, [MORE, NO_ROOM, MORE, LOST], [RETRY, RETRY, RETRY, RAISE]),
        (1, [DIED_AT_START, DIED_AT_START], [RETRY, RAISE]),
    ],
)
def test_what_can_help_is_tried_again_so_often_and_no_more(max_failures, errors, decisions):
    policy = RetryWhatCanHelp(max_failures, FaultyNodes(3))
    assert [policy.make_decision(error) for error in errors] == decisions


def test_another_size_is_no_incident(capsys):
    RetryWhatCanHelp(0, FaultyNodes(3)).make_decision(MORE)
    [told] = [events.parse(line) for line in capsys.readouterr().out.splitlines()]
    assert (told["event"], told["message"].partition(" in")[0]) == ("resize", "there is room for 4 workers")


def test_each_failure_is_told_as_an_event(capsys):
    policy = RetryWhatCanHelp(1, FaultyNodes(3))
    policy.make_decision(LOST)
    policy.make_decision(LOST)
    policy.make_decision(OWN_FAULT)
    told = [events.parse(line) for line in capsys.readouterr().out.splitlines()]
    assert [{name: value for name, value in event.items() if name != "time"} for event in told] == [
        {
            "event": "incident",
            "reason": "infrastructure",
            "message": "the store did not answer",
            "rank": 2,
            "failure": 1,
            "max_failures": 1,
            "is_counted": True,
            "retry": True,
        },
        {
            "event": "incident",
            "reason": "infrastructure",
            "message": "the store did not answer",
            "rank": 2,
            "failure": 2,
            "max_failures": 1,
            "is_counted": True,
            "retry": False,
        },
        {
            "event": "incident",
            "reason": "user_error",
            "message": "worker 1: ValueError: their bug",
            "rank": 1,
            "failure": 3,
            "max_failures": 1,
            "is_counted": True,
            "retry": False,
        },
    ]


@pytest.mark.parametrize(("error", "ranks", "first"), [(DRAINED, "1, 3", 1), (TAKEN, "2", 2)])
def test_a_node_that_was_taken_away_is_told_by_its_ranks(error, ranks, first, capsys):
    RetryWhatCanHelp(0, FaultyNodes(3)).make_decision(error)
    (told,) = [events.parse(line) for line in capsys.readouterr().out.splitlines()]
    assert (
        told["message"] == f"the node of workers {ranks} was taken away (drained, preempted or told to end)"
    )
    assert (told["reason"], told["rank"], told["failure"], told["retry"]) == ("worker_lost", first, 0, True)


BROKEN, SOUND = Node("b" * 56, "10.0.0.7"), Node("a" * 56, "10.0.0.8")
ECC = RuntimeError("CUDA error: uncorrectable ECC error encountered")
NCCL = RuntimeError("NCCL error: unhandled cuda error, remote process exited or there was a network error")
NCCL_ERROR = type("DistBackendError", (RuntimeError,), {})


def of_ranks(failures):
    return WorkerGroupError(
        "text", {rank: UserExceptionWithTraceback(error, "trace") for rank, error in failures.items()}
    )


def test_a_node_is_left_out_once_its_hardware_failed_so_often(capsys):
    nodes = FaultyNodes(2)
    policy = RetryWhatCanHelp(9, nodes)
    failures = of_ranks({0: RuntimeError("Connection closed by peer"), 2: ECC, 3: ECC})
    for attempt, of_rank in enumerate(
        [{0: SOUND, 1: SOUND, 2: BROKEN, 3: BROKEN}, {0: SOUND, 1: SOUND, 2: SOUND, 3: BROKEN}], 1
    ):
        nodes.place(of_rank)
        assert policy.make_decision(failures if attempt == 1 else of_ranks({3: ECC})) == RETRY
        assert nodes.left_out == ([] if attempt == 1 else [BROKEN])
    told = [events.parse(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["rank"] for event in told if event["event"] == "incident"] == [2, 3]  # not who lost it
    assert [
        (event["node"], event["faults"], event["most"], event["is_left_out"])
        for event in told
        if event["event"] == "node_fault"
    ] == [(str(BROKEN), 1, 2, False), (str(BROKEN), 2, 2, True)]


@pytest.mark.parametrize(
    "failures",
    [
        {1: ValueError("their bug")},
        {1: RuntimeError("Connection closed by peer")},
        {1: NCCL_ERROR(str(NCCL))},  # says "cuda error", and so does who only lost the other
        {1: RuntimeError("CUDA error: device-side assert triggered")},  # the job's own code may be why
        {1: RuntimeError("CUDA out of memory")},
    ],
)
def test_what_is_no_fault_of_the_hardware_leaves_no_node_out(failures):
    nodes = FaultyNodes(1)
    nodes.place({1: BROKEN})
    RetryWhatCanHelp(9, nodes).make_decision(of_ranks(failures))
    assert nodes.left_out == []


def test_ray_is_told_the_nodes_that_are_left_out_beside_the_jobs_own_labels():
    nodes = FaultyNodes(1)
    assert nodes.without({"zone": "a"}, "ray.io/node-id") == {}
    nodes.place({0: SOUND, 1: BROKEN})
    nodes.count([1])
    assert nodes.without({"zone": "a"}, "ray.io/node-id") == {
        "zone": "a",
        "ray.io/node-id": f"!in({BROKEN.id})",
    }
    nodes.count([0, 7])
    assert nodes.without({}, "ray.io/node-id") == {"ray.io/node-id": f"!in({BROKEN.id},{SOUND.id})"}


def test_the_one_node_of_a_machine_is_never_left_out():
    nodes = FaultyNodes(None)
    nodes.place({0: BROKEN})
    assert nodes.count([0]) == {BROKEN: 1} and nodes.left_out == []
