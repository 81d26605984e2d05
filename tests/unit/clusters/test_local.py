"""This machine as a cluster beyond the contract of all clusters: claims, lost drivers, what is told of them; no Ray."""

import json
import math
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from cluster_places import RUN, Local

from orchestrator import cli, events
from orchestrator.clusters.local.cluster import LocalCluster
from orchestrator.errors import NotFoundError, RecordError, ResourcesError
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, ResolvedJob, RunContext
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState
from orchestrator.spec.load import load_profile
from orchestrator.spec.profile import ClusterProfile


@pytest.fixture
def local(tmp_path, monkeypatch):
    made = Local(tmp_path, monkeypatch)
    yield made
    made.close()


def cluster(folder):
    return LocalCluster(ClusterProfile(name="local", kind="local", storage=str(folder)))


OWN = "job-abcdefgh"


def request(folder, driver, run_id=OWN, **sections):
    """A request whose driver is a line of Python; it knows its storage as ``storage``."""
    job = ResolvedJob.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp", "in_features": 3, "outputs": 2},
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "iris"}},
            "training": {"max_steps": 10},
            **sections,
        }
    )
    storage = f"{folder}/runs/{run_id}"
    context = RunContext(
        version="1",
        run_id=run_id,
        base_dir=str(folder),
        storage=storage,
        cache="/c",
        tracking_uri="",
    )
    plan = make_plan(job, DataFacts(train_samples=100), Counts(1, 1, 1, ()), context)
    made = cluster(folder).render(plan)
    command = [sys.executable, "-c", f"storage = {storage!r}\n{driver}"]
    return made.model_copy(update={"body": {**made.body, "command": command}})


ENDS = """
import time
from pathlib import Path
from orchestrator.records import RunRecord
from orchestrator.runs import *
open(storage + '/started', 'a').write('x')
print('a line')
RunRecord(storage).end(RunStatus(run_id='r', state=RunState.SUCCEEDED, reason=EndReason.COMPLETED, submitted_at=time.time()))
"""
WAITS = "import signal; print('waiting', flush=True); signal.pause()"


def wait_for_end(place, run, seconds=60):
    deadline = time.monotonic() + seconds
    while not (status := place.status(run)).state.is_final:
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status


def _submit(folder, barrier, made):
    barrier.wait()
    cluster(folder).submit(made)


def test_of_many_submits_of_one_id_one_starts_a_driver(tmp_path):
    made = request(tmp_path, ENDS)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(12)
    processes = [context.Process(target=_submit, args=(tmp_path, barrier, made)) for _ in range(12)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert wait_for_end(cluster(tmp_path), made.run_id).state is RunState.SUCCEEDED
    assert (tmp_path / "runs" / made.run_id / "started").read_text() == "x"
    assert list(cluster(tmp_path).logs(made.run_id)) == ["a line"]


def test_a_killed_driver_is_lost_and_stays_lost(tmp_path):
    place, made = cluster(tmp_path), request(tmp_path, WAITS)
    place.submit(made)
    process = json.loads((tmp_path / "runs" / made.run_id / "launches" / "1" / "process.json").read_text())
    os.kill(process["pid"], signal.SIGKILL)
    os.waitpid(process["pid"], 0)
    status = wait_for_end(place, made.run_id)
    assert (status.state, status.reason) == (RunState.FAILED, EndReason.DRIVER_LOST)
    record = RunRecord(made.plan.storage)
    late = status.ended(RunState.SUCCEEDED, EndReason.COMPLETED, "took all its steps", ended_at=time.time())
    assert record.end(late).reason is EndReason.DRIVER_LOST


def test_a_lost_driver_s_last_words_are_told(local):
    place = local.cluster()
    place.submit(place.render(local.plan()))
    local.runs()
    local.prints("Killed by the kernel")
    local.exits(137)
    message = place.status(RUN).message
    assert "its last words: Killed by the kernel" in message
    assert f"trainwright resume {RUN}" in message


def test_logs_are_followed_while_the_driver_writes_them_and_over_launches(local):
    place = local.cluster()
    place.submit(place.render(local.plan()))
    local.prints("one")
    lines = place.logs(RUN, follow=True)
    assert next(lines) == "one"
    local.prints("two")
    assert next(lines) == "two"
    local.ends(RunState.FAILED, EndReason.INFRASTRUCTURE, "the network failed")
    [end] = lines
    assert events.parse(end)["message"] == "the network failed"
    place.resume(RUN)
    local.prints("three", launch=2)
    assert list(place.logs(RUN)) == ["one", "two", end, "three"]


def test_unknown_runs_and_missing_gpus(tmp_path):
    for run in ("nothing", "../nothing", ""):
        with pytest.raises(NotFoundError):
            cluster(tmp_path).status(run)
    if not Path("/proc/driver/nvidia/gpus").is_dir():
        with pytest.raises(ResourcesError, match="2 GPUs are asked for, but this machine has 0"):
            request(tmp_path, ENDS, scaling={"workers": 2, "gpus_per_worker": 1})


def test_a_damaged_run_is_one_line_of_warning_and_the_others_are_listed(tmp_path, caplog):
    here, runs = cluster(tmp_path), tmp_path / "runs"
    for run_id in ("good-abcdefgh", "hurt-abcdefgh"):
        here.submit(request(tmp_path, ENDS.replace("'r'", repr(run_id)), run_id))
        wait_for_end(here, run_id)
    for name in ("state.json", "final.json"):
        (runs / "hurt-abcdefgh/launches/1" / name).write_text("[]")
    (runs / "notes.txt").write_text("mine")
    (runs / "not-ours").mkdir()
    (runs / "not-ours/plan.json").write_text("\x00")
    (runs / "folder/plan.json").mkdir(parents=True)
    assert [status.run_id for status in here.list()] == ["good-abcdefgh"]
    (said,) = caplog.messages
    assert said.startswith(f"left out: {runs}/hurt-abcdefgh/launches/1/final.json is damaged")
    with pytest.raises(RecordError):
        here.status("hurt-abcdefgh")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', "\udcff"])
def test_a_damaged_note_of_a_process_is_no_process(tmp_path, content):
    here = cluster(tmp_path)
    here.submit(request(tmp_path, ENDS))
    wait_for_end(here, OWN)
    for name in ("process.json", "claim.json"):
        (tmp_path / "runs" / OWN / "launches/1" / name).write_text(content, errors="surrogateescape")
    assert here.status(OWN).state is RunState.SUCCEEDED


def test_a_run_whose_metric_is_no_number_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path))
    driver = ENDS.replace("'r'", repr(OWN)).replace("reason=", "metrics={'val/loss': float('nan')}, reason=")
    here = LocalCluster(load_profile("local"))
    here.submit(request(tmp_path, driver))
    assert math.isnan(wait_for_end(here, OWN).metrics["val/loss"])
    for verb in (["status", OWN], ["list"], ["status", OWN, "--json"], ["list", "--json"]):
        monkeypatch.setattr(sys, "argv", ["trainwright", *verb])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().out
        assert not ended.value.code
        if "--json" in verb:
            found = json.loads(said, parse_constant=pytest.fail)
            assert (found if verb[0] == "status" else found[0])["metrics"] == {"val/loss": "NaN"}
        elif verb[0] == "status":
            assert ["val/loss", "nan"] in [line.split() for line in said.splitlines()]
        else:
            assert OWN in said
