"""Train a job file in this process, without Ray or a tracker, and print its last evaluation as JSON.

    python benchmarks/quick_train.py examples/digits-cnn.yaml --seeds 3 --set training.epochs=5

The numbers are those of ``trainwright run`` with one worker: same order of samples, same loop, same engine. The run's
folder (checkpoints) is under ``--keep FOLDER`` if given.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from orchestrator import checkpoint, data, models, sdk, worker

IN_PROCESS = ("scaling.workers=1", "tracking.kind=none", "data.reader=worker")


def train(job: str, folder: str, overrides: tuple[str, ...] = ()) -> tuple[sdk.Plan, data.Prepared, dict]:
    """The plan, the prepared data, and what the worker returned. Its checkpoints are below ``folder``."""
    plan = sdk.make_plan(job, overrides=(*IN_PROCESS, *overrides))
    plan = plan.model_copy(update={"storage": f"{folder}/{plan.run_id}"})
    prepared = data.prepare(plan)
    config = {
        "plan": plan.model_dump_json(),
        "prepared": prepared.model_dump_json(),
        "launch": 1,
        "started_at": time.time(),
    }
    return plan, prepared, worker.run(config)


def trained_modules(plan: sdk.Plan) -> models.base.Modules:
    """The modules of a finished run, as its newest checkpoint holds them, in evaluation mode."""
    modules = models.build_modules(plan.job.model, plan.job.objective)
    newest = checkpoint.newest_good(f"{plan.storage}/checkpoints")
    with checkpoint.open_reader(newest) as reader, torch.no_grad():
        for (kind, name), (shape, _) in reader.tensors().items():
            if kind in ("parameter", "buffer"):
                module, path = name.split("/", 1)
                values = reader.read(kind, name, 0, math.prod(shape))
                place = dict(modules[module].state_dict(keep_vars=True))[path]
                place.copy_(values.reshape(shape))
    for module in modules.values():
        module.eval()
    return modules


def tensors(arrays: dict) -> dict:
    """A batch as torch has it."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def all_rows(plan: sdk.Plan, prepared: data.Prepared, part: str) -> dict:
    """Every sample of the ``train`` or ``eval`` part once, as numpy arrays, transformed as for evaluation."""
    if part == "train":
        source = prepared.train[0]
        prepared = prepared.model_copy(update={"evaluation": source, "eval_samples": source.samples})
    batches = list(data.open_eval(prepared, plan, rank=0, world_size=1).batches())
    rows = {
        name: np.concatenate([batch[name] for batch in batches]) for name in batches[0] if name != "weight"
    }
    real = rows["sample_id"] >= 0
    return {name: values[real] for name, values in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    print(
        json.dumps(
            {"job": plan.job.name, "seeds": len(results), "parameters": plan.parameters, "mean": means}
        )
    )


if __name__ == "__main__":
    main()
