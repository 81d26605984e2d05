"""Whether memory stays flat while a run logs: a process that logs 100,000 points, its size after 10,000 and at the end.

    python benchmarks/tracking_memory.py [--points 100000]

The tracker is the one that ships, on an SQLite store; its thread has sent all points at each look. The end makes the run's
report from all of them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

from orchestrator.telemetry.closing import describe_run
from orchestrator.telemetry.mlflow_run import connect
from orchestrator.telemetry.tracking import open_tracker
from orchestrator.testing import small_plan

NAMES = ("train/loss", "train/learning_rate", "train/gradient_norm", "system/step_ms", "system/data_wait_ms")
FIRST = 10_000


def resident() -> int:
    """Bytes of this process, after what is free was given back."""
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def log(folder: Path, points: int, answers: Any) -> None:
    """Log so many points, and look at each mark."""
    plan = small_plan(storage=str(folder / "run"), tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    describe_run(plan, data={}, started_at=time.time())
    tracker = open_tracker(plan, attempt=1, launch=1, start_step=0, on_url=lambda url: None)
    client = MlflowClient(plan.tracking_uri)
    sizes: dict[int, int] = {}
    marks = {1: 0, FIRST // len(NAMES): FIRST, points // len(NAMES): points}
    for step in range(1, points // len(NAMES) + 1):
        tracker.log(step, {name: 1 / (step + number) for number, name in enumerate(NAMES)})
        if step in marks:
            wait_until_sent(client, plan.run_id, step)
            sizes[marks[step]] = resident()
    tracker.finish("FINISHED")
    answers.put(sizes | {-1: resident()})


def wait_until_sent(client: MlflowClient, run_id: str, step: int) -> None:
    """Until MLflow's newest point of a metric is this step's."""
    while True:
        experiment = client.get_experiment_by_name("trainwright")
        runs = (
            client.search_runs([experiment.experiment_id], f"tags.`trainwright.run_id` = '{run_id}'")
            if experiment
            else []
        )
        if runs and any(
            metric.step == step for metric in runs[0].data._metric_objs if metric.key == NAMES[-1]
        ):
            return
        time.sleep(0.2)


def in_a_process(work: Any, *arguments: Any) -> Any:
    """What a function puts into a queue, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=work, args=(*arguments, answers))
    process.start()
    answer = answers.get()
    process.join()
    return answer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        connect(f"sqlite:///{folder / 'mlflow.db'}")
        sizes = in_a_process(log, folder, options.points)
        grown = {points: size - sizes[0] for points, size in sizes.items() if points}
        print(
            json.dumps(
                {
                    "mb at the first point": round(sizes[0] / 1e6, 1),
                    f"mb more after {FIRST}": round(grown[FIRST] / 1e6, 1),
                    f"mb more after {options.points}": round(grown[options.points] / 1e6, 1),
                    "mb more after the end": round(grown[-1] / 1e6, 1),
                    "whole process, ratio": round(sizes[options.points] / sizes[FIRST], 3),
                }
            )
        )


if __name__ == "__main__":
    main()
