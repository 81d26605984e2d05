"""How a status becomes the next one."""

import json
import math

import pytest
from pydantic import ValidationError

from orchestrator.errors import TrainwrightError
from orchestrator.planning.plan import Plan
from orchestrator.runs import Best, EndReason, RunState, RunStatus, run_id_problem
from orchestrator.testing.plans import small_plan

BEST, BETTER = (Best(step=step, metric="loss", value=value) for step, value in ((4, 0.5), (8, 0.25)))
NEW = RunStatus(run_id="r", state=RunState.PENDING, message="for nodes", urls={"dashboard": "http://ray"})
RUNNING = NEW.in_attempt(2, 50).reached(10, 2, {"loss": 1.0}).with_urls({"mlflow": "http://mlflow"})
LOST = (RunState.FAILED, EndReason.DRIVER_LOST, "gone")


def test_a_step_says_that_it_runs_and_waits_for_nothing():
    assert (RUNNING.state, RUNNING.message, RUNNING.step, RUNNING.total_steps) == (
        RunState.RUNNING,
        "",
        10,
        50,
    )
    stopping = RUNNING.at(RunState.STOPPING).saying("to save").reached(11, 2, {})
    assert (stopping.state, stopping.message, stopping.step) == (RunState.STOPPING, "to save", 11)
    assert RUNNING.reached(5, 3, {}).step == 5
    assert NEW.step == 0


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda status: status.at(RunState.STOPPING), {"state": RunState.STOPPING}),
        (lambda status: status.saying("wait"), {"message": "wait"}),
        (lambda status: status.on("cloud"), {"cluster": "cloud"}),
        (lambda status: status.with_urls({"a": "2", "b": "3"}), {"urls": {"a": "2", "b": "3"}}),
        (lambda status: status.with_best(BETTER), {"best": BETTER}),
        (lambda status: status.with_best(None), {}),
        (
            lambda status: status.without_nodes(["a"]).without_nodes(["b", "a"]),
            {"nodes_left_out": ("a", "b")},
        ),
        (lambda status: status.in_attempt(3, 40), {"attempt": 3, "total_steps": 40}),
        (
            lambda status: status.reached(7, 3, {"loss": 0.5}),
            {"state": RunState.RUNNING, "message": "", "step": 7, "attempt": 3, "metrics": {"loss": 0.5}},
        ),
        (
            lambda status: status.ended(*LOST, ended_at=9.0),
            {"state": RunState.FAILED, "reason": EndReason.DRIVER_LOST, "message": "gone", "ended_at": 9.0},
        ),
        (
            lambda status: status.ended(
                RunState.STOPPED, EndReason.DEADLINE, "late", ended_at=None, metrics={"x": 1.0}
            ),
            {
                "state": RunState.STOPPED,
                "reason": EndReason.DEADLINE,
                "message": "late",
                "ended_at": None,
                "metrics": {"loss": 2.0, "x": 1.0},
            },
        ),
    ],
)
@pytest.mark.parametrize("state", [RunState.PENDING, RunState.STARTING])
def test_each_change_changes_what_it_says_and_nothing_else(change, changed, state):
    fields = {
        "run_id": "r",
        "state": state,
        "message": "m",
        "cluster": "c",
        "name": "n",
        "attempt": 2,
        "step": 5,
        "total_steps": 50,
        "submitted_at": 1.0,
        "ended_at": 2.0,
        "metrics": {"loss": 2.0},
        "best": BEST,
        "urls": {"a": "1"},
    }
    assert change(RunStatus(**fields)) == RunStatus(**{**fields, **changed})


def test_metrics_are_put_over_the_last_ones_and_a_record_holds_any_float():
    metrics = {"accuracy": 0.5, "nan": math.nan, "high": math.inf, "low": -math.inf}
    for later in (RUNNING.reached(11, 2, metrics), RUNNING.ended(*LOST, ended_at=9.0, metrics=metrics)):
        written = later.model_dump_json()
        assert json.loads(written, parse_constant=pytest.fail)["metrics"] == {
            "loss": 1.0, "accuracy": 0.5, "nan": "NaN", "high": "Infinity", "low": "-Infinity"
        }  # fmt: skip
        read = RunStatus.model_validate_json(written)
        assert math.isnan(read.metrics["nan"])
        assert {**read.metrics, "nan": 0.0} == {**RUNNING.metrics, **metrics, "nan": 0.0}
        assert read.model_copy(update={"metrics": {}}) == later.model_copy(update={"metrics": {}})


def test_an_end_is_no_mere_state_and_a_state_is_no_end():
    with pytest.raises(AssertionError):
        RUNNING.at(RunState.FAILED)
    with pytest.raises(AssertionError):
        RUNNING.ended(*LOST, ended_at=9.0).at(RunState.RUNNING)
    with pytest.raises(AssertionError):
        RUNNING.ended(RunState.RUNNING, EndReason.COMPLETED, "", ended_at=9.0)


def test_an_end_keeps_what_only_the_workers_told():
    end = NEW.ended(*LOST, ended_at=9.0).after(RUNNING)
    assert (end.state, end.step, end.attempt, end.metrics) == (RunState.FAILED, 10, 2, {"loss": 1.0})
    assert end.urls == {"dashboard": "http://ray", "mlflow": "http://mlflow"}
    again = NEW.reached(4, 3, {"loss": 0.5}).ended(*LOST, ended_at=9.0).after(RUNNING)
    assert (again.step, again.attempt, again.metrics) == (4, 3, {"loss": 0.5})


def test_an_end_keeps_the_best_unless_it_has_one():
    ranked = RUNNING.with_best(BEST)
    assert NEW.after(ranked).best == BEST
    assert NEW.with_best(BETTER).after(ranked).best == BETTER
    assert NEW.with_best(BETTER).after(RUNNING).best == BETTER
    assert NEW.after(RUNNING).best is None


def test_the_best_is_what_the_record_says():
    assert NEW.with_record(RUNNING.with_best(BEST)).best == BEST
    assert NEW.with_best(BETTER).with_record(RUNNING).best is None


PENDING, STARTING, ENDED = NEW, NEW.at(RunState.STARTING), NEW.ended(*LOST, ended_at=9.0)
DONE = RUNNING.ended(RunState.SUCCEEDED, EndReason.COMPLETED, "took all", ended_at=8.0)


@pytest.mark.parametrize(
    ("cluster", "record", "state", "reason", "message"),
    [
        (PENDING, RUNNING, RunState.PENDING, None, "for nodes"),
        (STARTING, RUNNING, RunState.RUNNING, None, ""),
        (STARTING.at(RunState.STOPPING), RUNNING, RunState.STOPPING, None, "for nodes"),
        (ENDED, RUNNING, RunState.FAILED, EndReason.DRIVER_LOST, "gone"),
        (STARTING, DONE, RunState.SUCCEEDED, EndReason.COMPLETED, "took all"),
        (ENDED, DONE, RunState.SUCCEEDED, EndReason.COMPLETED, "took all"),
    ],
)
def test_a_recorded_end_holds_and_the_cluster_knows_whether_the_driver_lives(
    cluster, record, state, reason, message
):
    status = cluster.with_record(record)
    assert (status.state, status.reason, status.message) == (state, reason, message)
    assert (status.step, status.attempt, status.metrics) == (10, 2, {"loss": 1.0})
    assert status.urls == {"dashboard": "http://ray", "mlflow": "http://mlflow"}
    assert status.ended_at == (8.0 if record is DONE else cluster.ended_at)


@pytest.mark.parametrize("reason", EndReason)
def test_an_exit_code_means_a_reason_that_exits_with_it(reason):
    if reason is not EndReason.COMPLETED:  # a driver that exits with 0 has written its end
        assert EndReason.of_exit_code(reason.exit_code).exit_code == reason.exit_code


@pytest.mark.parametrize("code", [None, 0, 1, -9, 137, 6])
def test_any_other_exit_code_is_a_driver_that_could_not_speak(code):
    assert EndReason.of_exit_code(code) is EndReason.DRIVER_LOST


def test_reasons_and_errors_exit_alike():
    codes = {kind.exit_code for kind in TrainwrightError.__subclasses__()} | {0}
    assert {reason.exit_code for reason in EndReason} <= codes


@pytest.mark.parametrize("text", ["r", "2024", "digits-2026-11-28", "a" * 63])
def test_an_id_is_a_name_everywhere(text):
    assert run_id_problem(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../evil",
        "a/b",
        "/tmp/evil",
        "Bad ID!",
        "UPPER",
        "-a",
        "a-",
        "a_b",
        "a\n",
        "a.b",
        "~",
        "a" * 64,
    ],
)
def test_what_could_mean_anything_else_is_no_id(text):
    assert "no run id: it has 1 to 63 lower-case letters" in run_id_problem(text)
    with pytest.raises(ValidationError, match="no run id"):
        Plan.model_validate_json(json.dumps({**json.loads(small_plan().model_dump_json()), "run_id": text}))


def test_of_a_long_text_its_begin_is_shown():
    shown = repr("x" * 80)
    assert run_id_problem(100 * "x") == (
        f"{shown} is no run id: it has 1 to 63 lower-case letters, digits and hyphens,"
        " and begins and ends with a letter or a digit"
    )
