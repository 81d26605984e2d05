"""Ray's autoscaler beside the head, by KubeRay's operator: it asks for the pod that a run lacks, and lets idle ones go."""

from __future__ import annotations

import time

import pytest
from control_plane import wait_until
from kuberay import NAMESPACE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

LAST = 2000


@pytest.fixture(autouse=True)
def room_for_the_next(kube):
    yield
    kube.remove_all()


class Group:
    """The only group of workers of a run's Ray cluster."""

    def __init__(self, kube, run):
        self._kube = kube
        name = kube.rayjob(run)["status"]["rayClusterName"]
        self._path = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayclusters/{name}"

    @property
    def replicas(self):
        """Pods that are asked for."""
        return self._kube.plane.request("GET", self._path)["spec"]["workerGroupSpecs"][0]["replicas"]

    def take(self, pod):
        """Ask for one less, and name the one to go, as the autoscaler does with an idle one; returns how many are left."""

        def is_taken():
            body = self._kube.plane.request("GET", self._path)
            group = body["spec"]["workerGroupSpecs"][0]
            group["replicas"] -= 1
            group["scaleStrategy"] = {"workersToDelete": [pod["metadata"]["name"]]}
            return self._kube.plane.request("PUT", self._path, body)

        taken = wait_until("the cluster is changed by nobody else meanwhile", is_taken)
        return taken["spec"]["workerGroupSpecs"][0]["replicas"]


def test_it_asks_for_a_pod_that_is_lacking_and_lets_idle_ones_go(kube):
    run, file = "scaled-abcdefgh", kube.profile_file("scaled", autoscaling=True)
    kube.submit(run, file, training={"max_steps": LAST, "global_batch_size": 64, "log_every": 20})
    followed = kube.followed(run, file)
    followed.wait_for("checkpoint", 20)
    group = Group(kube, run)
    assert group.replicas == 2

    pod = kube.pods(run, "worker")[0]
    assert group.take(pod) == 1
    taken = time.time()
    wait_until("the autoscaler asks for another", lambda: group.replicas >= 2, seconds=180)
    print(f"asked for another pod after {time.time() - taken:.1f} s")
    told = followed.to_the_end()
    assert (told[-1]["state"], told[-1]["step"]) == ("succeeded", LAST), told[-3:]
    assert len([event for event in told if event["event"] == "attempt"]) == 2

    ended = time.time()
    wait_until("idle workers go", lambda: not kube.pods(run, "worker"), seconds=240)
    print(f"idle workers gone {time.time() - ended:.1f} s after the end")
    assert group.replicas == 0
    assert len(kube.pods(run, "head")) == 1
