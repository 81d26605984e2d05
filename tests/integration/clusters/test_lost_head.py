"""A Ray head that is killed in the middle of a run, and another one at its address: real nodes, and the state that is left."""

import contextlib
import signal

import psutil
import pytest
from ray_nodes import RayNodes, alive, wait

from orchestrator import checkpoint, events, sdk
from orchestrator.clusters import open_cluster
from orchestrator.clusters.ray.api import RayClient
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 200
RUN = "lost-abcdefgh"


@pytest.fixture
def nodes():
    started = RayNodes()
    try:
        started.start_head("--num-cpus=2")
        started.start_node("second", "--num-cpus=2")
        yield started
    finally:
        started.close()


@pytest.fixture
def profile(nodes):
    return ClusterProfile.model_validate(nodes.profile(2))


def submit(profile, run_id):
    job = JobSpec.model_validate(
        {
            "name": "digits",
            "model": {"family": "cnn", "size": "debug"},
            "data": {
                "train": {"kind": "builtin", "name": "digits"},
                "eval": {"kind": "split", "fraction": 0.1},
            },
            "training": {"max_steps": STEPS, "global_batch_size": 64, "log_every": 1},
            "checkpoint": {"every_steps": 25},
            "scaling": {"workers": 2, "cpus_per_worker": 2, "placement": "spread"},
            "tracking": {"kind": "none"},
        }
    )
    cluster = open_cluster(profile)
    plan = sdk.make_plan(job, profile, run_id=run_id)
    cluster.submit(cluster.render(plan))
    return cluster, plan


def two_nodes(profile):
    wait(lambda: len(alive(RayClient(profile))) == 2, "two nodes", 120)


def kill_head(nodes, *, spared=()):
    """SIGKILL to all processes of the head's machine, but those that are spared."""
    head = psutil.Process(nodes.head_process.pid)
    for process in (head, *head.children(recursive=True)):
        if process.pid not in spared:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    nodes.head_process.wait(20)


def driver_of(profile):
    """The driver, its keeper and the shells around them, which would end them with Ray's supervisor of the job."""
    shell = psutil.Process(int(RayClient(profile).info(RUN)["driver_info"]["pid"])).parents()
    [supervisor] = [process for process in shell if "JobSupervisor" in " ".join(process.cmdline())]
    return supervisor.children(recursive=True)


def lines(cluster):
    return [event for line in cluster.logs(RUN, follow=True) if (event := events.parse(line))]


def in_the_middle(plan):
    record = RunRecord(plan.storage)
    wait(lambda: record.reached() >= 60, "some steps", 400)
    return record


def is_as_undisturbed(profile, plan):
    """The final state, bit for bit, and the place in the data."""
    cluster, other = submit(profile, "undisturbed-abcdefgh")
    list(cluster.logs(other.run_id, follow=True))
    saved, expected = (checkpoint.newest_good(f"{made.storage}/checkpoints") for made in (plan, other))
    return saved.step == expected.step == STEPS and checkpoint.unequal_elements(saved, expected) == 0


def test_a_run_whose_head_is_killed_is_resumed_by_the_head_that_comes_back(nodes, profile):
    two_nodes(profile)
    cluster, plan = submit(profile, RUN)
    record = in_the_middle(plan)
    kill_head(nodes)
    nodes.start_head_again("--num-cpus=2")
    nodes.start_node("third", "--num-cpus=2")
    two_nodes(profile)
    status = cluster.status(RUN)
    assert (status.state, status.reason) == (RunState.FAILED, EndReason.DRIVER_LOST)
    assert f"trainwright resume {RUN}" in status.message
    assert sdk.attach(RUN, profile).resume().launch == 2
    [attempt] = [event for event in lines(cluster) if event["event"] == "attempt"]
    assert attempt["attempt"] == 2 and attempt["start_step"] >= 50
    status = cluster.status(RUN)
    assert (status.state, status.launch, status.step) == (RunState.SUCCEEDED, 2, STEPS), nodes.log("head")
    assert record.status(1).reason is EndReason.DRIVER_LOST
    assert is_as_undisturbed(profile, plan)


def test_a_driver_that_stood_still_with_its_head_writes_nothing_behind_the_one_that_follows(nodes, profile):
    """The same submission is sent to the new head; the old driver's machine then goes on where it stood still."""
    two_nodes(profile)
    cluster, plan = submit(profile, RUN)
    record = in_the_middle(plan)
    old = driver_of(profile)
    for process in old:
        process.suspend()
    try:
        kill_head(nodes, spared={process.pid for process in old})
        nodes.start_head_again("--num-cpus=2")
        nodes.start_node("third", "--num-cpus=2")
        two_nodes(profile)
        submit(profile, RUN)
        wait(lambda: record.status(1).attempt == 2, "another attempt", 400)
        for process in old:
            process.resume()
        [attempt] = [event for event in lines(cluster) if event["event"] == "attempt"]
        assert attempt["attempt"] == 2 and attempt["start_step"] >= 50
        wait(lambda: not any(map(lives, old)), "the end of the old driver", 60)
        status = record.status(1)
        assert (status.state, status.attempt, status.step) == (RunState.SUCCEEDED, 2, STEPS)
        assert record.newest_driver(1) == 2
        assert is_as_undisturbed(profile, plan)
    finally:
        for process in old:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def lives(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
