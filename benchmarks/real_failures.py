#!/usr/bin/env python3
"""Real runs whose workers are killed at random times, beside what ``plan --failures`` expects of them and its simulation's band.

    python benchmarks/real_failures.py [--runs 25] [--mtbf 30] [--steps 300] [--every 20]

Hours are seconds here: steps of a tenth of a second, by a model that sleeps, two workers, and faults at exponential times from the
first step on. A fault is SIGKILL to one worker; one that comes while workers start waits for the first that has. The costs are those
of ``--like RUN``: a run of its own, with three times as many faults, is measured first by its ledger, and is none of those counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from expected_failures import simulate

from orchestrator import events, sdk
from orchestrator.ledger import Ledger
from orchestrator.planning.costs import costs_measured
from orchestrator.planning.failures import Costs, Failures, expected

_LOOK_SECONDS = 0.1
_SIMULATED = 2000
_MODEL = """
import time

import torch
from torch import nn


class Sleeper(nn.Linear):
    def __init__(self, seconds: float) -> None:
        super().__init__(64, 10)
        self.seconds = seconds

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return super().forward(image.flatten(1))
"""


def job(steps: int, every: int) -> dict[str, Any]:
    """Steps of a tenth of a second on two workers."""
    return {
        "name": "failures",
        "model": {"family": "custom", "factory": "sleeper:Sleeper", "config": {"seconds": 0.1}},
        "objective": {"kind": "classification"},
        "data": {"train": {"kind": "builtin", "name": "digits"}},
        "training": {"max_steps": steps, "global_batch_size": 32, "log_every": 10},
        "checkpoint": {"every_steps": every, "keep": {"best": 0}},
        "scaling": {"workers": 2},
        "recovery": {"max_failures": 1000},
        "tracking": {"kind": "none"},
    }


class Faults(threading.Thread):
    """Kills a worker at exponential times from the run's first step on, until told that it has ended."""

    def __init__(self, run: sdk.Run, mtbf: float, seed: int) -> None:
        super().__init__(name="faults", daemon=True)
        self._run, self._mtbf, self._random = run, mtbf, random.Random(seed)
        self.over = threading.Event()
        self.struck = 0
        self._killed: set[int] = set()

    def run(self) -> None:
        self._wait_for(lambda: any(event["event"] == "metrics" for event in self._told()))
        due = time.monotonic() + self._random.expovariate(1 / self._mtbf)
        while not self.over.wait(max(0.0, due - time.monotonic())):
            self._wait_for(self._strike)
            self.struck += 1
            due += self._random.expovariate(1 / self._mtbf)

    def _strike(self) -> bool:
        workers = [event for event in self._told() if event["event"] == "worker"]
        newest = max((event["attempt"] for event in workers), default=0)
        there = [event["pid"] for event in workers if event["attempt"] == newest]
        if not there or self._killed & set(there):
            return False  # of that attempt one was killed already
        pid = self._random.choice(there)
        self._killed.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def _told(self) -> Iterator[dict[str, Any]]:
        lines = self._run.cluster.logs(self._run.id)
        return (event for line in lines if (event := events.parse(line)))

    def _wait_for(self, what: Any) -> None:
        while not self.over.is_set() and not what():
            self.over.wait(_LOOK_SECONDS)


def run(file: Path, mtbf: float, seed: int) -> tuple[Ledger, int, str]:
    """One run to its end: its ledger, how many faults struck, and its id."""
    handle = sdk.submit(file)
    faults = Faults(handle, mtbf, seed)
    faults.start()
    try:
        handle.wait()
    finally:
        faults.over.set()
        faults.join()
    return handle.ledger(), faults.struck, handle.id


def band(mtbf: float, costs: Costs, steps: int, every: int) -> tuple[float, float, float]:
    """Effective training time by simulation: that of the mean run, and between which 95 % of runs lie."""
    walls = sorted(simulate(mtbf, costs, steps, every, seed) for seed in range(_SIMULATED))
    low, high = walls[int(0.975 * _SIMULATED)], walls[int(0.025 * _SIMULATED)]
    work = steps * costs.step
    return work / statistics.mean(walls), work / low, work / high


def main() -> int:
    """Measure, predict, run; the end is 1 where more than three of 25 are outside of the band."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--mtbf", type=float, default=30.0, help="seconds")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="failures-") as folder:
        os.environ["TRAINWRIGHT_HOME"] = folder
        Path(folder, "sleeper.py").write_text(_MODEL)
        file = Path(folder, "job.yaml")
        file.write_text(json.dumps(job(2 * options.steps, options.every)))
        measured, struck, name = run(file, options.mtbf / 3, seed=0)
        costs = costs_measured(measured, options.every, name)
        print(f"measured in a run of {2 * options.steps} steps with {struck} faults: {costs}", flush=True)
        file.write_text(json.dumps(job(options.steps, options.every)))
        mean, low, high = band(options.mtbf, costs, options.steps, options.every)
        by_formula = expected(Failures(options.mtbf), costs, options.steps, options.every).effective
        print(
            f"expected {by_formula:.1%}, simulated {mean:.1%}, 95 % of runs {low:.1%} to {high:.1%}",
            flush=True,
        )
        found = []
        for seed in range(1, options.runs + 1):
            ledger, struck, _ = run(file, options.mtbf, seed)
            found.append(ledger)
            parts = ", ".join(f"{part} {spent:.1f}" for part, spent in ledger.seconds.items() if spent >= 0.5)
            print(f"| {seed} | {struck} | {ledger.wall:.1f} | {ledger.effective:.1%} |  {parts}", flush=True)
    inside = sum(low <= ledger.effective <= high for ledger in found)
    work = sum(ledger.effective * ledger.wall for ledger in found) / sum(ledger.wall for ledger in found)
    print(f"{inside} of {len(found)} in the band; all runs together {work:.1%}, expected {by_formula:.1%}")
    return int(inside < 0.88 * len(found))


if __name__ == "__main__":
    raise SystemExit(main())
