import pytest
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import WorkerGroupError

from orchestrator import events
from orchestrator.errors import InfrastructureError
from orchestrator.recovery.policy import RetryWhatCanHelp

RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE


def of_rank(rank, error):
    return WorkerGroupError("text", {rank: UserExceptionWithTraceback(error, "trace")})


LOST = of_rank(2, InfrastructureError("the store did not answer"))
OWN_FAULT = of_rank(1, ValueError("their bug"))


@pytest.mark.parametrize(
    ("max_failures", "errors", "decisions"),
    [
        (0, [LOST], [RAISE]),
        (1, [LOST, LOST], [RETRY, RAISE]),
        (2, [LOST, LOST, LOST], [RETRY, RETRY, RAISE]),
        (2, [OWN_FAULT], [RAISE]),
        (2, [LOST, OWN_FAULT], [RETRY, RAISE]),
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
            "retry": True,
        },
        {
            "event": "incident",
            "reason": "infrastructure",
            "message": "the store did not answer",
            "rank": 2,
            "failure": 2,
            "max_failures": 1,
            "retry": False,
        },
        {
            "event": "incident",
            "reason": "user_error",
            "message": "worker 1: ValueError: their bug",
            "rank": 1,
            "failure": 3,
            "max_failures": 1,
            "retry": False,
        },
    ]
