"""Runs from the command line on a real API server, with KubeRay's operator and Ray in every pod."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import subprocess
import time

import pytest
import yaml
from chartkit.helm import CHART, render
from control_plane import wait_until
from kuberay import NAMESPACE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

KEEP_HEAD, KEEP_JOB = 25, 45

_SPEC = importlib.util.spec_from_file_location("before_uninstall", CHART / "files" / "before_uninstall.py")
before_uninstall = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(before_uninstall)


def of_kind(events, kind):
    return [event for event in events if event["event"] == kind]


def clusters_of(kube, run):
    """Every Ray cluster that KubeRay made for a RayJob."""
    named = [(event.body.get("status") or {}).get("rayClusterName") for event in kube.of_rayjob(run)]
    return {name for name in named if name}


@pytest.fixture(autouse=True)
def room_for_the_next(kube):
    """Heads that are kept take room on the two nodes."""
    yield
    kube.remove_all()


def test_a_run_takes_all_its_steps_and_leaves_nothing_behind(kube):
    """Submitted by five processes, followed, looked at; its pods and objects go when the rules say."""
    run, file = "whole-abcdefgh", kube.profile_file(keep_head=f"{KEEP_HEAD}s", keep_job=f"{KEEP_JOB}s")
    kube.submit(run, file, tracking={"kind": "mlflow", "log_model": False})
    again = kube.command("submit", str(kube.folder / f"{run}.yaml"), "--cluster", str(file), "--id", run)
    others = [subprocess.Popen(again, env=kube.environment, cwd=kube.folder) for _ in range(4)]
    assert [process.wait(120) for process in others] == [0, 0, 0, 0]

    told = list(kube.follow(run, file))
    assert of_kind(told, "metrics")[-1]["step"] == 60
    assert sorted(event["rank"] for event in of_kind(told, "worker")) == [0, 1]
    assert of_kind(told, "end")[-1]["state"] == "succeeded"
    of_rank_1 = json.loads(kube.good("logs", run, "--cluster", str(file), "--rank", "1", "--json"))
    assert [event["rank"] for event in of_kind(of_rank_1, "worker")] == [1]
    status = kube.status(run, file)
    assert (status["state"], status["reason"], status["step"]) == ("succeeded", "completed", 60), status

    def listed():
        found = json.loads(kube.good("list", "--cluster", str(file), "--json"))
        return [one["state"] for one in found if one["run_id"] == run]

    wait_until("KubeRay notes the end, by which list goes", lambda: listed() == ["succeeded"], seconds=60)

    folder = kube.storage / "runs" / run
    ledger = json.loads((folder / "launches/1/ledger.json").read_text())
    assert ledger["is_told_apart"]
    assert {"queue", "environment", "waiting for nodes"} <= set(ledger["seconds"])
    wall = status["ended_at"] - status["submitted_at"]
    assert sum(ledger["seconds"].values()) == pytest.approx(wall, rel=0.005)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())
    with sqlite3.connect(kube.storage / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone() == (1,)

    assert len({event.body["metadata"]["uid"] for event in kube.of_rayjob(run)}) == 1
    assert len(clusters_of(kube, run)) == 1
    ended = kube.ended_at(run)
    wait_until("the object goes", lambda: kube.rayjob(run) is None, seconds=KEEP_JOB + 60)
    gone = kube.gone_at(run)
    wait_until("its ConfigMap goes with it", lambda: kube.config_map(run) is None, seconds=60)
    wait_until("its pods are gone", lambda: not kube.pods(run), seconds=60)
    workers = [at - ended for at in kube.pods_gone_at(run, "worker")]
    [head] = [at - ended for at in kube.pods_gone_at(run, "head")]
    print(f"after the end: workers gone {workers}, head {head:.1f}, object {gone - ended:.1f} s")
    assert len(workers) == 2
    assert max(workers) < head
    assert KEEP_HEAD <= head < KEEP_JOB + 30
    assert KEEP_JOB <= gone - ended < KEEP_JOB + 30


def test_a_job_that_is_wrong_fails_once_and_says_why(kube):
    """Its data is where the client is, and not where the pods are: no second cluster, the reason at once."""
    run, file = "wrong-abcdefgh", kube.profile_file()
    table = kube.folder / "table.csv"
    table.write_text("a,b,label\n" + "0.25,0.5,0\n0.5,0.25,1\n" * 200)
    kube.submit(
        run,
        file,
        model={"family": "mlp", "size": "debug", "in_features": 2, "outputs": 2},
        data={
            "train": {"kind": "csv", "path": str(table)},
            "eval": {"kind": "split", "fraction": 0.1},
            "columns": {"features": "*", "label": "label"},
        },
    )
    [end] = of_kind(kube.follow(run, file), "end")
    status = kube.status(run, file)
    assert end["state"] == status["state"] == "failed", (end, status)
    assert end["reason"] == status["reason"], (end, status)
    assert str(table) in end["message"]
    wait_until("the workers go", lambda: not kube.pods(run, "worker"), seconds=60)
    listed = json.loads(kube.good("list", "--cluster", str(file), "--json"))
    assert [found["reason"] for found in listed if found["run_id"] == run] == [end["reason"]]
    assert len(clusters_of(kube, run)) == 1
    assert {event.deployment for event in kube.of_rayjob(run)} <= {"", "Initializing", "Running", "Failed"}


def test_an_ended_run_is_let_go_and_stays_as_a_record(kube):
    """What the chart runs before `helm uninstall`, as its own account, with the operator there."""
    run, file = "ended-bcdefghi", kube.profile_file()
    kube.submit(run, file)
    account = "train-before-uninstall"
    for body in render():
        if body["metadata"]["name"] == account and body["kind"] != "Job":
            kube.plane.create(body, NAMESPACE)
    tokens = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = kube.plane.request("POST", tokens, asked)["status"]["token"]
    api = before_uninstall.Api(kube.plane.url, NAMESPACE, token, kube.plane.authority.file)
    with pytest.raises(SystemExit, match=f"1 of 1 RayJobs .* trainwright stop {run} --cluster pool"):
        before_uninstall.before_uninstall(api, NAMESPACE, "pool")

    assert of_kind(kube.follow(run, file), "end")[-1]["state"] == "succeeded"
    wait_until(
        "KubeRay knows of the end", lambda: kube.rayjob(run)["status"]["jobDeploymentStatus"] == "Complete"
    )
    assert kube.rayjob(run)["metadata"]["finalizers"]
    assert "1 ended RayJobs stay" in before_uninstall.before_uninstall(api, NAMESPACE, "pool")
    wait_until("its pods go", lambda: not kube.pods(run), seconds=120)
    known = len(kube.of_rayjob(run))
    time.sleep(10)  # the operator has looked again
    assert not kube.rayjob(run)["metadata"].get("finalizers"), kube.of_rayjob(run)[known:]
    assert kube.status(run, file)["state"] == "succeeded"
    assert not kube.pods(run)


def test_a_stop_saves_and_resume_takes_the_rest(kube):
    run, file = "pause-abcdefgh", kube.profile_file()
    kube.submit(run, file, training={"max_steps": 1000, "global_batch_size": 64, "log_every": 20})
    told = []
    for event in kube.follow(run, file):
        told.append(event)
        if event["event"] == "checkpoint" and event["step"] == 20:
            asked = time.time()
            assert json.loads(kube.good("stop", run, "--cluster", str(file), "--json"))["state"] == "stopping"
    [end] = of_kind(told, "end")
    print(f"stopped after {end['time'] - asked:.1f} s, at step {end['step']}")
    assert (end["state"], end["reason"]) == ("stopped", "stopped_by_user")
    assert 20 <= end["step"] < 1000
    assert of_kind(told, "checkpoint")[-1]["step"] == end["step"]
    status = kube.status(run, file)
    assert (status["state"], status["reason"]) == ("stopped", "stopped_by_user"), status

    wait_until("the workers go", lambda: not kube.pods(run, "worker"), seconds=60)
    kube.good("resume", run, "--cluster", str(file))
    told = list(kube.follow(run, file))
    assert of_kind(told, "attempt")[0]["start_step"] == end["step"]
    assert of_kind(told, "metrics")[-1]["step"] == 1000
    status = kube.status(run, file)
    assert (status["state"], status["launch"], status["step"]) == ("succeeded", 2, 1000), status


def test_a_stop_now_ends_a_run_that_trains_and_one_that_waits(kube):
    run, file = "ended-abcdefgh", kube.profile_file()
    kube.submit(run, file, training={"max_steps": 100000, "global_batch_size": 64, "log_every": 20})
    for event in kube.follow(run, file):
        if event["event"] == "metrics":
            break
    kube.good("stop", run, "--now", "--cluster", str(file))
    wait_until("its pods are gone", lambda: not kube.pods(run), seconds=60)
    status = kube.status(run, file)
    assert (status["state"], status["reason"]) == ("stopped", "stopped_by_user"), status
    assert kube.rayjob(run) is not None

    run, large = "waits-abcdefgh", kube.folder / "large.yaml"
    group = {"name": "cpu", "cpus": 64, "memory": "3GiB", "min": 0, "max": 4}
    large.write_text(yaml.safe_dump({**kube.profile("large"), "node_groups": [group]}))
    kube.submit(run, large, scaling={"workers": 2, "cpus_per_worker": 40})
    submitted = time.time()
    wait_until(
        "status says why it waits",
        lambda: "Insufficient cpu" in kube.status(run, large)["message"],
        seconds=60,
    )
    print(f"status said why it waits {time.time() - submitted:.1f} s after submit")
    assert kube.status(run, large)["state"] in ("pending", "starting")

    def waits():
        return [part for part, _ in kube.status(run, large)["waited"]]

    parts = ["queue", "image", "environment", "waiting for nodes"]  # its head is there, its workers never are
    wait_until("its head is ready", lambda: waits() == parts, seconds=120)
    kube.good("stop", run, "--now", "--cluster", str(large))
    wait_until("its pods are gone", lambda: not kube.pods(run), seconds=60)
    wait_until("KubeRay notes the end", lambda: kube.status(run, large)["state"] == "stopped", seconds=60)
    status = kube.status(run, large)
    assert [part for part, _ in status["waited"]] == parts
    ledger = json.loads(kube.good("why", run, "--cluster", str(large), "--json"))
    assert {"environment", "waiting for nodes"} <= set(ledger["seconds"]) <= set(parts)
    wall = status["ended_at"] - status["submitted_at"]
    assert sum(ledger["seconds"].values()) == pytest.approx(wall, rel=0.005)
    print(f"a launch without a driver waited for {ledger['seconds']}")


def test_a_run_recovers_from_a_worker_s_pod_that_is_deleted(kube):
    run, file = "fault-abcdefgh", kube.profile_file()
    kube.submit(
        run,
        file,
        training={"max_steps": 600, "global_batch_size": 64, "log_every": 20},
        recovery={"stop_grace": "20s", "hang_timeout": "30s", "worker_start_timeout": "180s"},
    )
    told = []
    for event in kube.follow(run, file):
        told.append(event)
        if event["event"] == "checkpoint" and event["step"] == 40:
            kube.delete_pod(kube.pods(run, "worker")[0], gracePeriodSeconds=0)
    assert of_kind(told, "end")[-1]["state"] == "succeeded", told[-5:]
    attempts = of_kind(told, "attempt")
    print(f"attempts {attempts}, incidents {of_kind(told, 'incident')}")
    assert len(attempts) == 2
    start = attempts[1]["start_step"]
    assert start >= 40
    first_of_each_attempt = {1, start + 1}
    steps = {event["step"] for event in of_kind(told, "metrics")}
    assert steps == first_of_each_attempt | set(range(20, 601, 20))
    assert len(clusters_of(kube, run)) == 1
    assert len(kube.pods_gone_at(run, "worker")) >= 1


def test_a_worker_s_pod_that_is_evicted_costs_no_failure(kube):
    """As by a node drain, with its grace: no failure is allowed here, and the run goes on."""
    run, file = "evict-abcdefgh", kube.profile_file()
    kube.submit(
        run,
        file,
        training={"max_steps": 600, "global_batch_size": 64, "log_every": 20},
        recovery={
            "max_failures": 0,
            "stop_grace": "20s",
            "hang_timeout": "60s",
            "worker_start_timeout": "180s",
        },
    )
    told, evicted = [], 0.0
    for event in kube.follow(run, file):
        told.append(event)
        if event["event"] == "checkpoint" and event["step"] == 40:
            kube.evict_pod(kube.pods(run, "worker")[0])
            evicted = time.time()
    assert of_kind(told, "end")[-1]["state"] == "succeeded", told[-5:]
    attempts = of_kind(told, "attempt")
    next_step = next(event for event in of_kind(told, "metrics") if event["time"] > attempts[-1]["time"])
    print(f"attempts {attempts}, incidents {of_kind(told, 'incident')}")
    print(f"the next step that was told came {next_step['time'] - evicted:.1f} s after the eviction")
    assert len(attempts) == 2
    assert attempts[1]["start_step"] >= 40
    assert max(event["step"] for event in of_kind(told, "metrics")) == 600
    assert len(clusters_of(kube, run)) == 1
