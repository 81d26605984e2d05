"""The Ray backend against a real HTTP server that answers as a Ray head does, and as one that is in trouble."""

import json
import platform
import sys
import threading

import pytest
from cluster_cases import plan, ray_profile
from fake_ray_jobs import FakeRayJobs
from programmable_server import Answer

from orchestrator.clusters.ray.api import RayClient
from orchestrator.clusters.ray.cluster import RayJobsCluster
from orchestrator.clusters.shared.patience import Patience
from orchestrator.errors import InfrastructureError, NotFoundError, SpecError, SupersededError
from orchestrator.records import RunRecord, plan_name
from orchestrator.runs import EndReason, RunState, RunStatus

PYTHON = platform.python_version()
ANOTHER_PYTHON = f"3.{sys.version_info.minor + 1}.4"


@pytest.fixture
def head(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    # what Ray's own client would let override the address that it is given
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with FakeRayJobs() as server:
        yield server


def cluster(head, storage, patience_seconds=5.0):
    profile = ray_profile(head.url, storage)
    return RayJobsCluster(profile, RayClient(profile, Patience(patience_seconds, 0.01), read_seconds=0.5))


def submitted(backend, tmp_path, run_id="digits-abcdefgh"):
    wanted = plan(run_id=run_id, storage=tmp_path / "runs" / run_id)
    return backend.submit(backend.render(wanted))


def test_a_submitted_job_carries_code_plan_and_command(head, tmp_path):
    status = submitted(cluster(head, tmp_path), tmp_path)
    assert (status.state, status.run_id, status.cluster, status.total_steps) == (
        "pending",
        "digits-abcdefgh",
        "pool",
        100,
    )
    [job] = head.jobs.values()
    assert job["submission_id"] == "digits-abcdefgh"
    assert job["entrypoint"] == "python -m orchestrator.driver --plan trainwright-plan.json --launch 1 --keep"
    assert job["runtime_env"]["env_vars"] == {"RAY_TRAIN_V2_ENABLED": "1"}
    assert len(head.packages) == 1


def test_a_repeated_submit_is_one_job(head, tmp_path):
    first, second = (submitted(cluster(head, tmp_path), tmp_path) for _ in range(2))
    assert first == second
    assert len(head.jobs) == 1


def test_twenty_submits_at_once_are_one_job(head, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(submitted(cluster(head, tmp_path, 30.0), tmp_path)))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert len(head.jobs) == 1


@pytest.mark.parametrize("kind", ["lose", "drop"])
def test_a_lost_answer_to_a_submit_is_one_job(head, tmp_path, kind):
    head.fail("POST", "/api/jobs/$", kind=kind)
    assert submitted(cluster(head, tmp_path), tmp_path).state is RunState.PENDING
    assert head.count("POST", "/api/jobs/$") == 2
    assert len(head.jobs) == 1


def test_a_head_that_has_just_started_is_waited_for_with_the_same_id(head, tmp_path):
    trouble = Answer(500, b"No available agent to submit job, please try again later.")
    head.fail("POST", "/api/jobs/$", trouble, times=4)
    submitted(cluster(head, tmp_path, patience_seconds=0.0), tmp_path)
    sent = {
        asked.json["submission_id"]
        for asked in head.asked
        if asked.path == "/api/jobs/" and asked.method == "POST"
    }
    assert sent == {"digits-abcdefgh"}
    assert len(head.jobs) == 1


def test_another_server_error_on_a_submit_is_not_tried_again(head, tmp_path):
    trace = b"Traceback (most recent call last):\n  File x\nRuntimeError: the disk is full"
    head.fail("POST", "/api/jobs/$", Answer(500, trace), times=9)
    with pytest.raises(InfrastructureError) as caught:
        submitted(cluster(head, tmp_path), tmp_path)
    assert str(caught.value) == "cluster pool can't submit the job: HTTP 500: RuntimeError: the disk is full"
    assert head.count("POST", "/api/jobs/$") == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_waited_for(head, tmp_path, status):
    head.fail("POST", "/api/jobs/$", Answer(status, b"busy", {"Retry-After": "0.01"}), times=3)
    submitted(cluster(head, tmp_path), tmp_path)
    assert len(head.jobs) == 1


def test_a_job_of_another_plan_under_the_id_is_not_taken_for_ours(head, tmp_path):
    backend = cluster(head, tmp_path)
    submitted(backend, tmp_path)
    other = plan(storage=tmp_path / "runs" / "digits-abcdefgh", training={"max_steps": 7})
    with pytest.raises(SpecError, match="another job with the id digits-abcdefgh"):
        backend.submit(backend.render(other))


@pytest.mark.parametrize(
    ("versions", "sentence"),
    [
        (
            {"ray_version": "2.49.1"},
            "cluster pool runs Ray 2.49.1, this client 2.60.0; both must be of the same minor",
        ),
        (
            {"python_version": ANOTHER_PYTHON},
            f"cluster pool runs Python {ANOTHER_PYTHON}, this client {PYTHON};",
        ),
    ],
)
def test_a_version_that_can_not_work_is_said_before_anything_is_sent(
    monkeypatch, tmp_path, versions, sentence
):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    with FakeRayJobs(**versions) as head:
        with pytest.raises(SpecError, match=sentence):
            submitted(cluster(head, tmp_path), tmp_path)
        assert not head.packages
        assert not head.jobs


def test_no_token_and_a_wrong_one_are_one_sentence_and_one_try(head, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # as in a process that has been in another cluster
    with pytest.raises(
        InfrastructureError,
        match=r"^cluster pool asks for a token and none was found in secrets\.ray_token_file",
    ):
        cluster(head, tmp_path).ping()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(
        InfrastructureError, match=r"^cluster pool refuses the token found in .*ask for the cluster's current"
    ):
        cluster(head, tmp_path).ping()
    assert len(head.asked) == 2


def test_a_token_file_that_others_can_read_is_refused(tmp_path):
    token = tmp_path / "token"
    token.write_text("right\n")
    token.chmod(0o644)
    profile = ray_profile(secrets={"ray_token_file": str(token)})
    with pytest.raises(SpecError, match=f"others can read .* run: chmod 600 {token}"):
        RayClient(profile, Patience(0)).versions()


def test_a_web_page_instead_of_an_answer(head, tmp_path):
    page = Answer(200, b"<!doctype html><html>please log in</html>", {"Content-Type": "text/html"})
    head.fail("GET", "/api/jobs/", page)
    with pytest.raises(
        InfrastructureError, match="answered with a web page that is no JSON; address must be Ray's dashboard"
    ):
        cluster(head, tmp_path).ping()


def test_a_body_that_does_not_come(head, tmp_path):
    head.fail("GET", "/api/jobs/", kind="stall", times=99)
    with pytest.raises(InfrastructureError, match=r"does not answer \(no answer in time\)"):
        cluster(head, tmp_path, patience_seconds=0.05).ping()


def test_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    profile = ray_profile("http://127.0.0.1:1", tmp_path)
    with pytest.raises(
        InfrastructureError, match=r"http://127\.0\.0\.1:1 does not answer \(connection refused\)"
    ):
        RayJobsCluster(profile, RayClient(profile, Patience(0.0))).ping()


def test_a_dropped_connection_is_taken_up_again(head, tmp_path):
    head.fail("GET", "/api/jobs/", kind="drop", times=2)
    assert cluster(head, tmp_path).ping().startswith(f"Ray 2.60.0, Python {PYTHON}")


def test_what_the_driver_recorded_is_what_is_told(head, tmp_path):
    backend = cluster(head, tmp_path)
    submitted(backend, tmp_path)
    record = RunRecord(str(tmp_path / "runs" / "digits-abcdefgh"))
    running = RunStatus(run_id="digits-abcdefgh", state=RunState.STARTING, step=5, attempt=2, launch=1)
    record.set_state(running)
    head.set_job("digits-abcdefgh", status="RUNNING")
    head.output["digits-abcdefgh"] = (
        '@trainwright {"event":"metrics","time":1,"step":30,"attempt":2,"values":{"loss":0.5}}\n'
    )
    status = backend.status("digits-abcdefgh")
    assert (status.state, status.step, status.attempt, status.metrics) == (
        RunState.RUNNING,
        30,
        2,
        {"loss": 0.5},
    )
    record.end(
        running.model_copy(
            update={"state": RunState.FAILED, "reason": EndReason.NAN_LOSS, "message": "nan", "ended_at": 2.0}
        )
    )
    assert backend.status("digits-abcdefgh").reason is EndReason.NAN_LOSS
    head.set_job("digits-abcdefgh", status="SUCCEEDED")
    assert backend.status("digits-abcdefgh").reason is EndReason.NAN_LOSS


@pytest.mark.parametrize(
    ("job", "state", "reason", "message"),
    [
        ({"status": "FAILED", "message": "JobSupervisor actor died", "driver_exit_code": None}, "failed", "driver_lost", "JobSupervisor actor died"),
        ({"status": "FAILED", "message": "exit code 3\nboom", "driver_exit_code": 3}, "failed", "user_error", "boom"),
        ({"status": "FAILED", "message": "x", "driver_exit_code": 5}, "stopped", "stopped_by_user", "x"),
        ({"status": "FAILED", "message": "x", "driver_exit_code": 137}, "failed", "driver_lost", "x"),
        ({"status": "FAILED", "message": "no disk", "error_type": "RUNTIME_ENV_SETUP_FAILURE"}, "failed", "infrastructure", "no disk"),
        ({"status": "STOPPED"}, "stopped", "stopped_by_user", "ended at once by a stop"),
        ({"status": "SUCCEEDED"}, "succeeded", "completed", "took all its steps"),
    ],
)  # fmt: skip
def test_an_end_without_a_record(head, tmp_path, job, state, reason, message):
    backend = cluster(head, tmp_path)
    submitted(backend, tmp_path)
    head.set_job("digits-abcdefgh", end_time=7000, **job)
    status = backend.status("digits-abcdefgh")
    assert (status.state, status.reason, status.message, status.ended_at) == (state, reason, message, 7.0)


def test_where_storage_is_out_of_reach_the_output_tells(head):
    backend = cluster(head, "/nowhere")
    wanted = plan(storage="/nowhere/runs/digits-abcdefgh")
    backend.submit(backend.render(wanted))
    head.set_job("digits-abcdefgh", status="FAILED", driver_exit_code=3, message="exit")
    head.output["digits-abcdefgh"] = (
        '@trainwright {"event":"attempt","time":1,"attempt":4,"launch":1,"start_step":0,"total_steps":100}\n'
        '@trainwright {"event":"tracking","time":1,"url":"http://mlflow/1"}\n'
        "(worker pid=3) noise\n"
        '@trainwright {"event":"end","time":9,"state":"failed","reason":"nan_loss","message":"nan","metrics":{},"step":4}\n'
    )
    status = backend.status("digits-abcdefgh")
    assert (status.attempt, status.reason, status.message) == (4, EndReason.NAN_LOSS, "nan")
    assert status.urls["mlflow"] == "http://mlflow/1"


def test_stop_asks_the_driver_and_now_asks_ray(head, tmp_path):
    backend = cluster(head, tmp_path)
    submitted(backend, tmp_path)
    record = RunRecord(str(tmp_path / "runs" / "digits-abcdefgh"))
    head.set_job("digits-abcdefgh", status="RUNNING")
    for _ in range(2):
        assert backend.stop("digits-abcdefgh").state is RunState.STOPPING
    assert record.stop_was_asked(1)
    assert head.jobs["digits-abcdefgh"]["status"] == "RUNNING"
    assert backend.stop("digits-abcdefgh", now=True).state is RunState.STOPPING
    assert backend.stop("digits-abcdefgh", now=True).state is RunState.STOPPED
    assert head.jobs["digits-abcdefgh"]["status"] == "STOPPED"


def test_a_job_that_waits_is_stopped_at_once(head, tmp_path):
    backend = cluster(head, tmp_path)
    submitted(backend, tmp_path)
    backend.stop("digits-abcdefgh")
    assert backend.status("digits-abcdefgh").state is RunState.STOPPED


def test_an_ended_run_stays_as_it_is(head, tmp_path):
    backend = cluster(head, tmp_path)
    submitted(backend, tmp_path)
    head.set_job("digits-abcdefgh", status="SUCCEEDED")
    assert backend.stop("digits-abcdefgh", now=True).state is RunState.SUCCEEDED
    assert head.count("POST", "/stop") == 0


def test_resume_is_another_launch_of_the_same_plan(head, tmp_path):
    backend = cluster(head, tmp_path)
    submitted(backend, tmp_path)
    with pytest.raises(SpecError, match="it is pending; stop it first"):
        backend.resume("digits-abcdefgh")
    head.set_job("digits-abcdefgh", status="FAILED", driver_exit_code=4, message="x")
    assert backend.resume("digits-abcdefgh").launch == 2
    job = head.jobs["digits-abcdefgh-2"]
    assert job["entrypoint"].endswith("--launch 2 --keep")
    assert job["metadata"]["plan"] == head.jobs["digits-abcdefgh"]["metadata"]["plan"]
    [listed] = backend.list()
    assert listed == backend.status("digits-abcdefgh")
    assert listed.launch == 2
    head.set_job("digits-abcdefgh-2", status="SUCCEEDED")
    with pytest.raises(SpecError, match="nothing is left to resume"):
        backend.resume("digits-abcdefgh")


def test_list_is_newest_first_and_leaves_other_jobs_out(head, tmp_path):
    backend = cluster(head, tmp_path)
    for name in ("a-abcdefgh", "b-abcdefgh"):
        submitted(backend, tmp_path, name)
    head.jobs["theirs"] = {**head.jobs["a-abcdefgh"], "submission_id": "theirs", "metadata": {}}
    assert [status.run_id for status in backend.list()] == ["b-abcdefgh", "a-abcdefgh"]
    with pytest.raises(NotFoundError, match="job theirs of cluster pool is not a run of trainwright"):
        backend.status("theirs")


def test_a_run_that_is_not_there(head, tmp_path):
    backend = cluster(head, tmp_path)
    for verb in (backend.status, backend.stop, backend.resume, lambda run: list(backend.logs(run))):
        with pytest.raises(NotFoundError, match="cluster pool knows no run nobody"):
            verb("nobody")


def left_behind(backend, tmp_path, launches=1):
    """A run of so many launches whose head is lost; its record has what their drivers wrote."""
    submitted(backend, tmp_path)
    record = RunRecord(str(tmp_path / "runs" / "digits-abcdefgh"))
    for launch in range(1, launches + 1):
        made = backend.plan("digits-abcdefgh").model_copy(update={"total_steps": 100 * launch})
        record.store.write(plan_name(launch), made.model_dump_json().encode())
        record.set_state(
            RunStatus(run_id="digits-abcdefgh", state=RunState.RUNNING, launch=launch, step=40, attempt=3)
        )
    return record


def test_a_run_that_ray_has_forgotten_is_resumed_from_its_records(head, tmp_path):
    backend = cluster(head, tmp_path)
    record = left_behind(backend, tmp_path, launches=2)
    old_driver = record.taken_over(2)
    head.jobs.clear()
    status = backend.status("digits-abcdefgh")
    assert (status.state, status.reason, status.step) == (RunState.FAILED, EndReason.DRIVER_LOST, 40)
    assert "trainwright resume digits-abcdefgh" in status.message
    assert not record.status(2).state.is_final  # to look at it changes nothing
    with pytest.raises(NotFoundError, match=r"has forgotten.* run digits-abcdefgh and its output"):
        list(backend.logs("digits-abcdefgh"))
    assert backend.resume("digits-abcdefgh").launch == 3
    [job] = head.jobs.values()
    assert job["entrypoint"].endswith("--launch 3 --keep")
    assert json.loads(job["metadata"]["plan"])["total_steps"] == 200  # the newest launch's
    assert record.status(2).reason is EndReason.DRIVER_LOST
    assert backend.status("digits-abcdefgh").launch == 3
    head.output["digits-abcdefgh-3"] = "goes on"
    assert list(backend.logs("digits-abcdefgh")) == ["goes on"]
    with pytest.raises(SupersededError):  # should it live on
        old_driver.set_state(record.status(2))


def test_a_forgotten_run_that_had_ended_tells_its_end(head, tmp_path):
    backend = cluster(head, tmp_path)
    record = left_behind(backend, tmp_path)
    ended = record.status(1).ended(RunState.STOPPED, EndReason.STOPPED_BY_USER, "stopped", ended_at=5.0)
    record.end(ended)
    head.jobs.clear()
    assert backend.status("digits-abcdefgh").message == "stopped"
    assert backend.list() == [] and [status.message for status in backend.forgotten()] == ["stopped"]
    assert backend.resume("digits-abcdefgh").launch == 2


def test_another_job_under_the_id_of_a_forgotten_run_is_refused(head, tmp_path):
    backend = cluster(head, tmp_path)
    left_behind(backend, tmp_path)
    head.jobs.clear()
    other = plan(storage=tmp_path / "runs" / "digits-abcdefgh", training={"max_steps": 7})
    with pytest.raises(SpecError, match="another job that was submitted before"):
        backend.submit(backend.render(other))
    submitted(backend, tmp_path)
    assert len(head.jobs) == 1


def test_logs_of_the_driver_and_of_a_rank_over_all_attempts(head, tmp_path):
    backend = cluster(head, tmp_path)
    submitted(backend, tmp_path)
    head.output["digits-abcdefgh"] = "one\ntwo"
    assert list(backend.logs("digits-abcdefgh")) == ["one", "two"]
    logs = tmp_path / "runs" / "digits-abcdefgh" / "logs"
    for attempt in (1, 2, 10):
        (logs / f"attempt-{attempt}").mkdir(parents=True)
        (logs / f"attempt-{attempt}" / "rank-3.log").write_text(f"attempt {attempt}\nlast")
    expected = [line for attempt in (1, 2, 10) for line in (f"attempt {attempt}", "last")]
    assert list(backend.logs("digits-abcdefgh", rank=3)) == expected
    with pytest.raises(NotFoundError, match="run digits-abcdefgh has no output of rank 4"):
        list(backend.logs("digits-abcdefgh", rank=4))
    head.set_job("digits-abcdefgh", status="FAILED")
    assert list(backend.logs("digits-abcdefgh", rank=3, follow=True)) == expected


def test_a_run_that_records_its_steps_is_told_without_its_output(head, tmp_path):
    backend = cluster(head, tmp_path)
    submitted(backend, tmp_path)
    head.set_job("digits-abcdefgh", status="RUNNING")
    RunRecord(str(tmp_path / "runs" / "digits-abcdefgh")).set_state(
        RunStatus(run_id="digits-abcdefgh", state=RunState.RUNNING, step=40, attempt=2, metrics={"loss": 1.0})
    )
    for status in (backend.status("digits-abcdefgh"), *backend.list()):
        assert (status.state, status.step, status.attempt) == (RunState.RUNNING, 40, 2)
        assert status.metrics == {"loss": 1.0}
    assert head.count("GET", "/logs$") == 0
