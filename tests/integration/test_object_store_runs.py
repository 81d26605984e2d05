"""Whole runs whose data, checkpoints, records and logs lie in an object store."""

import os
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_buckets import bucket_at

from orchestrator import checkpoint, events, sdk
from orchestrator.clusters.shared.run_records import storage_record
from orchestrator.runs import RunState
from orchestrator.spec.job import JobSpec
from orchestrator.storage.arrow import open_filesystem

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

STEPS, SAVE_EVERY = 600, 50


@pytest.fixture(params=[pytest.param("s3", marks=pytest.mark.slow), "gs"])
def bucket(request):
    with bucket_at(request.param, "bucket") as uri:
        yield uri


@pytest.fixture
def short_folder():
    """Ray puts Unix sockets below it, whose paths may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="tw", ignore_cleanup_errors=True) as folder:
        yield folder


def put_rows(bucket: str) -> None:
    store, name = open_filesystem(bucket)
    rng = np.random.default_rng(0)
    for number in range(3):
        features = rng.normal(size=(200, 4)).astype(np.float32)
        columns = {f"x{index}": features[:, index] for index in range(4)}
        table = pa.table({**columns, "label": (features.sum(axis=1) > 0).astype(int)})
        with store.open_output_stream(f"{name}/rows/{number}.parquet") as stream:
            pq.write_table(table, stream, row_group_size=50)


def plan_of(bucket: str, folder) -> sdk.Plan:
    job = JobSpec.model_validate(
        {
            "name": "stored",
            "model": {"family": "mlp", "width": 16},
            "data": {
                "train": {"kind": "parquet", "path": f"{bucket}/rows"},
                "columns": {"features": ["x0", "x1", "x2", "x3"]},
            },
            "training": {"max_steps": STEPS, "global_batch_size": 24, "log_every": 5},
            "checkpoint": {"every_steps": SAVE_EVERY},
            "scaling": {"workers": 2},
            "tracking": {"kind": "none"},
        }
    )
    return sdk.make_plan(job, base_dir=folder).model_copy(
        update={"storage": f"{bucket}/runs/stored", "cache": f"{bucket}/cache"}
    )


def test_a_run_goes_on_from_what_lies_in_an_object_store(bucket, tmp_path, short_folder):
    put_rows(bucket)
    plan = plan_of(bucket, tmp_path)
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    driver = subprocess.Popen(
        [
            *(sys.executable, "-m", "orchestrator.driver", "--plan", str(tmp_path / "plan.json")),
            *("--launch", "1", "--start-ray", f"{short_folder}/ray"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines, killed, attempts = [], None, []
    workers: dict[int, int] = {}
    assert driver.stdout is not None
    with driver:
        for line in driver.stdout:
            lines.append(line)
            event = events.parse(line) or {}
            if event.get("event") == "worker":
                workers[event["rank"]] = event["pid"]
            elif event.get("event") == "attempt":
                attempts.append((event["attempt"], event["start_step"]))
            elif event.get("event") == "checkpoint" and killed is None and event["step"] >= 2 * SAVE_EVERY:
                killed = event["step"]
                os.kill(workers[1], signal.SIGKILL)
    assert driver.returncode == 0, "".join(lines[-30:])
    (first, began), (second, resumed) = attempts
    assert (first, began, second) == (1, 0, 2)
    # what was saved before the kill, at least the last checkpoint but one: the last may not have been whole yet
    assert resumed % SAVE_EVERY == 0 and killed - SAVE_EVERY <= resumed <= STEPS
    record = storage_record(plan.storage)
    status = record.status()
    assert status.state is RunState.SUCCEEDED and status.step == STEPS
    assert record.store.list("logs")[-1] == "attempt-2"
    assert record.store.list("logs/attempt-2") == ["rank-0.log", "rank-1.log"]
    assert (
        f"goes on from the checkpoint of step {resumed}"
        in record.read_log("logs/attempt-2/rank-0.log").decode()
    )
    newest = checkpoint.newest_good(f"{plan.storage}/checkpoints")
    assert newest.step == STEPS
    kept = len(record.store.list("checkpoints"))
    assert kept < STEPS // SAVE_EVERY, "those that are not to be kept are removed"
