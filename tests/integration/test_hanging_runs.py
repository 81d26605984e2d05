"""Attempts that hang, with real processes: the worker that the others wait for is named, and the run goes on."""

import json
import os
import signal

import pytest

pytestmark = pytest.mark.ray

STEPS = 3000
HANGS_ONCE = """
import os, pathlib, time, torch
import torch.distributed as dist

class Hangs(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = torch.nn.Linear(64, classes)

    def forward(self, image):
        sign = pathlib.Path({sign!r})
        if dist.is_initialized() and dist.get_rank() == {rank} and sign.exists():
            sign.unlink()
            self.wait_for_nobody()
        return self.layer(image.flatten(1))

    def wait_for_nobody(self):
        time.sleep(10_000)

def build(classes=10):
    return Hangs(classes)
"""


def job(home, **sections):
    return home.job(
        data={"train": {"kind": "builtin", "name": "digits"}},
        training={"max_steps": STEPS, "log_every": 10, "evaluate_every": None},
        checkpoint={"every_steps": 500, "keep": {"best": 0}},
        **{
            "model": {"family": "cnn", "size": "debug"},
            "recovery": {"hang_timeout": 4, "max_failures": 1},
            **sections,
        },
    )


def followed(home, file, act):
    """Submits a run, acts once it has taken ten steps (it is given rank 1's process), and follows it to its end; returns its id, status and events."""
    answer = home.call("submit", str(file), "--json")
    assert answer.returncode == 0, answer.stderr
    run = json.loads(answer.stdout)["run_id"]
    worker = home.wait_for(run, lambda event: event["event"] == "worker" and event["rank"] == 1)
    home.wait_for(run, lambda event: event["event"] == "metrics" and event["step"] >= 10)
    act(worker["pid"])
    assert home.call("logs", run, "--follow").returncode == 0
    return run, home.status(run), told(home, run)


def told(home, run):
    return json.loads(home.call("logs", run, "--json").stdout)


def assert_named(home, run, status, events, rank, said):
    assert (status["state"], status["step"], status["attempt"]) == ("succeeded", STEPS, 2), events[-20:]
    [hang] = [event for event in events if event["event"] == "hang"]
    worker = next(e for e in events if e["event"] == "worker" and e["rank"] == rank and e["attempt"] == 1)
    assert hang["blamed"] == [{"rank": rank, "host": worker["host"], "pid": worker["pid"]}]
    assert hang["message"].startswith(
        f"worker {rank} (process {worker['pid']} on {worker['host']}) {said} for "
    )
    [incident] = [event for event in events if event["event"] == "incident"]
    assert (incident["rank"], incident["reason"], incident["retry"]) == (rank, "worker_lost", True)
    file = (home.folder / "runs" / run / hang["file"]).read_text()
    assert file.startswith(f"attempt 1: {hang['message']}\n")
    went = home.why(run)
    assert (went["steps"], went["faults"]) == (STEPS, 1) and went["seconds"]["down"] > 4
    assert "==== rank 0 ====" in file and "==== rank 1 ====" in file
    return file


def tag_of_the_hang(home, run):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("trainwright")
    [found] = client.search_runs([experiment.experiment_id], f"tags.`trainwright.run_id` = '{run}'")
    return found.data.tags.get("trainwright.hang")


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_worker_that_waits_for_nobody_is_named(home, tmp_path, rank):
    """It answers Ray's health check, and the other one waits for its gradient."""
    sign = home.folder / f"hang-{rank}"
    (home.folder / f"hangs_on_{rank}.py").write_text(HANGS_ONCE.format(sign=str(sign), rank=rank))
    file = job(
        home,
        model={"family": "custom", "factory": f"hangs_on_{rank}:build"},
        objective={"kind": "classification"},
    )
    run, status, events = followed(home, file, lambda pid: sign.touch())
    text = assert_named(home, run, status, events, rank, "has not moved")
    blamed, other = text.partition(f"==== rank {rank} ====")[2].split("==== rank")
    assert "in wait_for_nobody" in blamed and "in wait_for_nobody" not in other
    assert "; in gloo:" in next(line for line in text.splitlines() if line.startswith(f"rank {1 - rank} "))
    assert tag_of_the_hang(home, run) == next(e["message"] for e in events if e["event"] == "hang")


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_named(home):
    stopped = []

    def stop(pid):
        stopped.append(pid)
        os.kill(pid, signal.SIGSTOP)

    run, status, events = followed(home, job(home), stop)
    text = assert_named(home, run, status, events, 1, "has not answered")
    assert "it did not answer" in text
    with pytest.raises(ProcessLookupError):
        os.kill(stopped[0], 0)
    times = {e["event"]: e["time"] for e in events if e["event"] in ("hang", "end")}
    after = next(e["time"] for e in events if e["event"] == "metrics" and e["time"] > times["hang"])
    assert after - times["hang"] < 30


@pytest.mark.slow
def test_none_is_named_where_nothing_hangs(home):
    run, status, events = followed(home, job(home), lambda pid: None)
    assert (status["state"], status["attempt"]) == ("succeeded", 1)
    assert not [event for event in events if event["event"] in ("hang", "incident")]
    assert not (home.folder / "runs" / run / "incidents").exists()


def diagnosed(home, run):
    answer = home.call("diagnose", run, "--timeout", "120", "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.slow
def test_diagnose_names_the_worker_that_sleeps_and_shows_every_stack(home):
    """It is asked while the others wait, long before that would count as a hang."""
    sign = home.folder / "sleep"
    (home.folder / "sleeps.py").write_text(HANGS_ONCE.format(sign=str(sign), rank=1))
    file = job(
        home,
        model={"family": "custom", "factory": "sleeps:build"},
        objective={"kind": "classification"},
        recovery={"hang_timeout": 600, "stop_grace": 1},
    )
    run = json.loads(home.call("submit", str(file), "--json").stdout)["run_id"]
    home.wait_for(run, lambda event: event["event"] == "metrics" and event["step"] >= 10)
    going = diagnosed(home, run)
    assert going["waited_for"] == [] and going["sentence"].startswith("all workers go on"), going
    sign.touch()
    found = {"waited_for": []}
    while not found["waited_for"]:
        found = diagnosed(home, run)
    assert found["waited_for"] == [1] and f"process {found['ranks'][1]['pid']} on " in found["sentence"]
    assert any(frame.startswith("wait_for_nobody sleeps.py:") for frame in found["ranks"][1]["stack"])
    assert found["ranks"][0]["waits"] and found["ranks"][0]["stack"] and not found["ranks"][1]["waits"]
    assert "wait_for_nobody sleeps.py" in home.call("diagnose", run).stdout
    assert home.call("stop", run, "--now").returncode == 0
    assert home.call("logs", run, "--follow").returncode == 0
    ended = home.call("diagnose", run)
    assert ended.returncode == 2 and f"{run} has ended" in ended.stderr and "Traceback" not in ended.stderr
