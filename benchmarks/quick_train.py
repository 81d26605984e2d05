"""Train a job file in this process, without Ray or a tracker, and print its last evaluation as JSON.

    python benchmarks/quick_train.py examples/digits-cnn.yaml --seeds 3 --set training.epochs=5

The numbers are those of ``trainwright run`` with one worker: same order of samples, same loop, same engine. The run's
folder (checkpoints) is under ``--keep FOLDER`` if given.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from orchestrator import data, sdk, worker

IN_PROCESS = ("scaling.workers=1", "tracking.kind=none", "data.reader=worker")


def train(job: str, folder: str, overrides: tuple[str, ...] = ()) -> tuple[sdk.Plan, data.Prepared, dict]:
    """The plan, the prepared data, and what the worker returned."""
    plan = sdk.make_plan(job, overrides=(*IN_PROCESS, *overrides))
    plan = plan.model_copy(update={"storage": f"{folder}/{plan.run_id}"})
    prepared = data.prepare(plan)
    config = {"plan": plan.model_dump_json(), "prepared": prepared.model_dump_json(), "launch": 1}
    return plan, prepared, worker.run(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or scratch
        results = []
        for seed in range(given.seeds):
            started = time.perf_counter()
            overrides = (*given.overrides, *([f"training.seed={seed}"] if given.seeds > 1 else []))
            plan, _, outcome = train(str(Path(given.job)), folder, tuple(overrides))
            seconds = time.perf_counter() - started
            results.append(outcome["metrics"] | {"seconds": seconds, "steps": plan.total_steps})
            print(json.dumps(results[-1]), file=sys.stderr)
    means = {name: sum(r[name] for r in results) / len(results) for name in results[0]}
    print(json.dumps({"job": plan.job.name, "seeds": len(results), "parameters": plan.parameters, "mean": means}))


if __name__ == "__main__":
    main()
