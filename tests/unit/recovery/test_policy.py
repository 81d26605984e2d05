import pytest
from ray.exceptions import RayActorError
from ray.train import PreemptionInfo
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError

from orchestrator import events
from orchestrator.errors import InfrastructureError, NoticeError
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
    ],
)
def test_what_can_help_is_tried_again_so_often_and_no_more(max_failures, errors, decisions):
    policy = RetryWhatCanHelp(max_failures)
    assert [policy.make_decision(error) for error in errors] == decisions


def test_each_failure_is_told_as_an_event(capsys):
    policy = RetryWhatCanHelp(1)
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
    RetryWhatCanHelp(0).make_decision(error)
    (told,) = [events.parse(line) for line in capsys.readouterr().out.splitlines()]
    assert told["message"] == f"the node of workers {ranks} was taken away (drained or preempted)"
    assert (told["reason"], told["rank"], told["failure"], told["retry"]) == ("worker_lost", first, 0, True)
