"""A person whose clock is two minutes off, ahead or behind, and whose token ends meanwhile, on a real API server."""

from __future__ import annotations

import pytest
from control_plane import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

API_SERVER = "kube-apiserver"
EVERY = 20


@pytest.fixture(autouse=True)
def room_for_the_next(kube):
    yield
    kube.remove_all()


def steps_told(told):
    return [
        event["step"] for event in told if event["event"] == "metrics" and "train/loss" in event["values"]
    ]


@pytest.mark.parametrize(
    ("ahead_seconds", "token_seconds"), [(120.0, 100.0), (-120.0, 3600.0)], ids=["ahead", "behind"]
)
def test_a_run_is_submitted_followed_and_stopped(kube, ahead_seconds, token_seconds):
    """The log is taken up again behind its last line where it broke off, with the next token: one that is over by the person's
    clock before it is used, and one that by its own word had an hour left.
    """
    run, file = f"clock-{'abcdefgh' if ahead_seconds > 0 else 'bcdefghi'}", kube.profile_file()
    person = kube.by_tokens_that_end(token_seconds).with_clock(ahead_seconds)
    person.submit(run, file, training={"max_steps": 100_000, "global_batch_size": 64, "log_every": EVERY})
    followed = person.followed(run, file)
    followed.wait_for("checkpoint", EVERY)

    person.next_token()
    kube.plane.kill(API_SERVER)
    kube.plane.start_again(API_SERVER)
    wait_until("the API server answers", lambda: kube.plane.request("GET", "/readyz"), seconds=120)
    before = steps_told(followed.told)[-1]
    wait_until("the follower goes on", lambda: steps_told(followed.told)[-1] > before, seconds=120)
    status = person.status(run, file)
    assert status["state"] == "running", status
    person.good("stop", run, "--cluster", str(file))
    told = followed.to_the_end()
    steps = steps_told(told)
    assert steps == [1, *range(EVERY, steps[-1] + 1, EVERY)]
    assert (told[-1]["event"], told[-1]["state"]) == ("end", "stopped")
    status = person.status(run, file)
    assert (status["state"], status["reason"], status["step"]) == (
        "stopped",
        "stopped_by_user",
        told[-1]["step"],
    ), status
