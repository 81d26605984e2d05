"""The local cluster around a stand-in driver: claims, lost drivers, ends that stay; no Ray."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from orchestrator.clusters.local.cluster import LocalCluster
from orchestrator.errors import NotFoundError, ResourcesError, SpecError
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, ResolvedJob, RunContext
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState
from orchestrator.spec.profile import ClusterProfile


def cluster(folder):
    return LocalCluster(ClusterProfile(name="local", kind="local", storage=str(folder)))


def request(folder, driver, run_id="job-abcdefgh", **sections):
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
    assert record.end(status.model_copy(update={"state": RunState.SUCCEEDED})).state is RunState.FAILED


def test_stop_now_ends_the_driver_and_is_idempotent(tmp_path):
    place, made = cluster(tmp_path), request(tmp_path, WAITS)
    place.submit(made)
    for _ in range(2):
        status = place.stop(made.run_id, now=True)
        assert (status.state, status.reason) == (RunState.STOPPED, EndReason.STOPPED_BY_USER)


def test_resume_needs_an_end_and_something_left(tmp_path):
    place, made = cluster(tmp_path), request(tmp_path, WAITS)
    place.submit(made)
    with pytest.raises(SpecError, match="has not ended"):
        place.resume(made.run_id)
    place.stop(made.run_id, now=True)
    done = request(tmp_path, ENDS, run_id="job-finished")
    place.submit(done)
    wait_for_end(place, done.run_id)
    with pytest.raises(SpecError, match="nothing is left to resume"):
        place.resume(done.run_id)


def test_unknown_runs_and_missing_gpus(tmp_path):
    for run in ("nothing", "../nothing", ""):
        with pytest.raises(NotFoundError):
            cluster(tmp_path).status(run)
    if not Path("/proc/driver/nvidia/gpus").is_dir():
        with pytest.raises(ResourcesError, match="2 GPUs are asked for, but this machine has 0"):
            request(tmp_path, ENDS, scaling={"workers": 2, "gpus_per_worker": 1})
