"""What a run and the person who follows it notice of a control plane that is away."""

from __future__ import annotations

import time

import pytest
from control_plane import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

AWAY_SECONDS = 300.0
EVERY = 20
"""Steps between two that are told."""
ETCD, API_SERVER = "etcd", "kube-apiserver"


def training(steps=100_000):
    return {"max_steps": steps, "global_batch_size": 64, "log_every": EVERY}


def steps_told(told):
    return [
        event["step"] for event in told if event["event"] == "metrics" and "train/loss" in event["values"]
    ]


@pytest.fixture(autouse=True)
def room_for_the_next(kube):
    """Heads that are kept take room on the two nodes."""
    yield
    kube.remove_all()


def test_a_run_trains_on_for_the_five_minutes_that_the_control_plane_is_away(kube):
    """As in an upgrade of it. Who follows the run misses no line; a stop afterwards saves."""
    run, file = "outage-abcdefgh", kube.profile_file()
    kube.submit(run, file, training=training())
    followed = kube.followed(run, file)
    followed.wait_for("checkpoint", EVERY)
    pods = {pod["metadata"]["uid"] for pod in kube.pods(run)}

    kube.plane.kill(API_SERVER)
    kube.plane.kill(ETCD)
    gone = time.time()
    answer = kube.call("status", run, "--cluster", str(file), "--json")
    print(f"status: exit code {answer.returncode} after {time.time() - gone:.1f} s: {answer.stderr.strip()}")
    assert answer.returncode not in (0, 1)
    assert "the API server does not answer" in answer.stderr
    assert "Traceback" not in answer.stderr
    time.sleep(gone + AWAY_SECONDS - time.time())  # what this is about
    kube.plane.start_again(ETCD)
    kube.plane.start_again(API_SERVER)
    wait_until("the API server answers", lambda: kube.plane.request("GET", "/readyz"), seconds=120)
    back = time.time()
    before = steps_told(followed.told)[-1]

    wait_until("the follower goes on", lambda: steps_told(followed.told)[-1] > before, seconds=180)
    print(f"{time.time() - back:.1f} s after the API server was back, the next lines")
    kube.good("stop", run, "--cluster", str(file))
    told = followed.to_the_end()
    meanwhile = [e["step"] for e in told if e["event"] == "metrics" and gone < e["time"] < back]
    print(f"{max(meanwhile) - min(meanwhile)} steps while it was away")
    steps = steps_told(told)
    assert steps == [1, *range(EVERY, steps[-1] + 1, EVERY)]
    assert [event["event"] for event in told if event["event"] in ("incident", "attempt")] == ["attempt"]
    assert {pod["metadata"]["uid"] for pod in kube.pods(run)} <= pods
    status = kube.status(run, file)
    assert (status["state"], status["reason"]) == ("stopped", "stopped_by_user"), status
