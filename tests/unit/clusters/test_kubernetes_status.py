import itertools
import json

import pytest
from cluster_cases import kubernetes_profile, plan
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.clusters.kubernetes.request import STOP, plan_to_rayjob
from orchestrator.clusters.kubernetes.status import TABLE, rayjob_to_status, row_of
from orchestrator.runs import EndReason, RunState, RunStatus

DEPLOYMENTS = (
    "", "Initializing", "Running", "Complete", "Failed", "ValidationFailed", "Suspending", "Suspended", "Retrying", "Waiting",
)  # fmt: skip
JOBS = ("", "PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED")
REASONS = (
    "", "SubmissionFailed", "DeadlineExceeded", "PreRunningDeadlineExceeded", "AppFailed", "ValidationFailed",
    "JobDeploymentStatusTransitionGracePeriodExceeded", "JobStatusCheckTimeoutExceeded",
)  # fmt: skip
"""All that KubeRay 1.7 can say."""

PROFILE = kubernetes_profile()


def rayjob(deployment="", job="", reason="", message="", notes=None, **status):
    body = plan_to_rayjob(plan(), PROFILE)
    body["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z"
    body["metadata"]["annotations"] |= notes or {}
    given_status = {
        "jobDeploymentStatus": deployment,
        "jobStatus": job,
        "reason": reason,
        "message": message,
        **status,
    }
    body["status"] = {name: value for name, value in given_status.items() if value}
    return body


def end(reason, **fields):
    state = {EndReason.COMPLETED: RunState.SUCCEEDED, EndReason.STOPPED_BY_USER: RunState.STOPPED}
    return RunStatus(
        run_id="digits-abcdefgh",
        state=state.get(reason, RunState.FAILED),
        reason=reason,
        ended_at=5.0,
        **fields,
    )


def test_every_state_that_kuberay_has_is_in_the_table():
    for deployment, job, reason in itertools.product(DEPLOYMENTS, JOBS, REASONS):
        row = row_of(deployment, job, reason)
        assert row in TABLE, (deployment, job, reason)
        assert row.state.is_final == (row.why is not None)
        if row.state.is_final:
            assert row.message


def test_no_row_is_hidden_by_those_above_it():
    seen = {row_of(*said) for said in itertools.product(DEPLOYMENTS, JOBS, REASONS)}
    assert seen == set(TABLE)


def test_only_ended_deployments_are_ends_and_all_of_them_are():
    for deployment, job, reason in itertools.product(DEPLOYMENTS, JOBS, REASONS):
        has_ended = deployment in ("Complete", "Failed", "ValidationFailed") or (
            deployment == "Running" and job in ("SUCCEEDED", "STOPPED", "FAILED")
        )
        assert row_of(deployment, job, reason).state.is_final == has_ended


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        (("Initializing", "", ""), RunState.PENDING, None),
        (("Running", "RUNNING", ""), RunState.STARTING, None),
        (("Complete", "SUCCEEDED", ""), RunState.SUCCEEDED, EndReason.COMPLETED),
        (("Failed", "FAILED", "AppFailed"), RunState.FAILED, EndReason.DRIVER_LOST),
        (("Failed", "", "PreRunningDeadlineExceeded"), RunState.FAILED, EndReason.NO_RESOURCES),
        (("Failed", "RUNNING", "DeadlineExceeded"), RunState.FAILED, EndReason.DEADLINE),
        (("Failed", "", "SubmissionFailed"), RunState.FAILED, EndReason.INFRASTRUCTURE),
        (("ValidationFailed", "", "ValidationFailed"), RunState.FAILED, EndReason.BAD_SPEC),
        (("Retrying", "FAILED", "AppFailed"), RunState.PENDING, None),
    ],
)
def test_what_the_table_means(said, state, reason):
    status = rayjob_to_status(rayjob(*said), PROFILE)
    assert (status.state, status.reason) == (state, reason)


@pytest.mark.parametrize(
    ("code", "reason"), [(2, "bad_spec"), (3, "user_error"), (4, "infrastructure"), (137, "driver_lost")]
)
def test_the_driver_s_exit_code_says_whose_fault_it_was(code, reason):
    message = f"Job entrypoint command failed with exit code {code}, last available logs:\nthe loss is NaN"
    status = rayjob_to_status(rayjob("Failed", "FAILED", "AppFailed", message), PROFILE)
    assert (status.reason, status.message) == (reason, "AppFailed: the loss is NaN")


def test_what_the_driver_said_of_its_end_is_read_from_kuberay_s_message():
    said = {"event": "end", "time": 9.0, "state": "failed", "reason": "bad_data", "message": "no x.csv"}
    message = (
        "Job entrypoint command failed with exit code 3, last available logs (truncated to 20,000 chars):\n"
        f"Running entrypoint\n@trainwright {json.dumps(said | {'metrics': {}, 'step': 0})}\n(raylet) bye\n"
    )
    status = rayjob_to_status(rayjob("Failed", "FAILED", "AppFailed", message), PROFILE)
    assert (status.state, status.reason, status.message) == (RunState.FAILED, EndReason.BAD_DATA, "no x.csv")
    ended = rayjob_to_status(rayjob("Failed", "FAILED", "AppFailed", message, notes={STOP: "1000"}), PROFILE)
    assert (ended.state, ended.message) == (RunState.STOPPED, "ended at once by a stop")


def test_a_driver_that_stopped_at_a_person_s_wish_is_no_failure():
    message = "Job entrypoint command failed with exit code 5, last available logs:\nstopped after step 7"
    status = rayjob_to_status(rayjob("Failed", "FAILED", "AppFailed", message), PROFILE)
    assert (status.state, status.reason) == (RunState.STOPPED, EndReason.STOPPED_BY_USER)


def test_a_state_of_a_newer_kuberay_is_said_and_is_no_end():
    status = rayjob_to_status(rayjob("Hibernating", "DREAMING"), PROFILE)
    assert status.state is RunState.PENDING
    assert "Hibernating" in status.message


def test_a_stop_now_shows_until_the_pods_are_gone_and_then_is_the_end():
    stopped = {STOP: "1000"}
    assert rayjob_to_status(rayjob("Running", "RUNNING", notes=stopped), PROFILE).state is RunState.STOPPING
    for said in (("Failed", "RUNNING", "DeadlineExceeded"), ("Suspended", "", "")):
        status = rayjob_to_status(rayjob(*said, notes=stopped), PROFILE)
        assert (status.state, status.reason) == (RunState.STOPPED, EndReason.STOPPED_BY_USER)
        assert status.ended_at == 1000.0  # KubeRay has noted no end
    by_hand = rayjob_to_status(rayjob("Suspended", "", "", notes={STOP: "now"}), PROFILE)
    assert (by_hand.state, by_hand.ended_at) == (RunState.STOPPED, None)
    assert (
        rayjob_to_status(rayjob("Complete", "SUCCEEDED", notes=stopped), PROFILE).state is RunState.SUCCEEDED
    )


@given(
    st.sampled_from(DEPLOYMENTS),
    st.sampled_from(JOBS),
    st.sampled_from(REASONS),
    st.sampled_from(list(EndReason)),
)
def test_a_recorded_end_holds_whatever_kuberay_says(deployment, job, reason, recorded):
    record = end(recorded, message="as recorded", step=7, metrics={"loss": 1.0})
    status = rayjob_to_status(rayjob(deployment, job, reason), PROFILE, record)
    assert (status.state, status.reason, status.message) == (record.state, record.reason, "as recorded")
    assert (status.step, status.metrics, status.ended_at) == (7, {"loss": 1.0}, 5.0)


def test_a_record_that_still_runs_gives_way_to_an_end_that_kuberay_saw():
    record = RunStatus(run_id="digits-abcdefgh", state=RunState.RUNNING, step=40, attempt=2)
    lost = rayjob(
        "Failed",
        "RUNNING",
        "JobStatusCheckTimeoutExceeded",
        "no route to host",
        endTime="2026-01-02T03:05:05Z",
    )
    status = rayjob_to_status(lost, PROFILE, record)
    assert (status.state, status.reason, status.step, status.attempt) == (
        RunState.FAILED,
        EndReason.DRIVER_LOST,
        40,
        2,
    )
    assert status.ended_at - status.submitted_at == 60
    running = rayjob_to_status(rayjob("Running", "RUNNING"), PROFILE, record)
    assert running.state is RunState.RUNNING


def test_why_pods_do_not_run_is_the_message_while_it_waits_and_only_then():
    waiting = rayjob_to_status(rayjob("Initializing"), PROFILE, problem="no node")
    assert (waiting.state, waiting.message) == (RunState.PENDING, "no node")
    assert rayjob_to_status(rayjob("Running", "RUNNING"), PROFILE, problem="no node").message == ""


def test_what_the_object_carries_comes_back():
    status = rayjob_to_status(rayjob("Running", "RUNNING", dashboardURL="head.training.svc:8265"), PROFILE)
    assert (status.run_id, status.name, status.launch, status.total_steps) == (
        "digits-abcdefgh",
        "digits",
        1,
        100,
    )
    assert status.urls == {
        "dashboard": "http://head.training.svc:8265",
        "checkpoints": "s3://bucket/runs/digits-abcdefgh/checkpoints",
    }
