"""Workers of a run on this machine that are told to go: real processes, and every point held against a run left alone."""

import json
import os
import signal
import time

import pytest
import torch
import yaml

from orchestrator import events
from orchestrator.clusters.local.processes import DriverProcess
from orchestrator.clusters.local.request import plan_to_process
from orchestrator.clusters.shared.driver_command import DRIVER
from orchestrator.planning.plan import Plan
from orchestrator.records import SUBMITTED, RunRecord
from orchestrator.storage import store_at
from orchestrator.waited import name_of_pod

pytestmark = pytest.mark.ray

STEPS = 1500


def job(home, **recovery):
    return home.job(
        training={"max_steps": STEPS, "log_every": 1, "evaluate_every": STEPS},
        checkpoint={"every_steps": STEPS},  # so that only a save on notice keeps what was done
        recovery={"max_failures": 0, **recovery},
        tracking={"kind": "none"},
    )


def told(home, run):
    return json.loads(home.call("logs", run, "--json").stdout)


def losses(events):
    """The training loss of every step, each as often as it was logged."""
    points = [event for event in events if event["event"] == "metrics" and "train/loss" in event["values"]]
    return [(event["step"], event["values"]["train/loss"]) for event in points]


def submitted(home, file, *arguments):
    answer = home.call("submit", str(file), "--json", *arguments)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)["run_id"]


def follow(home, run):
    answer = home.call("logs", run, "--follow")
    assert answer.returncode == 0, answer.stderr
    return home.status(run), told(home, run)


@pytest.fixture(scope="module")
def left_alone(home):
    """Losses and final state of a run that nothing happens to."""
    run = submitted(home, job(home))
    status, events = follow(home, run)
    assert status["state"] == "succeeded"
    return losses(events), home.final_state(run)[1]


def at_step(home, run, step):
    home.wait_for(run, lambda event: event["event"] == "metrics" and event["step"] >= step)


def assert_nothing_was_lost(home, run, left_alone, why):
    status, events = follow(home, run)
    assert (status["state"], status["step"], status["attempt"]) == ("succeeded", STEPS, 2), events[-20:]
    [incident] = [event for event in events if event["event"] == "incident"]
    first, second = [event["start_step"] for event in events if event["event"] == "attempt"]
    assert incident["message"] == f"{why}: step {second} is saved, no step is lost"
    assert (incident["failure"], incident["is_counted"], incident["retry"]) == (0, False, True)
    assert first == 0 and 300 <= second < STEPS
    expected, state = left_alone
    assert losses(events) == expected  # each step once, with the bits that it has without
    for name, tensor in home.final_state(run)[1].items():
        assert torch.equal(tensor, state[name]), name
    went = home.why(run)
    assert (went["steps"], went["faults"], went["seconds"].get("replay", 0.0)) == (STEPS, 1, 0.0)
    assert went["seconds"]["down"] > 0 and went["seconds"]["restore"] > 0


def test_sigterm_to_a_worker_loses_no_step(home, left_alone):
    run = submitted(home, job(home))
    victim = home.wait_for(run, lambda event: event["event"] == "worker" and event["rank"] == 1)
    at_step(home, run, 300)
    os.kill(victim["pid"], signal.SIGTERM)
    assert_nothing_was_lost(home, run, left_alone, "worker 1 will be taken away (its process got SIGTERM)")


@pytest.mark.slow
def test_a_notice_file_loses_no_step(home, left_alone, tmp_path):
    """It is there still when the workers start again: on the one machine there is, they go on for as long as they can."""
    notice, profile = tmp_path / "notice", tmp_path / "spot.yaml"
    content = {"name": "spot", "kind": "local", "storage": str(home.folder), "notice_file": str(notice)}
    profile.write_text(yaml.safe_dump(content))
    run = submitted(home, job(home), "--cluster", str(profile))
    at_step(home, run, 300)
    notice.touch()
    said = f"will be taken away ({notice} says so)"
    assert_nothing_was_lost(home, run, left_alone, f"worker 0 {said}; worker 1 {said}")


def holds_and_is_killed(home, run, driver, drivers):
    """The newest of so many drivers starts no group."""
    told = []

    def holds(event):
        told.append(event["event"])
        return told.count("state") == drivers and event["event"] == "waiting"

    held = home.wait_for(run, holds)
    assert held["message"] == "the head will be taken away; what was saved goes on with the next one"
    os.kill(driver.pid, signal.SIGKILL)
    home.wait_until_gone(run)


@pytest.mark.slow
def test_a_head_that_is_taken_away_loses_no_step(home, left_alone):
    """As a head's pod does it on Kubernetes: what runs beside its driver writes that down, and moments later all processes end.
    Here the driver itself is killed before that, and another one begins in the pod that will go.
    """
    run = "head-abcdefgh"
    storage = home.folder / "runs" / run
    storage.mkdir(parents=True)
    (storage / SUBMITTED).write_text(str(time.time()))  # a driver in a pod finds it beside its plan
    RunRecord(str(storage)).tell_that_head_leaves(1, "one before it")
    submitted(home, job(home), "--id", run)
    at_step(home, run, 300)
    RunRecord(str(storage)).tell_that_head_leaves(1, name_of_pod(storage / "plan.json"))
    driver = DriverProcess(store_at(str(storage)), "launches/1")
    holds_and_is_killed(home, run, driver, drivers=1)
    order = plan_to_process(Plan.model_validate_json((storage / "plan.json").read_text()), 1, DRIVER)
    driver.clear()
    driver.start(**order)
    holds_and_is_killed(home, run, driver, drivers=2)
    assert home.call("resume", run).returncode == 0
    status, _ = follow(home, run)
    assert (status["state"], status["step"], status["launch"]) == ("succeeded", STEPS, 2)
    logs = [home.driver_log(run, launch).read_text().splitlines() for launch in (1, 2)]
    [first, second] = [[*filter(None, map(events.parse, lines))] for lines in logs]
    [left] = [event for event in first if event["event"] == "resize"]
    [start] = [event["start_step"] for event in second if event["event"] == "attempt"]
    assert left["message"] == f"the head will be taken away: step {start} is saved, no step is lost"
    assert 300 <= start < STEPS
    expected, state = left_alone
    assert losses(first + second) == expected
    for name, tensor in home.final_state(run)[1].items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.slow
def test_a_notice_that_is_to_be_ignored_is(home):
    run = submitted(home, job(home, on_notice="ignore", max_failures=1))
    victim = home.wait_for(run, lambda event: event["event"] == "worker" and event["rank"] == 1)
    at_step(home, run, 300)
    os.kill(victim["pid"], signal.SIGTERM)
    status, events = follow(home, run)
    assert (status["state"], status["attempt"]) == ("succeeded", 2), events[-20:]
    [incident] = [event for event in events if event["event"] == "incident"]
    assert incident["is_counted"] and incident["failure"] == 1
    assert [event["start_step"] for event in events if event["event"] == "attempt"] == [0, 0]
