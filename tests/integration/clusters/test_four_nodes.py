"""Four Ray nodes, as a person at a terminal uses them: one profile's file, the command line, and what goes wrong."""

import json
import os
import signal
import subprocess

import pytest
import yaml
from ray_nodes import RayNodes, alive, wait, workers_of

from orchestrator import events
from orchestrator.clusters import open_cluster
from orchestrator.clusters.ray.api import RayClient
from orchestrator.spec.load import load_profile

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("head", "b", "c", "d")


@pytest.fixture(scope="module")
def nodes():
    started = RayNodes()
    try:
        started.start_head("--num-cpus=2")
        for name in NAMES[1:]:
            started.start_node(name, "--num-cpus=2", f"--labels=zone={name}")
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def file(nodes):
    """The profile of the four, in a file."""
    path = nodes.folder / "pool.yaml"
    path.write_text(yaml.safe_dump(nodes.profile(len(NAMES))))
    client = RayClient(load_profile(str(path)))
    wait(lambda: len(alive(client)) == len(NAMES), "four nodes", 180)
    return path


def ends(home, run):
    """Follow a run to its end; returns its status and its events."""
    followed = home.call("logs", run, "--follow")
    assert followed.returncode == 0, followed.stderr
    return home.status(run), json.loads(home.call("logs", run, "--json").stdout)


def test_the_doctor_sees_all_of_them_within_two_minutes(home, file):
    answer = home.call("doctor", "--cluster", str(file), timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "pass  nodes                4 nodes with 8 CPUs and 0 GPUs" in answer.stdout
    assert "pass  all-reduce           gloo over 4 processes: " in answer.stdout


def test_a_wrong_token_is_one_sentence(home, file, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    profile = yaml.safe_load(file.read_text())
    profile["secrets"] = {"ray_token_file": str(wrong)}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(profile))
    answer = home.call("submit", str(home.job()), "--cluster", str(tmp_path / "wrong.yaml"))
    assert answer.returncode == 4
    assert answer.stderr.startswith("error: cluster pool refuses the token found in secrets.ray_token_file")
    assert answer.stderr.count("\n") == 1


def test_twenty_processes_that_submit_one_run_at_once_start_one_job(home, file):
    job = home.job(training={"max_steps": 20, "evaluate_every": 20}, tracking={"kind": "none"})
    submit = home.command("submit", str(job), "--cluster", str(file), "--id", "once-abcdefgh", "--json")
    started = [
        subprocess.Popen(
            submit,
            env=home.environment,
            cwd=home.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(20)
    ]
    answers = [(*process.communicate(timeout=400), process.returncode) for process in started]
    assert [code for _, _, code in answers] == [0] * 20, answers
    assert {json.loads(out)["run_id"] for out, _, _ in answers} == {"once-abcdefgh"}
    jobs = [job["submission_id"] for job in RayClient(load_profile(str(file))).list()]
    assert [name for name in jobs if name.startswith("once")] == ["once-abcdefgh"]
    status, told = ends(home, "once-abcdefgh")
    assert (status["state"], status["launch"]) == ("succeeded", 1)
    assert len([event for event in told if event["event"] == "end"]) == 1


def test_a_gpt_trains_with_a_worker_on_each_of_them(home, file, nodes):
    job = {
        "name": "gpt",
        "model": {"family": "gpt", "size": "debug"},
        "data": {
            "train": {"kind": "builtin", "name": "pydoc_topics"},
            "eval": {"kind": "split", "fraction": 0.1},
            "prepare": {"kind": "pack", "tokenizer": {"kind": "characters", "unknown": True}, "context": 64},
        },
        "training": {"max_steps": 40, "global_batch_size": 8, "log_every": 5},
        "scaling": {"workers": 4, "placement": "spread"},
        "tracking": {"kind": "none"},
    }
    (home.folder / "gpt.yaml").write_text(yaml.safe_dump(job))
    answer = home.call("submit", "gpt.yaml", "--cluster", str(file), "--id", "gpt-abcdefgh")
    assert answer.returncode == 0, answer.stderr
    status, told = ends(home, "gpt-abcdefgh")
    assert (status["state"], status["step"]) == ("succeeded", 40), told[-20:]
    points = [event["values"] for event in told if event["event"] == "metrics"]
    losses = [values["train/loss"] for values in points if "train/loss" in values]
    assert losses[-1] < losses[0]
    assert len({worker["node_id"] for worker in workers_of(load_profile(str(file)), "gpt-abcdefgh")}) == 4
    if nodes.network:  # each node has its own host name
        assert {event["host"] for event in told if event["event"] == "worker"} == set(NAMES)
    assert [event["rank"] for event in rank_events(home, "gpt-abcdefgh", 3)] == [3]
    listed = json.loads(home.call("list", "--cluster", str(file), "--json").stdout)
    assert [run["state"] for run in listed if run["run_id"] == "gpt-abcdefgh"] == ["succeeded"]


def rank_events(home, run, rank):
    """What a worker said of itself when it began, from its own log."""
    lines = json.loads(home.call("logs", run, "--rank", str(rank), "--json").stdout)
    return [line for line in lines if line["event"] == "worker"]


def start(home, file, run, **sections):
    """Submit a run of three workers, each of a node's size; returns its events as they come."""
    job = home.job(
        model={"family": "cnn", "size": "debug"},
        data={"train": {"kind": "builtin", "name": "digits"}, "eval": {"kind": "split", "fraction": 0.1}},
        training={"max_steps": 900, "global_batch_size": 96, "log_every": 5, "evaluate_every": 900},
        scaling={"workers": 3, "cpus_per_worker": 2, "placement": "spread"},
        checkpoint={"every_steps": 50},
        recovery={"hang_timeout": "45s", "worker_start_timeout": "120s"},
        tracking={"kind": "none"},
        **sections,
    )
    answer = home.call("submit", str(job), "--cluster", str(file), "--id", run)
    assert answer.returncode == 0, answer.stderr
    lines = open_cluster(load_profile(str(file))).logs(run, follow=True)
    return (event for line in lines if (event := events.parse(line)))


def test_a_worker_s_lines_outlive_it(home, file):
    run = "killed-abcdefgh"
    workers, starts = [], []
    for event in start(home, file, run):
        if event["event"] == "worker":
            workers.append(event)
        if event["event"] == "attempt":
            starts.append(event["start_step"])
        if event["event"] == "metrics" and event["step"] >= 60 and len(starts) == 1:
            [victim] = [worker for worker in workers if worker["rank"] == 1]
            os.kill(victim["pid"], signal.SIGKILL)
            starts.append(None)  # once
    status = home.status(run)
    assert (status["state"], status["step"]) == ("succeeded", 900), status
    assert len(starts) == 3
    assert starts[-1] >= 50
    assert len({worker["attempt"] for worker in workers}) == 2
    assert [event["attempt"] for event in rank_events(home, run, 1)] == [1, 2]


def test_a_node_whose_cable_is_pulled_does_not_end_the_run(home, file, nodes):
    """Last: the node stays away. No connection is closed; Ray and the workers have to notice by themselves."""
    if nodes.network is None:
        pytest.skip("needs network namespaces: root, ip, nsenter and unshare")
    run = "cut-abcdefgh"
    hosts, starts, is_cut = {}, [], None
    for event in start(home, file, run):
        if event["event"] == "worker":
            hosts[event["attempt"], event["rank"]] = event["host"]
        if event["event"] == "attempt":
            starts.append(event["start_step"])
        if event["event"] == "metrics" and event["step"] >= 60 and is_cut is None:
            is_cut = next(host for host in hosts.values() if host != "head")
            nodes.network.cut(is_cut)
    status = home.status(run)
    assert (status["state"], status["step"]) == ("succeeded", 900), status
    assert starts[0] == 0
    assert starts[-1] >= 50
    last = max(attempt for attempt, _ in hosts)
    [rank] = [rank for (attempt, rank), host in hosts.items() if (attempt, host) == (1, is_cut)]
    assert (
        next(event["host"] for event in rank_events(home, run, rank)) == is_cut
    )  # its lines are still there
    assert is_cut not in {host for (attempt, _), host in hosts.items() if attempt == last}
    wait(lambda: len(alive(RayClient(load_profile(str(file))))) == 3, "Ray's word that a node is gone", 60)
