"""Runs on this machine as a person makes them: the command line, real Ray, a real MLflow store, real kills."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from programmable_server import wait_until

from orchestrator import data
from orchestrator.clusters.local.processes import processes_of
from orchestrator.errors import InfrastructureError

pytestmark = pytest.mark.ray


def submit(home, job, *arguments):
    answer = home.call("submit", str(job), "--json", *arguments)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)["run_id"]


def follow(home, run):
    answer = home.call("logs", run, "--follow")
    assert answer.returncode == 0, answer.stderr
    return home.status(run)


@pytest.fixture(scope="module")
def uninterrupted(home):
    """A run that nothing happens to, by ``trainwright run``."""
    answer = home.call("run", str(home.job()), "--set", "tracking.system_metrics=true")
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr
    run = next(line.split()[1] for line in answer.stdout.splitlines() if line.startswith("run "))
    return run, answer.stdout


def assert_equal_states(home, run, other):
    (step, state), (other_step, other_state) = home.final_state(run), home.final_state(other)
    assert step == other_step == 2000
    assert state.keys() == other_state.keys()
    assert {kind for kind, _ in state} >= {"parameter", "exp_avg", "exp_avg_sq"}
    for name, tensor in state.items():
        assert torch.equal(tensor, other_state[name]), name


def metric_steps(home, run):
    answer = home.call("logs", run, "--json")
    return [
        event["step"]
        for event in json.loads(answer.stdout)
        if event["event"] == "metrics" and "train/loss" in event["values"]
    ]


def test_a_run_shows_its_progress_and_ends_with_a_summary(home, uninterrupted):
    run, output = uninterrupted
    assert "global 32 = 2 workers × 16 micro × 1 accumulation" in output
    assert "step 2000/2000" in output and "system/data_wait_share" in output
    assert "succeeded: took all 2000 steps" in output
    assert "has not brought the last lines" not in output
    status = home.status(run)
    assert (status["state"], status["reason"], status["step"], status["attempt"]) == (
        "succeeded",
        "completed",
        2000,
        1,
    )
    assert status["metrics"]["val/accuracy"] > 0.9
    assert metric_steps(home, run) == [1, *range(50, 2001, 50)]
    assert "has no output of rank 7" in home.call("logs", run, "--rank", "7").stderr


def process_of(home, run):
    return json.loads((home.folder / "runs" / run / "launches" / "1" / "process.json").read_text())


def test_nothing_is_left_behind(home, uninterrupted):
    run, _ = uninterrupted
    home.wait_until_gone(run)
    ray_dir = Path(process_of(home, run)["ray_dir"])
    assert ray_dir.parent == Path(tempfile.gettempdir()) / f"tw-{os.getuid()}"
    assert not ray_dir.exists()


def test_what_a_run_leaves_is_read_by_its_user_alone(home, uninterrupted):
    run, _ = uninterrupted
    for part in ("mlflow.db", "cache", "mlartifacts", f"runs/{run}/checkpoints"):
        assert (home.folder / part).exists()
    ours = [path for path in home.folder.rglob("*") if path.suffix != ".yaml"]
    assert [str(path) for path in ours if path.stat().st_mode & 0o077] == []


def listeners(session):
    """Addresses that the processes of a session accept connections at, as the kernel writes them."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                sockets[f"socket:[{fields[9]}]"] = fields[1].rpartition(":")[0]
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "stat").read_text().rsplit(")", 1)[1].split()[3] == str(
                session
            ):
                links = [str(descriptor.readlink()) for descriptor in (entry / "fd").iterdir()]
                found += [sockets[link] for link in links if link in sockets]
    return found


def test_a_run_listens_on_loopback_alone(home):
    run = submit(home, home.job())
    home.wait_for(run, lambda event: event["event"] == "metrics")
    addresses = listeners(process_of(home, run)["pid"])
    assert home.call("stop", run, "--now").returncode == 0
    assert len(addresses) > 8  # Ray's, the group's store, and each worker's
    assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.mark.parametrize("reader", ["worker", "ray"])
def test_a_run_starts_no_process_that_it_has_no_use_for(home, reader):
    """Each takes from half a second to three on a core before the first step."""
    run = submit(home, home.job(scaling={"workers": 1}), "--set", f"data.reader={reader}")
    home.wait_for(run, lambda event: event["event"] == "metrics")
    commands = home.processes(run)
    assert home.call("stop", run, "--now").returncode == 0
    known = {
        "driver": "-m orchestrator.driver",
        "gcs": "gcs_server",
        "raylet": "raylet/raylet",
        "agents": "stand_in_agent.py",
        "log": "log_monitor.py",
        "worker": "RayTrainWorker",
        "barrier": "ray::SynchronizationActor",
        "reader": "ray::",  # waits for tasks, or has one
    }
    kinds = [next((kind for kind, word in known.items() if word in command), command) for command in commands]
    assert sorted(kind for kind in kinds if kind != "reader") == [
        *("agents", "agents", "barrier", "driver", "gcs", "log", "raylet", "worker")
    ]
    readers = kinds.count("reader")
    assert (
        readers == 0 if reader == "worker" else 1 <= readers <= 2 * 2
    )  # data.reader_tasks, and as many to come
    assert not any("StatsActor" in command or "Autoscaling" in command for command in commands)


def test_mlflow_holds_the_run(home, uninterrupted):
    from mlflow import MlflowClient

    run, _ = uninterrupted
    client = MlflowClient(f"sqlite:///{home.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("trainwright")
    found = client.search_runs([experiment.experiment_id], f"tags.`trainwright.run_id` = '{run}'")
    assert len(found) == 1 and found[0].info.status == "FINISHED"
    record = found[0]
    assert record.data.params["model.family"] == "mlp" and record.data.params["plan.world_size"] == "2"
    assert record.data.tags["strategy"] == "ddp"
    assert {artifact.path for artifact in client.list_artifacts(record.info.run_id)} >= {
        "job.yaml",
        "plan.json",
        "environment.txt",
        "report.html",
    }
    history = client.get_metric_history(record.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == [1, *range(50, 2001, 50)]
    assert [point.step for point in client.get_metric_history(record.info.run_id, "val/loss")] == [1000, 2000]
    assert record.inputs.dataset_inputs[0].tags[0].value == "train"
    processor = client.get_metric_history(record.info.run_id, "system/node_0/cpu_utilization_percentage")
    assert processor and len({point.step for point in processor}) == len(processor)


def test_an_export_says_how_rows_become_what_the_model_takes(home, uninterrupted, tmp_path):
    run, _ = uninterrupted
    answer = home.call("export", run, "--output", str(tmp_path / "models" / "mine"))
    assert answer.returncode == 0, answer.stderr
    folder = tmp_path / "models" / "mine"
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "inputs.json",
        "model.safetensors",
    ]
    inputs = data.Inputs.model_validate_json((folder / "inputs.json").read_bytes())
    assert [section.kind for section in inputs.transforms] == ["normalize"]
    assert len(inputs.fitted[0]["mean"]) == 30
    (tmp_path / "taken").write_text("a file")
    refused = home.call("export", run, "--output", str(tmp_path / "taken" / "mine"))
    assert refused.returncode == 2 and "a file is in its place" in refused.stderr


def test_a_stopped_run_goes_on_to_the_same_result(home, uninterrupted):
    run = submit(home, home.job())
    home.wait_for(run, lambda event: event["event"] == "metrics")
    assert home.call("stop", run).returncode == 0
    assert home.call("stop", run).returncode == 0
    status = follow(home, run)
    assert (status["state"], status["reason"]) == ("stopped", "stopped_by_user")
    assert 0 < status["step"] < 2000
    assert home.call("resume", run).returncode == 0
    assert home.call("resume", run).returncode == 2
    assert follow(home, run)["state"] == "succeeded"
    assert home.call("stop", run).returncode == 0 and home.status(run)["state"] == "succeeded"
    assert_equal_states(home, run, uninterrupted[0])


@pytest.mark.slow
def test_a_pipeline_needs_no_folder_of_its_own(home, monkeypatch):
    """Ray Data sorts what it makes in an environment of its own, which a job without a folder has no other use for."""
    (home.folder / "my_rows.py").write_text(
        "import ray.data\n"
        "def rows(count):\n"
        "    return ray.data.range(count, override_num_blocks=4).map_batches(\n"
        "        lambda b: {'key': b['id'], 'features': b['id'][:, None] * [1.0, 2.0], 'label': b['id'] % 3})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(home.folder))
    source = {"kind": "pipeline", "function": "my_rows:rows", "arguments": {"count": 96}, "id_column": "key"}
    job = home.job(
        model={"family": "mlp", "size": "debug", "in_features": 2, "outputs": 3},
        data={"train": source},
        training={"max_steps": 3, "evaluate_every": None},
        scaling={"workers": 1},
    )
    status = follow(home, submit(home, job))
    assert (status["state"], status["step"]) == ("succeeded", 3), status["message"]


@pytest.mark.slow
def test_a_run_goes_on_with_changed_data_only_if_told_to(home):
    rows = home.folder / "rows.csv"
    lines = [f"{i % 7},{i % 3},{int(i % 7 > 3)}" for i in range(400)]
    rows.write_text("\n".join(["a,b,label", *lines]))
    source = {"train": {"kind": "csv", "path": str(rows)}, "columns": {"features": ["a", "b"]}}
    run = submit(home, home.job(data=source, training={"evaluate_every": None, "max_steps": 1000}))
    home.wait_for(run, lambda event: event["event"] == "checkpoint")
    assert home.call("stop", run).returncode == 0
    assert follow(home, run)["state"] == "stopped"
    rows.write_text("\n".join(["a,b,label", *lines, "1,1,0"]))
    assert home.call("resume", run).returncode == 0
    refused = follow(home, run)
    assert refused["state"] == "failed"
    assert "rows.csv had 400 rows" in refused["message"]
    assert "--set recovery.accept_changed_data=true" in refused["message"]
    assert home.call("resume", run, "--set", "recovery.accept_changed_data=true").returncode == 0
    status = follow(home, run)
    assert (status["state"], status["step"]) == ("succeeded", 1000), status["message"]
    log = home.call("logs", run, "--rank", "0").stdout
    assert "going on, as recovery.accept_changed_data says" in log


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_one_worker_in_another_strategy(home):
    run = submit(home, home.job())
    home.wait_for(run, lambda event: event["event"] == "checkpoint")
    assert home.call("stop", run).returncode == 0
    assert follow(home, run)["state"] == "stopped"
    refused = home.call("resume", run, "--set", "training.seed=2")
    assert refused.returncode == 2 and "training.seed can't change in a run that has begun" in refused.stderr
    answer = home.call("resume", run, "--set", "scaling.workers=1", "--set", "strategy={kind: fsdp}")
    assert answer.returncode == 0, answer.stderr
    status = follow(home, run)
    assert (status["state"], status["step"]) == ("succeeded", 2000), status["message"]
    assert status["metrics"]["val/accuracy"] > 0.9
    workers = [
        event["rank"]
        for event in json.loads(home.call("logs", run, "--json").stdout)
        if event["event"] == "worker"
    ]
    assert sorted(workers) == [0, 0, 1]


def test_a_killed_worker_is_replaced_and_the_result_is_the_same(home, uninterrupted):
    run = submit(home, home.job())
    worker = home.wait_for(run, lambda event: event["event"] == "worker" and event["rank"] == 1)
    home.wait_for(run, lambda event: event["event"] == "checkpoint" and event["step"] >= 100)
    os.kill(worker["pid"], signal.SIGKILL)
    status = follow(home, run)
    assert status["state"] == "succeeded", status["message"]
    assert status["attempt"] == 2
    assert_equal_states(home, run, uninterrupted[0])


@pytest.mark.slow
def test_a_killed_driver_is_told_and_its_run_goes_on(home, uninterrupted):
    run = submit(home, home.job())
    home.wait_for(run, lambda event: event["event"] == "checkpoint" and event["step"] >= 100)
    process = json.loads((home.folder / "runs" / run / "launches" / "1" / "process.json").read_text())
    os.kill(process["pid"], signal.SIGKILL)
    status = follow(home, run)
    assert (status["state"], status["reason"]) == ("failed", "driver_lost")
    assert "killed" in status["message"] and "resume" in status["message"]
    assert home.call("resume", run, "--follow").returncode == 0
    assert home.status(run)["launch"] == 2
    assert_equal_states(home, run, uninterrupted[0])
    home.wait_until_gone(run)


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_is_one_sentence(home):
    job = home.job(
        training={
            "optimizer": {"learning_rate": 1e30},
            "clip_grad_norm": None,
            "max_steps": 30,
            "evaluate_every": None,
        }
    )
    answer = home.call("run", str(job))
    assert answer.returncode == 3
    said = " ".join(answer.stdout.split())  # the summary breaks its lines
    assert "no longer a number" in said and "learning_rate" in said
    assert "Traceback" not in answer.stdout + answer.stderr


@pytest.mark.slow
def test_lines_that_ray_is_slow_to_bring_are_not_lost(home):
    """On a busy machine its log monitor lags behind; here it is held up until the workers are gone."""
    run = submit(home, home.job(training={"max_steps": 1500, "log_every": 1}, tracking={"kind": "none"}))
    worker = home.wait_for(run, lambda event: event["event"] == "worker")["pid"]
    home.wait_for(run, lambda event: event["event"] == "metrics" and event["step"] >= 10)
    known = json.loads((home.folder / "runs" / run / "launches" / "1" / "process.json").read_text())
    [monitor] = [pid for pid, command in processes_of(known["ray_dir"]).items() if "log_monitor" in command]
    os.kill(monitor, signal.SIGSTOP)
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the workers' end", seconds=240)
    os.kill(monitor, signal.SIGCONT)
    follow(home, run)
    assert metric_steps(home, run) == list(range(1, 1501))


@pytest.mark.slow
def test_an_absent_mlflow_server_does_not_hold_up_training(home):
    answer = home.call(
        "run",
        str(
            home.job(
                tracking={"uri": "http://127.0.0.1:9", "log_model": False},
                training={"max_steps": 20, "evaluate_every": 20},
            )
        ),
    )
    assert answer.returncode == 0, answer.stdout[-2000:]
    assert "training goes on" in answer.stdout
    assert "Traceback" not in answer.stdout + answer.stderr


def test_ctrl_c_stops_gracefully_and_the_same_id_is_one_run(home):
    job = home.job(training={"max_steps": 100_000})
    followed = home.start("run", str(job))
    run = next(line.split(":")[0] for line in followed.stdout if line.rstrip().endswith(": starting"))
    drained = threading.Thread(target=followed.stdout.read, daemon=True)
    drained.start()
    home.wait_for(run, lambda event: event["event"] == "metrics" and event["step"] >= 50)
    again = home.call("submit", str(job), "--id", run, "--json")
    assert json.loads(again.stdout)["launch"] == 1
    followed.send_signal(signal.SIGINT)
    assert followed.wait(timeout=400) == 5
    drained.join()
    followed.stdout.close()
    status = home.status(run)
    assert status["state"] == "stopped"
    assert home.final_state(run)[0] == status["step"]


def test_stop_now_ends_a_run_at_any_moment(home):
    run = submit(home, home.job(training={"max_steps": 100_000}))
    assert home.call("stop", run, "--now").returncode == 0
    status = home.status(run)
    assert (status["state"], status["reason"]) == ("stopped", "stopped_by_user")
    home.wait_until_gone(run)


def test_a_run_that_is_killed_while_its_model_is_logged_leaves_nothing(own_tmpdir):
    home, place = own_tmpdir, Path(own_tmpdir.environment["TMPDIR"])
    job = home.job(training={"max_steps": 20, "evaluate_every": None}, tracking={"log_model": True})
    run = submit(home, job, "--set", "scaling.workers=1", "--set", "data.reader=worker")
    home.wait_for(run, lambda event: event["event"] == "metrics")
    wait_until(lambda: list(place.rglob("model.safetensors")), "the model that is logged", seconds=120)
    os.killpg(process_of(home, run)["pid"], signal.SIGKILL)
    wait_until(lambda: home.status(run)["reason"] == "driver_lost", "the loss to be told", seconds=60)
    kept = (f"tw-{os.getuid()}", "torchinductor_")  # what torch has compiled, later runs take
    assert [path for path in place.glob("**/*") if not path.name.startswith(kept)] == []
    home.wait_until_gone(run)


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_one_sentence_and_loses_no_checkpoint(small_disk):
    # 1.7 MB of state for each checkpoint: the second fits beside MLflow's store, the third does not
    job = small_disk.job(model={"family": "mlp", "width": 256, "depth": 3}, checkpoint={"every_steps": 200})
    answer = small_disk.call("run", str(job))
    assert answer.returncode == InfrastructureError.exit_code
    summary = " ".join(answer.stdout.split()).rpartition(" end failed: ")[2]
    assert summary.startswith("the checkpoint of step ")
    assert "no space left" in summary and "free some, keep fewer (checkpoint.keep)" in summary
    assert "Traceback" not in summary
    (run,) = [path.name for path in (small_disk.folder / "runs").iterdir()]
    step, _ = small_disk.final_state(run)
    assert 200 <= step < 2000
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk.folder)], check=True)
    assert small_disk.call("resume", run).returncode == 0
    assert follow(small_disk, run)["state"] == "succeeded"
    small_disk.wait_until_gone(run)
