"""Drain, eviction and deletion of each pod that a run needs, with its grace, while the run trains, saves and evaluates.

It goes on each time, and no failure is allowed. What each cost is printed as a row of the table in docs/helm.md.
"""

from __future__ import annotations

import shutil
import subprocess
import time

import chart_on_nodes
import pytest
from chartkit.helm import binary
from control_plane import wait_until
from run_progress import EVERY, Progress

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

PHASES = ("training", "saving", "evaluating")
WAYS = ("delete", "evict", "drain")
SELECTORS = {
    "worker": "ray.io/node-type=worker",
    "head": "ray.io/node-type=head",
    "operator": "app.kubernetes.io/component=kuberay-operator",
    "mlflow": "app.kubernetes.io/component=mlflow",
}
OF_THE_RUN = ("worker", "head")
"""Pods without which no step is taken."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The chart on nodes whose pods run."""
    if reason := chart_on_nodes.missing(tmp_path_factory.mktemp("probe")):
        pytest.skip(reason)
    with chart_on_nodes.running(tmp_path_factory.mktemp("chart")) as made:
        made.install(chart_on_nodes.on_pools())
        yield made


def job(code):
    """Two workers that train for as long as they may, by a model of that folder."""
    return {
        "name": "slow",
        "model": {
            "family": "custom",
            "factory": "slow_model:Slow",
            "config": {"width": 30_000, "seconds": 2.0},
        },
        "objective": {"kind": "classification"},
        "data": {
            "train": {"kind": "builtin", "name": "digits"},
            "eval": {"kind": "split", "fraction": 0.1},
        },
        "training": {"max_steps": 100_000, "global_batch_size": 64, "log_every": 1, "evaluate_every": EVERY},
        "checkpoint": {"every_steps": EVERY // 2},
        "scaling": {"workers": 2, "cpus_per_worker": 2},
        "tracking": {"kind": "mlflow", "log_model": False},
        "recovery": {
            "max_failures": 0,
            "stop_grace": "30s",
            "hang_timeout": "60s",
            "worker_start_timeout": "300s",
        },
        "environment": {"working_dir": str(code)},
    }


@pytest.fixture(scope="module")
def run(cluster):
    """One run that goes through it all: its id, and what it does."""
    name = "away-abcdefgh"
    code = cluster.folder / "code"
    code.mkdir()
    shutil.copy(chart_on_nodes.HERE / "slow_model.py", code)
    cluster.submit(name, cluster.profile_of_release(), **job(code))
    progress = Progress(cluster.storage / "runs" / name)
    progress.first_step_after(0.0)
    return name, progress


def take_away(cluster, pod, way):
    """As ``kubectl delete pod``, an eviction and ``kubectl drain`` do, each with the pod's own grace; returns what undoes it."""
    node = pod["spec"]["nodeName"]
    if way == "delete":
        cluster.delete_pod(pod)
    elif way == "evict":
        cluster.evict_pod(pod)
    else:
        command = [binary("kubectl"), "--kubeconfig", str(cluster.plane.admin_kubeconfig), "drain", node]
        options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s"]
        drain = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

        def undo():
            output, _ = drain.communicate(timeout=300)
            assert drain.returncode == 0, output.decode()
            cluster.kubectl("uncordon", node)

        return undo
    return lambda: None


def is_ready(pod):
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)


def wait_for_replacement(cluster, run, target, gone):
    """Until another pod is ready, and all of the run's are."""
    selector = SELECTORS[target] + (f",trainwright/run={run}" if target in OF_THE_RUN else "")
    count = 2 if target == "worker" else 1

    def is_there():
        pods = cluster.pods_of(selector)
        is_other = all(pod["metadata"]["uid"] != gone["metadata"]["uid"] for pod in pods)
        return is_other and len(pods) == count and all(is_ready(pod) for pod in pods)

    wait_until(f"another {target} is ready", is_there, seconds=300)


def cell(cluster, run, progress, target, way, phase):
    """Take one pod away in one phase, and let the run go on; returns steps that had to be taken again."""
    selector = SELECTORS[target] + (f",trainwright/run={run}" if target in OF_THE_RUN else "")
    pod = sorted(cluster.pods_of(selector), key=lambda pod: pod["metadata"]["name"])[-1]
    for node in cluster.nodes:
        node.forget_restarts()  # else each head that is lost has the workers' containers wait twice as long as the one before
    seen = progress.wait_for(phase)
    before = progress.attempt
    at = time.time()
    undo = take_away(cluster, pod, way)
    if target == "head":
        undo()  # the next one may need that very node
    later_than = before if target in OF_THE_RUN else before - 1
    following = progress.first_step_after(at, later_than=later_than)
    last = progress.last_before(following)
    lost = 0
    if following["attempt"] != before:
        lost = last["step"] - progress.start_of(following["attempt"])
    if target != "head":
        undo()
    wait_for_replacement(cluster, run, target, pod)
    later = progress.first_step_after(time.time())
    assert later["attempt"] == following["attempt"], (following, later)
    seconds, still = following["time"] - at, following["time"] - last["time"]
    print(
        f"| {target} | {way} | {phase} | {lost} | {seconds:.1f} | {still:.1f} |  ({seen}; attempt {following['attempt']})",
        flush=True,
    )
    assert (following["attempt"] == before) == (target not in OF_THE_RUN), following
    return lost


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("target", SELECTORS)
def test_the_run_goes_on_whatever_is_taken_away(cluster, run, target, phase):
    name, progress = run
    for way in WAYS:
        assert cell(cluster, name, progress, target, way, phase) == 0


def test_no_failure_was_counted(cluster, run):
    """None was allowed, so that one would have ended the run."""
    name, file = run[0], cluster.profile_of_release()
    cluster.good("stop", name, "--cluster", str(file))
    told = list(cluster.follow(name, file))
    incidents = [event for event in told if event["event"] == "incident"]
    status = cluster.status(name, file)
    assert (status["state"], status["reason"]) == ("stopped", "stopped_by_user"), (status, incidents)
    assert all(event["failure"] == 0 for event in incidents), incidents
