"""What a launch without a driver waits for, by its head's pod."""

from datetime import datetime

import pytest

from orchestrator.clusters.kubernetes.pod_waits import waited_for


def stamp(seconds):
    return f"2026-01-02T03:04:{seconds:02d}Z"


def at(seconds):
    return datetime.fromisoformat(stamp(seconds)).timestamp()


def condition(kind, seconds, status="True"):
    return {"type": kind, "status": status, "lastTransitionTime": stamp(seconds)}


def pod(*conditions, node_type="head", containers=(), **metadata):
    labels = {"ray.io/node-type": node_type}
    return {
        "metadata": {"labels": labels, **metadata},
        "status": {"conditions": list(conditions), "containerStatuses": list(containers)},
    }


def container(name="ray-head", **states):
    return {"name": name, **states}


def rayjob(*, suspend=False, **status):
    return {"metadata": {"creationTimestamp": stamp(5)}, "spec": {"suspend": suspend}, "status": status}


HAS_NODE = condition("PodScheduled", 8)
PULLS = container(state={"waiting": {"reason": "ContainerCreating"}})
RUNS = container(state={"running": {"startedAt": stamp(20)}})
CRASHED = {"terminated": {"startedAt": stamp(20), "finishedAt": stamp(21)}}
OTHER = container("run-log", state={"running": {"startedAt": stamp(9)}})
WORKER = pod(condition("PodScheduled", 6), node_type="worker")


@pytest.mark.parametrize(
    ("pods", "parts"),
    [
        ([], {}),  # removed, or never made: who looks now can't tell
        ([WORKER], {}),
        ([pod(condition("PodScheduled", 6, "False"))], {"queue": 5}),
        ([pod()], {"queue": 5}),
        ([WORKER, pod(HAS_NODE)], {"queue": 5, "image": 8}),
        ([pod(HAS_NODE, containers=[OTHER, PULLS])], {"queue": 5, "image": 8}),
        ([pod(HAS_NODE, containers=[OTHER, RUNS])], {"queue": 5, "image": 8, "environment": 20}),
        (
            [pod(HAS_NODE, condition("Ready", 25), containers=[RUNS])],
            {"queue": 5, "image": 8, "environment": 20, "waiting for nodes": 25},
        ),
        (
            [pod(HAS_NODE, condition("Ready", 23, "False"), containers=[RUNS])],
            {"queue": 5, "image": 8, "environment": 20},
        ),
        (  # it crashes again and again
            [pod(HAS_NODE, containers=[container(state={"waiting": {}}, lastState=CRASHED)])],
            {"queue": 5, "image": 8, "environment": 20},
        ),
        (
            [
                pod(
                    HAS_NODE,
                    containers=[container(state={"running": {"startedAt": stamp(30)}}, lastState=CRASHED)],
                )
            ],
            {"queue": 5, "image": 8, "environment": 20},
        ),
        (  # the head before it is on its way out
            [
                pod(HAS_NODE, containers=[RUNS], deletionTimestamp=stamp(30), creationTimestamp=stamp(7)),
                pod(condition("PodScheduled", 35), creationTimestamp=stamp(31)),
            ],
            {"queue": 5, "image": 35},
        ),
        (  # a launch that was ended: the only one left is on its way out
            [pod(HAS_NODE, containers=[RUNS], deletionTimestamp=stamp(30))],
            {"queue": 5, "image": 8, "environment": 20},
        ),
    ],
)
def test_each_part_begins_where_the_pod_says(pods, parts):
    assert waited_for(rayjob(), pods) == [(part, at(seconds)) for part, seconds in parts.items()]


def test_a_job_that_its_queue_holds_waits_there():
    assert waited_for(rayjob(suspend=True), []) == [("queue", at(5))]


def test_a_job_that_was_posted_waits_for_its_environment():
    """Its packages, say, could not be installed."""
    head = pod(HAS_NODE, condition("Ready", 25), containers=[RUNS])
    parts = [("environment", 20), ("waiting for nodes", 25), ("environment", 40)]
    told = waited_for(rayjob(rayJobInfo={"startTime": stamp(40)}), [head])
    assert told[2:] == [(part, at(seconds)) for part, seconds in parts]
