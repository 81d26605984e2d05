"""The Ray backend on real nodes: a head and a second node, token authentication on, jobs through the Jobs API."""

import concurrent.futures
import os
import signal
import time
from pathlib import Path

import pytest
from ray_nodes import RayNodes, alive, end_node, kept_from_idling, wait, workers_of

from orchestrator import checkpoint, events, sdk
from orchestrator.clusters import open_cluster
from orchestrator.clusters.doctor.examine import doctor
from orchestrator.clusters.ray.api import RayClient
from orchestrator.clusters.shared.packaging import pack_own_code
from orchestrator.errors import InfrastructureError
from orchestrator.records import RunRecord
from orchestrator.runs import RunState
from orchestrator.spec.job import InitializeSpec, JobSpec
from orchestrator.spec.profile import ClusterProfile

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nodes():
    started = RayNodes()
    try:
        started.start_head("--num-cpus=2")
        started.start_node("second", "--num-cpus=2", "--labels=zone=b")
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def profile(nodes):
    made = ClusterProfile.model_validate(nodes.profile(2))
    client = RayClient(made)
    wait(lambda: len(alive(client)) == 2, "two nodes", 120)
    return made


def digits(steps, **sections):
    return JobSpec.model_validate(
        {
            "name": "digits",
            "model": {"family": "cnn", "size": "debug"},
            "data": {
                "train": {"kind": "builtin", "name": "digits"},
                "eval": {"kind": "split", "fraction": 0.1},
            },
            "training": {"max_steps": steps, "global_batch_size": 64, "log_every": 5},
            "checkpoint": {"every_steps": 50},
            "tracking": {"kind": "none"},
            **sections,
        }
    )


def submit(profile, job):
    plan = sdk.make_plan(job, profile)
    cluster = open_cluster(profile)
    cluster.submit(cluster.render(plan))
    return cluster, plan


def last_words(cluster, run_id):
    return "\n".join(list(cluster.logs(run_id))[-30:])


def test_the_cluster_passes_the_doctor_within_two_minutes(profile):
    began = time.monotonic()
    found = {check.name: check for check in doctor(profile)}
    assert time.monotonic() - began < 120
    trouble = [check for check in found.values() if check.outcome == "fail"]
    assert trouble == []
    assert found["nodes"].message == "2 nodes with 4 CPUs and 0 GPUs"
    assert found["all-reduce"].message.startswith("gloo over 2 processes: ")


def test_no_token_and_a_wrong_one_are_refused_with_one_sentence(profile, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    bare = profile.model_copy(update={"secrets": profile.secrets.model_copy(update={"ray_token_file": None})})
    with pytest.raises(InfrastructureError, match=r"^cluster pool asks for a token and none was found"):
        open_cluster(bare).ping()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(InfrastructureError, match=r"^cluster pool refuses the token"):
        open_cluster(bare).ping()


def test_twenty_submissions_at_once_are_one_job(profile):
    package = pack_own_code()

    def one(number):
        return RayClient(profile).submit(
            submission_id="together", entrypoint="sleep 600", package=package, runtime_env={}, metadata={}
        )

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        started = list(pool.map(one, range(20)))
    client = RayClient(profile)
    assert sum(started) <= 1  # 0 where the answer to the first was lost
    assert [job["submission_id"] for job in client.list()].count("together") == 1
    client.stop("together")
    wait(lambda: client.has_ended("together"), "the stop", 60)


def test_a_cnn_trains_across_both_nodes(profile):
    cluster, plan = submit(profile, digits(60, scaling={"workers": 2, "placement": "spread"}))
    seen = [events.parse(line) for line in cluster.logs(plan.run_id, follow=True)]
    status = cluster.status(plan.run_id)
    assert status.state is RunState.SUCCEEDED, last_words(cluster, plan.run_id)
    assert (status.step, status.total_steps) == (60, 60)
    assert [event["step"] for event in seen if event and event["event"] == "metrics"][-1] == 60
    assert (status.run_id, status.state) in [(listed.run_id, listed.state) for listed in cluster.list()]
    assert {rank: bool(list(cluster.logs(plan.run_id, rank=rank))) for rank in (0, 1)} == {0: True, 1: True}
    workers = workers_of(profile, plan.run_id)
    assert len({worker["node_id"] for worker in workers}) == 2
    kept = RunRecord(plan.storage).ledger(1)
    assert kept.charged_from == pytest.approx(status.submitted_at, abs=0.01)  # what the driver was told
    assert kept.seconds["environment"] == pytest.approx(kept.began_at - kept.charged_from)
    assert kept.is_told_apart and "queue" not in kept.seconds
    assert kept.wall == pytest.approx(status.ended_at - status.submitted_at, rel=0.005)
    assert sdk.Run(plan.run_id, cluster).ledger() == kept


def test_a_driver_that_fails_before_it_joins_ray_has_its_whole_wait_in_the_record(profile):
    """Its model can't be counted, which a client without torch leaves to it."""
    plan = sdk.make_plan(digits(5), profile)
    lora = InitializeSpec.model_validate({"lora": {"targets": ["nowhere"]}})
    job = plan.job.model_copy(update={"initialize": lora})
    plan = plan.model_copy(update={"parameters": 0, "job": job})
    cluster = open_cluster(profile)
    cluster.submit(cluster.render(plan))
    wait(lambda: cluster.status(plan.run_id).state.is_final, "the end", 120)
    status = cluster.status(plan.run_id)
    assert "nowhere" in status.message, last_words(cluster, plan.run_id)
    kept = RunRecord(plan.storage).ledger(1)
    assert kept.charged_from == pytest.approx(status.submitted_at, abs=0.01)
    assert kept.seconds["environment"] == pytest.approx(kept.began_at - kept.charged_from)
    assert kept.wall == pytest.approx(status.ended_at - status.submitted_at, rel=0.005)


def test_a_gpt_trains_across_both_nodes(profile):
    plan = sdk.make_plan(
        EXAMPLES / "gpt-pydoc.yaml",
        profile,
        overrides=[
            "model={family: gpt, size: debug}",
            "training.max_steps=20",
            "training.global_batch_size=8",
            "training.schedule={kind: constant}",
            "scaling.workers=2",
            "scaling.placement=spread",
            "tracking.kind=none",
        ],
    )
    cluster = open_cluster(profile)
    cluster.submit(cluster.render(plan))
    list(cluster.logs(plan.run_id, follow=True))
    status = cluster.status(plan.run_id)
    assert status.state is RunState.SUCCEEDED, last_words(cluster, plan.run_id)
    assert len({worker["node_id"] for worker in workers_of(profile, plan.run_id)}) == 2


def test_workers_go_to_the_node_with_the_label(profile):
    job = digits(10, scaling={"workers": 2, "node_labels": {"zone": "b"}})
    labeled = profile.model_copy(
        update={"node_groups": (profile.node_groups[0].model_copy(update={"labels": {"zone": "b"}}),)}
    )
    cluster, plan = submit(labeled, job)
    list(cluster.logs(plan.run_id, follow=True))
    assert cluster.status(plan.run_id).state is RunState.SUCCEEDED, last_words(cluster, plan.run_id)
    [place] = {worker["node_id"] for worker in workers_of(profile, plan.run_id)}
    labels = {node["node_id"]: node.get("labels") or {} for node in alive(RayClient(profile))}
    assert labels[place].get("zone") == "b"
    wait(lambda: kept_from_idling(RayClient(profile)) == [], "the end of all actors beside the head", 60)


def test_a_run_is_stopped_gracefully_and_goes_on_from_where_it_was(profile):
    cluster, plan = submit(profile, digits(1500, scaling={"workers": 2}))
    for line in cluster.logs(plan.run_id, follow=True):
        event = events.parse(line)
        if event and event["event"] == "metrics" and event["step"] >= 20:
            break
    assert cluster.stop(plan.run_id).state is RunState.STOPPING
    wait(lambda: cluster.status(plan.run_id).state.is_final, "the end", 120)
    stopped = cluster.status(plan.run_id)
    assert stopped.state is RunState.STOPPED, last_words(cluster, plan.run_id)
    assert 20 <= stopped.step < 1500
    assert cluster.resume(plan.run_id).launch == 2
    attempts = []
    for line in cluster.logs(plan.run_id, follow=True):
        event = events.parse(line)
        if event and event["event"] == "attempt":
            attempts.append(event["start_step"])
    assert attempts == [stopped.step]
    assert cluster.status(plan.run_id).state is RunState.SUCCEEDED, last_words(cluster, plan.run_id)


def test_a_killed_driver_is_started_again_in_the_same_submission(profile):
    """Its workers are fenced by the attempt's number, and the final state is that of a run that nothing happened to."""
    cluster, plan = submit(profile, digits(400, scaling={"workers": 2}))
    attempts, is_killed = [], False
    for line in cluster.logs(plan.run_id, follow=True):
        event = events.parse(line)
        if event and event["event"] == "attempt":
            attempts.append((event["attempt"], event["start_step"]))
        if event and event["event"] == "metrics" and event["step"] >= 120 and not is_killed:
            is_killed = True
            driver = RayClient(profile).info(plan.run_id)["driver_info"]["pid"]
            os.kill(int(driver), signal.SIGKILL)
    status = cluster.status(plan.run_id)
    assert (status.state, status.launch, status.step) == (RunState.SUCCEEDED, 1, 400), last_words(
        cluster, plan.run_id
    )
    (_, first), (attempt, second) = attempts
    assert (first, attempt) == (0, 2) and second >= 100
    other_cluster, other = submit(profile, digits(400, scaling={"workers": 2}))
    list(other_cluster.logs(other.run_id, follow=True))
    saved, expected = (checkpoint.newest_good(f"{made.storage}/checkpoints") for made in (plan, other))
    assert checkpoint.unequal_elements(saved, expected) == 0


def test_a_stop_now_ends_it_at_once(profile):
    cluster, plan = submit(profile, digits(100_000, scaling={"workers": 2}))
    for line in cluster.logs(plan.run_id, follow=True):
        event = events.parse(line)
        if event and event["event"] == "metrics":
            break
    cluster.stop(plan.run_id, now=True)
    wait(lambda: cluster.status(plan.run_id).state.is_final, "the end", 90)
    assert cluster.status(plan.run_id).state is RunState.STOPPED


def test_records_that_only_the_cluster_reaches(profile, nodes):
    """The profile's storage is a path that does not exist here under that name."""
    there = nodes.folder / "elsewhere"
    there.mkdir(exist_ok=True)
    hidden = profile.model_copy(update={"storage": str(there)})
    cluster, plan = submit(hidden, digits(100_000, scaling={"workers": 1}))
    for line in cluster.logs(plan.run_id, follow=True):
        event = events.parse(line)
        if event and event["event"] == "metrics":
            break
    # from now on this client believes that it is not mounted here
    cluster._record = lambda plan: _remote(cluster, plan)
    assert list(cluster.logs(plan.run_id, rank=0))
    cluster.stop(plan.run_id)
    wait(lambda: cluster.status(plan.run_id).state.is_final, "the end", 120)
    assert cluster.status(plan.run_id).state is RunState.STOPPED
    assert any(there.iterdir())


def _remote(cluster, plan):
    from orchestrator.clusters.shared.run_records import remote_record

    return remote_record(plan.storage, cluster.run_on_head)


def test_a_node_that_leaves_does_not_end_the_run(profile, nodes):
    leaving = nodes.start_node("leaving", "--num-cpus=2", "--labels=zone=c")
    client = RayClient(profile)
    wait(lambda: len(alive(client)) == 3, "three nodes", 120)
    three = profile.model_copy(
        update={"node_groups": (profile.node_groups[0].model_copy(update={"max": 3}),)}
    )
    job = digits(
        1200,
        scaling={"workers": 3, "cpus_per_worker": 2, "placement": "spread"},
        training={"max_steps": 1200, "global_batch_size": 96, "log_every": 5},
        recovery={"hang_timeout": "60s", "worker_start_timeout": "120s"},
    )
    cluster, plan = submit(three, job)
    is_gone = False
    attempts = []
    for line in cluster.logs(plan.run_id, follow=True):
        event = events.parse(line)
        if event and event["event"] == "attempt":
            attempts.append(event["start_step"])
        if event and event["event"] == "metrics" and event["step"] >= 60 and not is_gone:
            is_gone = True
            end_node(leaving)
            nodes.start_node("spare", "--num-cpus=2")
    status = cluster.status(plan.run_id)
    assert status.state is RunState.SUCCEEDED, last_words(cluster, plan.run_id)
    assert len(attempts) > 1
    assert attempts[-1] >= 50
    assert status.step == 1200
