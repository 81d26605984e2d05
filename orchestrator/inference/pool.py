"""A pool of model workers in a process of its own, so that Ray's settings and signals are not those of whoever asks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator import events
from orchestrator.errors import InfrastructureError
from orchestrator.inference.pool_worker import json_to_failure
from orchestrator.inference.task import PredictTask
from orchestrator.planning.plan import Plan

_GRACE_SECONDS = 20.0


def written(plan: Plan, task: PredictTask, workers: int, parts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Have the parts written on this machine, see ``predict.Write``.

    Raises:
        DataError: a row can't be read; with file and row.
        InfrastructureError: Ray, a worker or the storage failed.
    """
    workers = min(workers, len(parts))
    order = {
        "plan": _pool_plan(plan, workers).model_dump_json(),
        "task": task.model_dump_json(),
        "parts": list(parts),
        "workers": workers,
    }
    with tempfile.TemporaryFile("w+") as log, _pool(log) as process:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            event = events.parse(line)
            if event is not None and event["event"] == "part":
                yield event["part"], event["rows"]
            elif event is not None and event["event"] == "failed":
                raise json_to_failure(event["error"])
        if code := process.wait():
            log.seek(0)
            last = log.read().strip().splitlines()[-1:] or ["it said nothing"]
            raise InfrastructureError(f"the workers' process ended with exit code {code}: {last[0][:300]}")


@contextlib.contextmanager
def _pool(log: Any) -> Iterator[subprocess.Popen[str]]:
    """The process, which is gone afterwards with all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.inference.pool_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


def _pool_plan(plan: Plan, workers: int) -> Plan:
    """The plan as a Ray session of this machine reads it: so many workers of one core each."""
    scaling = plan.job.scaling.model_copy(update={"cpus_per_worker": 1, "gpus_per_worker": 0})
    recovery = plan.job.recovery.model_copy(update={"max_failures": 0})
    job = plan.job.model_copy(update={"scaling": scaling, "recovery": recovery})
    return plan.model_copy(update={"job": job, "world_size": workers, "sizes": ()})
