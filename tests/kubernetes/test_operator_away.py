"""A run that ends while KubeRay's operator is away, which comes back afterwards."""

from __future__ import annotations

import time

import pytest
from control_plane import wait_until
from kuberay import NAMESPACE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

LAST = 400


@pytest.fixture(autouse=True)
def room_for_the_next(kube):
    yield
    kube.remove_all()


def deployment(kube, run):
    return kube.rayjob(run)["status"]["jobDeploymentStatus"]


@pytest.mark.parametrize("is_head_lost", [False, True], ids=["the head stays", "the head is lost, too"])
def test_an_end_that_the_operator_missed_is_the_run_s(kube, is_head_lost):
    """The person is told of it at once; the operator notes it when it is back, and no step is taken again."""
    file = kube.profile_file()
    at_a_terminal = kube.run(
        "missed", file, training={"max_steps": LAST, "global_batch_size": 64, "log_every": 20}
    )
    at_a_terminal.wait_for("checkpoint", 20)
    [rayjob] = kube.plane.request("GET", f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayjobs")["items"]
    run = rayjob["metadata"]["labels"]["trainwright/run"]
    followed = kube.followed(run, file)
    with kube.without_operator():
        told = followed.to_the_end()
        assert (told[-1]["event"], told[-1]["state"], told[-1]["step"]) == ("end", "succeeded", LAST)
        [*_, end, last] = at_a_terminal.to_the_end()
        assert end == told[-1]
        assert (last["event"], last["state"], last["step"]) == ("status", "succeeded", LAST)
        status = kube.status(run, file)
        assert (status["state"], status["reason"], status["step"]) == ("succeeded", "completed", LAST), status
        assert deployment(kube, run) == "Running"
        assert len(kube.pods(run, "worker")) == 2  # nobody lets them go
        if is_head_lost:
            kube.delete_pod(kube.pods(run, "head")[0])
            wait_until("the head is gone", lambda: not kube.pods(run, "head"), seconds=60)
    back = time.time()
    wait_until("KubeRay notes the end", lambda: deployment(kube, run) == "Complete", seconds=400)
    noted = time.time() - back
    wait_until("the workers go", lambda: not kube.pods(run, "worker"), seconds=120)
    print(f"noted {noted:.1f} s after it was back, workers gone after {time.time() - back:.1f} s")
    status = kube.status(run, file)
    assert (status["state"], status["reason"], status["step"]) == ("succeeded", "completed", LAST), status
    names = {(event.body.get("status") or {}).get("rayClusterName") for event in kube.of_rayjob(run)}
    assert len(names - {None, ""}) == 1
    assert [path.name for path in (kube.storage / "runs" / run / "logs").glob("attempt-*")] == ["attempt-1"]
