"""A model that was trained for a moment in this process, and what is needed to ask it."""

import json
import time
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from orchestrator import checkpoint, data, sdk, worker
from orchestrator.checkpoint import Checkpoint
from orchestrator.data import Inputs
from orchestrator.inference.task import PredictTask, make_task
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord

QUICK: dict[str, dict] = {
    "training": {"max_steps": 2, "global_batch_size": 8},
    "scaling": {"workers": 1},
    "checkpoint": {"asynchronous": False, "every_steps": 2, "keep": {"last": 5}},
    "tracking": {"kind": "none"},
}


class TrainedRun(NamedTuple):
    plan: Plan
    saved: Checkpoint
    inputs: Inputs
    metrics: dict
    """The last that its training logged."""

    def task(self, path, output, **more) -> PredictTask:
        cache = f"{self.plan.storage}/cache"
        code = RunRecord(self.plan.storage).code(self.saved.meta["code"])
        return make_task(
            self.plan, self.saved, self.inputs, code, str(path), str(output), cache=cache, **more
        )


def train_in(folder, job: dict) -> TrainedRun:
    """Trains a job, whose relative paths start from the folder."""
    sections = {name: {**QUICK.get(name, {}), **section} for name, section in job.items()}
    sections["data"] = {"reader": "worker", **job["data"]}
    path = folder / "job.json"
    path.write_text(json.dumps({"name": "asked", **QUICK, **sections}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINWRIGHT_HOME", str(folder / "home"))
        plan = sdk.make_plan(path)
    plan = plan.model_copy(update={"storage": str(folder / plan.run_id)})
    prepared = data.prepare(plan)
    order = {"plan": plan.model_dump_json(), "prepared": prepared.model_dump_json(), "launch": 1}
    ended = worker.run({**order, "started_at": time.time()})
    saved = checkpoint.chosen(f"{plan.storage}/checkpoints")
    return TrainedRun(plan, saved, data.inputs_of(plan.job, prepared), ended["metrics"])


KINDS = ("granite", "basalt", "chalk")


def stones(rows: int, seed: int = 0) -> pa.Table:
    """Kinds of stone that their weight tells."""
    numbers = np.random.default_rng(seed)
    kind = numbers.integers(0, 3, rows)
    return pa.table(
        {
            "id": [f"stone-{row}" for row in range(rows)],
            "weight": kind + numbers.normal(0, 0.1, rows),
            "size": numbers.normal(0, 1, rows),
            "place": [("north", "south")[row % 2] for row in range(rows)],
            "class": [KINDS[one] for one in kind],
        }
    )
