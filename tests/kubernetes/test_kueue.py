"""Jobs that wait in Kueue's queues, are evicted and go on: Kueue's own manager on a real API server, Ray in every pod."""

from __future__ import annotations

import threading
import time

import kuberay
import kueue
import pytest
from chartkit.helm import render
from control_plane import wait_until
from kuberay import NAMESPACE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

LONG = {"max_steps": 1500, "global_batch_size": 64, "log_every": 20}
_WORKLOADS = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{NAMESPACE}/workloads"


def values_of(places):
    """Values of a chart whose queue has workers for so many of these tests' jobs, and heads for two."""
    groups = [{"name": "cpu", "cpus": 2, "memory": "3Gi", "max": 2 * places}]
    head = {"cpus": 1, "memory": "4Gi"}
    return {
        "kueue": {"enabled": True},
        "nodeGroups": groups,
        "head": head,
        "jobs": {"maxConcurrent": 2, "autoscaling": False},
    }


@pytest.fixture(scope="module")
def kube(tmp_path_factory):
    """KubeRay and Kueue, with the queue `train` that the chart makes, which has room for one job."""
    if reason := kuberay.missing(tmp_path_factory.mktemp("probe")) or kueue.missing():
        pytest.skip(reason)
    with kuberay.running(tmp_path_factory.mktemp("kueue")) as made:
        kueue.start(made.plane)
        for name, value in (("ordinary", 10), ("urgent", 1000)):
            made.plane.create(
                {
                    "apiVersion": "scheduling.k8s.io/v1",
                    "kind": "PriorityClass",
                    "metadata": {"name": name},
                    "value": value,
                    "preemptionPolicy": "Never",  # who goes is Kueue's to say
                }
            )
        kueue.make_queues(made.plane, render(values_of(1)))
        yield made


@pytest.fixture(autouse=True)
def room_for_the_next(kube):
    yield
    kube.plane.request("DELETE", f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayjobs")
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    wait_until("all pods go", lambda: not kube.plane.request("GET", pods)["items"], seconds=120)


def of_kind(events, kind):
    return [event for event in events if event["event"] == kind]


def workload_of(kube, run):
    """Kueue's object of a run."""
    uid = kube.rayjob(run)["metadata"]["uid"]
    items = kube.plane.request("GET", _WORKLOADS)["items"]
    found = [w for w in items if w["metadata"]["ownerReferences"][0]["uid"] == uid]
    assert len(found) == 1, found
    return found[0]


def is_held_back(kube, run):
    return bool(kube.rayjob(run)["spec"].get("suspend"))


def set_active(kube, run, active):
    """As a person who holds a job back, or lets it go."""
    name = workload_of(kube, run)["metadata"]["name"]
    patch = {"spec": {"active": active}}
    kube.plane.request("PATCH", f"{_WORKLOADS}/{name}", patch, content_type="application/merge-patch+json")


class Followed:
    """A run whose events are read as they come, beside the test."""

    def __init__(self, kube, run, file):
        self.run, self.told = run, []
        self._kube, self._file = kube, file
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for event in self._kube.follow(self.run, self._file):
            self.told.append(event)

    def wait_for_step(self, step):
        wait_until(
            f"{self.run} has taken step {step}",
            lambda: any(event["step"] >= step for event in of_kind(self.told, "metrics")),
            seconds=600,
        )

    def to_the_end(self):
        self._thread.join(600)
        assert not self._thread.is_alive(), self.told[-5:]
        return self.told


def steps_of(told):
    """Each step whose training was told of, as often as it was."""
    return [event["step"] for event in of_kind(told, "metrics") if "train/loss" in event["values"]]


def test_of_two_jobs_with_room_for_one_the_second_waits_whole(kube):
    file = kube.profile_file(queue="train")
    first, second = "first-abcdefgh", "second-bcdefgh"
    kube.submit(first, file, training=LONG)
    watched = Followed(kube, first, file)
    watched.wait_for_step(20)
    kube.submit(second, file)
    wait_until(
        "status says what it waits for",
        lambda: "waiting in queue train" in (kube.status(second, file)["message"] or ""),
        seconds=60,
    )
    status = kube.status(second, file)
    print(status["message"])
    assert status["state"] == "pending"
    assert not kube.pods(second), "not even a head"
    assert of_kind(watched.to_the_end(), "end")[-1]["state"] == "succeeded"
    told = list(kube.follow(second, file))
    assert of_kind(told, "end")[-1]["state"] == "succeeded"
    assert steps_of(told)[-1] == 60


def test_an_urgent_job_takes_the_place_of_one_that_saves_and_goes_on(kube):
    ordinary = kube.profile_file("ordinary", queue="train", priority_class="ordinary")
    urgent = kube.profile_file("urgent", queue="train", priority_class="urgent")
    low, high = "low-bcdefghijk", "high-bcdefghij"
    kube.submit(low, ordinary, training=LONG, recovery={"max_failures": 0, "stop_grace": "20s"})
    watched = Followed(kube, low, ordinary)
    watched.wait_for_step(60)
    asked = time.time()
    kube.submit(high, urgent)
    wait_until("the first gives its place", lambda: is_held_back(kube, low), seconds=60)
    wait_until("its pods go", lambda: not kube.pods(low), seconds=120)
    print(f"its pods were gone {time.time() - asked:.1f} s after the urgent job was submitted")
    status = kube.status(low, ordinary)
    assert status["state"] == "pending", status
    assert of_kind(kube.follow(high, urgent), "end")[-1]["state"] == "succeeded"

    told = watched.to_the_end()
    assert of_kind(told, "end")[-1]["state"] == "succeeded", told[-5:]
    before, after = of_kind(told, "attempt")
    print(f"attempts {before, after}; checkpoints {of_kind(told, 'checkpoint')}")
    assert after["start_step"] > 60
    assert len(steps_of(told)) == len(set(steps_of(told))), "no step was taken twice"
    assert steps_of(told)[-1] == 1500


def test_a_job_that_is_held_back_by_hand_goes_on_where_it_was(kube):
    file = kube.profile_file(queue="train")
    run = "held-abcdefghi"
    kube.submit(run, file, training=LONG, recovery={"max_failures": 0, "stop_grace": "20s"})
    watched = Followed(kube, run, file)
    watched.wait_for_step(60)
    set_active(kube, run, False)
    wait_until("its pods go", lambda: not kube.pods(run), seconds=120)
    status = kube.status(run, file)
    print(status["message"])
    assert status["state"] == "pending", status
    set_active(kube, run, True)
    told = watched.to_the_end()
    assert of_kind(told, "end")[-1]["state"] == "succeeded", told[-5:]
    assert of_kind(told, "attempt")[-1]["start_step"] > 60
    assert len(steps_of(told)) == len(set(steps_of(told))), "no step was taken twice"


def test_a_team_s_own_queue_is_not_filled_by_another_s_jobs(kube):
    """A second release of the chart, as another team has it, beside the first whose place is taken."""
    objects = render(values_of(1), release="others", namespace=NAMESPACE)
    kueue.make_queues(kube.plane, objects)
    ours, theirs = kube.profile_file(queue="train"), kube.profile_file("others", queue="others")
    kube.submit("ours-bcdefghij", ours, training={**LONG, "max_steps": 100000})
    watched = Followed(kube, "ours-bcdefghij", ours)
    watched.wait_for_step(20)
    kube.submit("ours-2-bcdefgh", ours)
    kube.submit("theirs-cdefghi", theirs)
    wait_until("theirs is let in", lambda: not is_held_back(kube, "theirs-cdefghi"), seconds=60)
    assert is_held_back(kube, "ours-2-bcdefgh")
    for run, file in (("ours-bcdefghij", ours), ("theirs-cdefghi", theirs), ("ours-2-bcdefgh", ours)):
        kube.good("stop", run, "--now", "--cluster", str(file))
