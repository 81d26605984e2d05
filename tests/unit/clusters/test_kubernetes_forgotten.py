"""Runs on a storage claim whose pods, or RayJobs, are gone: told by their records, through a short pod that mounts the claim. Its
commands are processes here, and the claim is a folder."""

import json
import logging
import time
from datetime import UTC, datetime

import pytest
from cluster_cases import kubernetes_profile, plan
from fake_kubernetes import FakeKubernetes

from orchestrator import sdk
from orchestrator.clusters.kubernetes.cluster import KubernetesCluster
from orchestrator.clusters.kubernetes.request import STOP
from orchestrator.clusters.shared import record_tool
from orchestrator.clusters.shared.stores import ANSWER_MARK
from orchestrator.errors import InfrastructureError, NotFoundError, SpecError
from orchestrator.handle import Run
from orchestrator.ledger import ledger_of
from orchestrator.records import RunRecord, plan_name
from orchestrator.runs import EndReason, RunState, RunStatus

RUN = "digits-abcdefgh"


@pytest.fixture
def server(tmp_path, monkeypatch):
    with FakeKubernetes() as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path)))
        yield running


@pytest.fixture(autouse=True)
def tool(request, server):
    """Each command's process takes a second to start: one test has real ones."""
    if "real_processes" not in request.fixturenames:
        server.answers[record_tool.__name__] = lambda words: (
            f"{ANSWER_MARK}{json.dumps(record_tool.answer(words))}\n"
        )


@pytest.fixture
def real_processes():
    """The commands in pods are processes."""


@pytest.fixture
def claim(tmp_path):
    folder = tmp_path / "claim"
    folder.mkdir()
    return folder


@pytest.fixture
def profile(claim):
    return kubernetes_profile({"storage_claim": "data"}, storage=str(claim))


@pytest.fixture
def backend(server, profile):
    return KubernetesCluster(profile)


def left_behind(claim, run_id=RUN, *, launch=1, ended=True, cluster="prod"):
    """What a run leaves in the claim."""
    storage = claim / "runs" / run_id
    record = RunRecord(str(storage))
    made = plan(run_id=run_id, storage=storage, training={"max_steps": 100 * launch})
    made = made.model_copy(update={"cluster": cluster})
    for number in (1, launch):
        record.store.write(plan_name(number), made.model_dump_json().encode())
        told = RunStatus(run_id=run_id, state=RunState.RUNNING, launch=number, name="digits", step=40)
        record.set_state(told.in_attempt(2, made.total_steps))
    if ended:
        record.end(told.ended(RunState.STOPPED, EndReason.STOPPED_BY_USER, "saved step 40", ended_at=5.0))
    record.store.write(f"launches/{launch}/driver.log", b"first\nlast\n")
    for attempt in (1, 2):
        record.store.write(f"logs/attempt-{attempt}/rank-3.log", b"of attempt %d\n" % attempt)
    return record


def short_pods(server):
    return [name for name in server.objects["pods"] if name.startswith("trainwright-files-")]


def test_a_run_whose_rayjob_is_gone_is_told_by_its_records(server, backend, claim):
    left_behind(claim)
    status = backend.status(RUN)
    assert (status.state, status.reason, status.message) == (
        RunState.STOPPED,
        EndReason.STOPPED_BY_USER,
        "saved step 40",
    )
    assert (status.step, status.attempt, status.cluster) == (40, 2, "prod")
    assert status.urls["checkpoints"] == f"{claim}/runs/{RUN}/checkpoints"
    assert backend.stop(RUN) == status
    assert list(backend.logs(RUN)) == list(backend.logs(RUN, follow=True)) == ["first", "last"]
    assert list(backend.logs(RUN, rank=3)) == ["of attempt 1", "of attempt 2"]
    with pytest.raises(NotFoundError, match="has no output of rank 4"):
        list(backend.logs(RUN, rank=4))
    assert len(short_pods(server)) == 1  # one serves them all


def test_no_pod_stays_when_nobody_holds_the_cluster(server, profile, claim, real_processes):
    left_behind(claim)
    assert Run(RUN, KubernetesCluster(profile)).status().step == 40
    assert not short_pods(server)


def test_a_forgotten_run_is_resumed_from_its_records_as_from_its_rayjob(server, profile, backend, claim):
    left_behind(claim, launch=2)
    status = sdk.attach(RUN, profile).resume(["training.max_steps=500"])
    assert (status.launch, status.state) == (3, RunState.PENDING)
    rayjob = server.only("rayjobs")
    assert rayjob["spec"]["entrypoint"].endswith("--launch 3 --keep")
    made = backend.plan(RUN)
    assert made.total_steps == 500 and made.run_id == RUN
    server.set_status(f"{RUN}-3", jobDeploymentStatus="Failed", reason="DeadlineExceeded")
    again = backend.resume(RUN)
    assert again.launch == 4 and backend.plan(RUN) == made  # and from the RayJob as ever


def test_a_run_that_wrote_no_end_was_lost_with_its_rayjob(server, backend, claim):
    record = left_behind(claim, ended=False)
    old_driver = record.taken_over(1)
    status = backend.status(RUN)
    assert (status.state, status.reason, status.step) == (RunState.FAILED, EndReason.DRIVER_LOST, 40)
    assert f"trainwright resume {RUN}" in status.message
    assert not record.status(1).state.is_final  # to look at it changes nothing
    assert backend.resume(RUN).launch == 2
    assert record.status(1).reason is EndReason.DRIVER_LOST
    assert old_driver.is_superseded


def test_one_that_another_cluster_may_run_is_not_taken_from_it(server, backend, claim):
    record = left_behind(claim, ended=False, cluster="theirs")
    [status] = backend.forgotten()
    assert status == backend.status(RUN)
    assert (status.state, status.cluster) == (RunState.RUNNING, "theirs")
    with pytest.raises(SpecError, match=rf"run {RUN} is running: .* submitted to cluster theirs"):
        backend.resume(RUN)
    assert record.status(1).state is RunState.RUNNING and not server.objects["rayjobs"]


def test_nothing_is_resumed_of_what_is_being_deleted_or_has_no_plan(server, backend, claim):
    record = left_behind(claim)
    record.store.write("control/deleted", b"")
    with pytest.raises(SpecError, match="is being deleted"):
        backend.resume(RUN)
    record.store.remove("control/deleted")
    record.store.remove("plan.json")
    with pytest.raises(SpecError, match=r"has no plan in .*submit the job again"):
        backend.resume(RUN)
    assert not server.objects["rayjobs"]


def test_a_list_has_forgotten_runs_where_it_is_asked_for_them(server, profile, backend, claim, caplog):
    for run_id in ("a-abcdefgh", "b-abcdefgh", RUN):
        left_behind(claim, run_id)
    (claim / "runs" / "b-abcdefgh" / "launches" / "1" / "final.json").write_text("{")
    (claim / "runs" / "Not A Run").mkdir()
    backend.submit(backend.render(plan(run_id=RUN, storage=claim / "runs" / RUN)))
    assert [status.run_id for status in sdk.list_runs(profile)] == [RUN]
    assert not server.commands
    found = {status.run_id: status for status in sdk.list_runs(profile, forgotten=True)}
    assert set(found) == {"a-abcdefgh", RUN}
    assert found[RUN].state is RunState.PENDING  # what the cluster knows goes before what it left behind
    assert found["a-abcdefgh"].state is RunState.STOPPED
    assert "b-abcdefgh/launches/1/final.json is damaged" in caplog.text
    assert len(server.commands) == 1


def test_a_run_that_nobody_has_is_not_found(server, backend, claim):
    for verb in (backend.status, backend.plan, backend.stop, backend.resume, backend.logs):
        with pytest.raises(NotFoundError, match="knows no run nobody"):
            verb("nobody")


@pytest.mark.parametrize("denied", [("create", "pods"), ("create", "pods/exec")])
def test_a_right_that_is_missing_is_named(server, backend, claim, denied):
    left_behind(claim)
    server.denied = {denied}
    said = f"you have no right to {' '.join(denied)} in namespace training.*-storage does"
    for verb in (backend.status, backend.logs, lambda run: backend.forgotten()):
        with pytest.raises(InfrastructureError, match=said):
            verb(RUN)
    assert not short_pods(server)


def test_a_run_whose_pods_alone_are_gone_is_told_whole(server, backend, claim, caplog):
    caplog.set_level(logging.WARNING)
    left_behind(claim)
    backend.submit(backend.render(plan(run_id=RUN, storage=claim / "runs" / RUN)))
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", rayClusterName="gone")
    status = backend.status(RUN)
    assert (status.message, status.step) == ("saved step 40", 40)
    assert list(backend.logs(RUN)) == list(backend.logs(RUN, follow=True)) == ["first", "last"]
    assert list(backend.logs(RUN, rank=3)) == ["of attempt 1", "of attempt 2"]
    server.denied = {("create", "pods/exec")}
    other = KubernetesCluster(backend.profile)
    assert (other.status(RUN).state, other.status(RUN).step) == (RunState.SUCCEEDED, 0)
    assert "you have no right to create pods/exec" in caplog.text
    with pytest.raises(InfrastructureError, match=r"the head pod of .* is gone, and its log.*no right"):
        list(other.logs(RUN))


def test_what_takes_room_on_a_claim_is_counted_pruned_and_deleted(server, profile, backend, claim):
    """One run that the API server knows, two that it has forgotten, one of them long ended."""
    for run_id in ("old-aaaaaaaa", "new-aaaaaaaa", RUN):
        made = plan(run_id, "/", f"{claim}/runs/{run_id}")
        record = RunRecord(made.storage)
        record.store.write(plan_name(1), made.model_dump_json().encode())
        record.store.write("checkpoints/step-00000010.attempt-1/rank-0.bin", bytes(1000))
        ended_at = 1000.0 if run_id == "old-aaaaaaaa" else time.time()
        running = RunStatus(run_id=run_id, state=RunState.RUNNING, submitted_at=900.0, total_steps=100)
        record.set_state(running)
        record.end(running.ended(RunState.SUCCEEDED, EndReason.COMPLETED, "done", ended_at=ended_at))
    backend.submit(backend.render(plan(RUN, "/", f"{claim}/runs/{RUN}")))
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    found = sdk.usage(profile)
    assert {(run.run_id, run.state, run.checkpoint_bytes) for run in found.runs} == {
        (run_id, "succeeded", 1000) for run_id in ("old-aaaaaaaa", "new-aaaaaaaa", RUN)
    }
    asked = len(server.commands)
    assert asked < 10  # not some for each run
    pruned = sdk.prune(profile, older_than_seconds=86400.0)
    assert (pruned.runs, pruned.bytes > 1000) == (("old-aaaaaaaa",), True)
    assert sorted(path.name for path in (claim / "runs").iterdir()) == [RUN, "new-aaaaaaaa"]
    sdk.delete([RUN, "new-aaaaaaaa"], profile)
    assert not any((claim / "runs").iterdir())
    assert not server.objects["rayjobs"]
    with pytest.raises(NotFoundError):
        sdk.delete([RUN], profile)


def test_without_the_right_to_short_pods_nothing_of_a_claim_is_deleted(server, profile, backend, claim):
    backend.submit(backend.render(plan(RUN, "/", f"{claim}/runs/{RUN}")))
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    server.denied.add(("create", "pods"))
    for verb in (lambda: sdk.usage(profile), lambda: sdk.delete([RUN], profile)):
        with pytest.raises(InfrastructureError, match=r"no right to create pods .*-storage does"):
            verb()
    assert RUN in server.objects["rayjobs"]


def submitted_at(server, name, moment):
    """By the API server's clock."""
    metadata = server.objects["rayjobs"][name]["metadata"]
    metadata["creationTimestamp"] = datetime.fromtimestamp(moment, UTC).isoformat()


@pytest.mark.parametrize("is_seen_here", [True, False])
def test_what_a_launch_did_that_was_evicted_and_stopped_in_its_queue_is_told_once(
    server, tmp_path, is_seen_here
):
    """KubeRay forgets as it suspends that there was a driver, so the next launch names it as one that had none."""
    (tmp_path / "claim").mkdir()
    claim = tmp_path / ("claim" if is_seen_here else "mounted-by-pods")
    server.answers[record_tool.__name__] = lambda words: (
        f"{ANSWER_MARK}{json.dumps(record_tool.answer([word.replace('mounted-by-pods', 'claim') for word in words]))}\n"
    )
    backend = KubernetesCluster(kubernetes_profile({"storage_claim": "data"}, storage=str(claim)))
    begin = round(time.time()) - 1000.0
    backend.submit(backend.render(plan(run_id=RUN, storage=claim / "runs" / RUN)))
    submitted_at(server, RUN, begin)
    values = {"system/forward_backward_ms": 1e4, "system/other_ms": 0.0}
    told = [
        {"event": "state", "time": begin + 100.0, "launch": 1},
        {"event": "attempt", "time": begin + 110.0, "start_step": 0},
        {"event": "metrics", "time": begin + 300.0, "step": 19, "values": values},
    ]
    record = RunRecord(str(tmp_path / "claim" / "runs" / RUN))
    record.set_state(RunStatus(run_id=RUN, state=RunState.RUNNING, submitted_at=begin))
    record.set_ledger(1, ledger_of(told, {1: begin}))
    server.set_status(RUN, jobDeploymentStatus="Suspended")
    assert backend.stop(RUN).state is RunState.STOPPED
    server.objects["rayjobs"][RUN]["metadata"]["annotations"][STOP] = str(begin + 500.0)
    assert [one.launch for one in backend.resume(RUN).launches_before()] == [1]
    submitted_at(server, f"{RUN}-2", begin + 600.0)
    found = Run(RUN, backend).ledger()
    parts = {"step": 190.0, "start: starting the driver": 10.0, "down": 200.0, "between launches": 100.0}
    assert found.seconds == pytest.approx({**parts, "queue": 100.0 + 400.0}, abs=5)
    assert found.wall == pytest.approx(time.time() - begin, abs=5)
    assert (found.steps, found.launch) == (19, 2)
