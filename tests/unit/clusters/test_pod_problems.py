import pytest

from orchestrator.clusters.kubernetes.pod_problems import IMAGE_MEND, ImageWatch, pods_problem, queue_problem


def pod(name="run-head", **status):
    return {"metadata": {"name": name}, "status": {"phase": "Pending", **status}}


def container(state=None, last=None, name="ray-head"):
    return {"name": name, "state": state or {}, "lastState": last or {}}


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}


def waiting(reason, message=""):
    return {"waiting": {"reason": reason, "message": message}}


BACK_OFF = 'Back-off pulling image "r.example/a:1": ErrImagePull: rpc error: code = NotFound desc = r.example/a:1: not found'
"""As a kubelet says it from Kubernetes 1.31 on."""


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (
            {"conditions": [UNSCHEDULABLE]},
            "pod run-head has no node: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
        ),
        (
            {"containerStatuses": [container(waiting("ImagePullBackOff", 'Back-off pulling image "a:1"'))]},
            'pod run-head: ray-head: its image can\'t be had: ImagePullBackOff: Back-off pulling image "a:1"; '
            + IMAGE_MEND,
        ),
        (
            {
                "containerStatuses": [
                    {**container(waiting("ImagePullBackOff", BACK_OFF)), "image": "r.example/a:1"}
                ]
            },
            "pod run-head: ray-head: image r.example/a:1 can't be had: ImagePullBackOff: r.example/a:1: not found; "
            + IMAGE_MEND,
        ),
        (
            {
                "containerStatuses": [
                    container(waiting("CreateContainerConfigError", 'secret "mlflow" not found'))
                ]
            },
            'pod run-head: ray-head: CreateContainerConfigError: secret "mlflow" not found; check that the profile\'s'
            " secrets are there, with the keys it needs",
        ),
        (
            {
                "initContainerStatuses": [
                    container(waiting("CrashLoopBackOff", "back-off 5m0s"), name="wait-gcs-ready")
                ]
            },
            "pod run-head: wait-gcs-ready: CrashLoopBackOff: back-off 5m0s; it ends again and again; its log says why",
        ),
        (
            {
                "containerStatuses": [
                    container(
                        waiting("CrashLoopBackOff"), {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
                    )
                ]
            },
            "pod run-head: ray-head used more than its memory and was killed (OOMKilled)",
        ),
        (
            {
                "containerStatuses": [
                    container(
                        waiting("CrashLoopBackOff", "back-off 10s restarting failed container"),
                        {
                            "terminated": {
                                "reason": "Error",
                                "exitCode": 1,
                                "message": "a warning\nthe image has trainwright 0.2.0, but the plan was made by 0.1.0\n",
                            }
                        },
                        name="run-log",
                    )
                ]
            },
            "pod run-head: run-log: the image has trainwright 0.2.0, but the plan was made by 0.1.0",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            "pod run-head failed: Evicted: The node was low on resource: memory.",
        ),
    ],
)
def test_each_trouble_is_told_with_the_reason_that_kubernetes_gives(status, sentence):
    assert pods_problem([pod(**status)]) == sentence


def test_pods_that_come_up_are_no_trouble():
    fine = [
        pod(containerStatuses=[container(waiting("ContainerCreating"))]),
        pod(phase="Running", containerStatuses=[container({"running": {}})]),
        pod(conditions=[{"type": "PodScheduled", "status": "True"}]),
    ]
    assert pods_problem(fine) is None
    assert (
        pods_problem([], {"status": {"conditions": [{"type": "ReplicaFailure", "status": "False"}]}}) is None
    )


def test_one_sentence_for_many_pods():
    pods = [pod(f"w-{n}", conditions=[UNSCHEDULABLE]) for n in range(3)]
    assert pods_problem(pods).startswith("pod w-0 has no node")
    assert pods_problem(pods).endswith("(and 2 more pods)")


def test_pods_that_a_quota_keeps_from_being_made():
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreateWorkerPod",
        "message": 'pods "w" is forbidden: exceeded quota: team, requested: limits.memory=32Gi',
    }
    assert pods_problem([], {"status": {"conditions": [condition]}}) == (
        'a pod can\'t be made: FailedCreateWorkerPod: pods "w" is forbidden: exceeded quota: team, requested: limits.memory=32Gi'
    )


def test_what_a_queue_says():
    workload = {
        "spec": {"queueName": "team-a"},
        "status": {
            "conditions": [
                {
                    "type": "QuotaReserved",
                    "status": "False",
                    "reason": "Pending",
                    "message": "couldn't assign flavors to pod set head: insufficient unused quota for cpu",
                }
            ]
        },
    }
    assert queue_problem([workload]) == (
        "waiting in queue team-a: Pending: couldn't assign flavors to pod set head: insufficient unused quota for cpu"
    )
    assert queue_problem([{"spec": {}, "status": {}}]) is None


@pytest.mark.parametrize(
    ("reason", "message", "is_final"),
    [
        ("ErrImagePull", "rpc error: code = NotFound desc = a:1: not found", True),
        ("ImagePullBackOff", BACK_OFF, True),
        ("ErrImagePull", "pull access denied for a, repository does not exist", True),
        ("ErrImagePull", "failed to authorize: 401 Unauthorized", True),
        ("InvalidImageName", "couldn't parse image name", True),
        ("ErrImageNeverPull", "", True),
        ("ErrImagePull", "503 Service Unavailable", False),
        ("ImagePullBackOff", 'Back-off pulling image "a:1"', False),
        ("ContainerCreating", "", None),
    ],
)
def test_an_image_that_no_waiting_brings_is_told_at_once_and_others_when_it_lasts(
    monkeypatch, reason, message, is_final
):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    watch, waits = ImageWatch(), [pod(containerStatuses=[container(waiting(reason, message))])]
    assert bool(watch.problem(waits)) == bool(is_final)
    now[0] += 29.0
    assert bool(watch.problem(waits)) == bool(is_final)
    assert watch.problem([pod()]) is None  # it came
    assert bool(watch.problem(waits)) == bool(is_final)
    now[0] += 30.0
    assert bool(watch.problem(waits)) == (is_final is not None)
