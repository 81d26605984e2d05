#!/usr/bin/env python3
"""What ``plan --failures`` expects beside a simulation that knows none of its formulas.

    python benchmarks/expected_failures.py [--runs 400] [--json]

The simulation takes a run's steps one after the other, with faults at exponential times: a fault loses the steps since the last
save and a restart, during either of which the next fault may strike. The grid crosses mean times between faults with saves,
restarts and cadences; for each the mean of the simulated runs stands beside the expectation, with the band of 95 % of the runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from orchestrator.planning.failures import Costs, Failures, best_every_steps, expected, expected_on_notice

STEP, STEPS, START = 1.0, 20_000, 120.0
MTBFS = (600.0, 3600.0, 21600.0)
SAVES, RESTARTS = (2.0, 30.0), (30.0, 300.0)
CADENCES = (50, 500, 2000)


@dataclass(frozen=True)
class Row:
    """One point of the grid; shares of the wall time."""

    mtbf: float
    save: float
    restart: float
    every_steps: int
    expected: float
    simulated: float
    low: float
    high: float
    notice_expected: float
    notice_simulated: float
    best: int
    best_simulated: int
    """Of the cadences from a quarter of the best to four times it, the one whose simulated runs ended first."""


class Faults:
    """Exponential times between faults."""

    def __init__(self, mtbf: float, seed: int) -> None:
        self._random, self._mtbf = random.Random(seed), mtbf
        self._next = self._draw(0.0)

    def _draw(self, now: float) -> float:
        return now + self._random.expovariate(1 / self._mtbf)

    def strikes(self, begin: float, end: float) -> float | None:
        """When a fault strikes between two times; None where none does."""
        if self._next >= end:
            return None
        when, self._next = max(begin, self._next), self._draw(max(begin, self._next))
        return when


def simulate(mtbf: float, costs: Costs, steps: int, every: int, seed: int, *, notice: bool = False) -> float:
    """Seconds from the submission to the end of one run."""
    faults, now = Faults(mtbf, seed), costs.start
    faults._next += (
        costs.start
    )  # a start that fails is begun again by the cluster, and is not what is looked at
    saved = 0
    while saved < steps:
        stretch = min(every, steps - saved)
        begin, end = now, now + stretch * (costs.step + costs.beside) + costs.save
        when = faults.strikes(begin, end)
        if when is None:
            now, saved = end, saved + stretch
            continue
        if notice:
            taken = min(stretch, int((when - begin) / (costs.step + costs.beside)))
            saved, when = saved + taken, when + costs.save
        now = restarted(faults, when, costs.restart)
    return now


def restarted(faults: Faults, when: float, restart: float) -> float:
    """When the run goes on after a fault, and after those that strike its restarts."""
    while True:
        again = faults.strikes(when, when + restart)
        if again is None:
            return when + restart
        when = again


def rows(runs: int) -> Iterator[Row]:
    """The grid."""
    for mtbf, save, restart, every in itertools.product(MTBFS, SAVES, RESTARTS, CADENCES):
        costs = Costs(STEP, 0.0, save, restart, START, "")
        failures = Failures(mtbf)
        if expected(failures, costs, STEPS, every).effective < 0.05:
            continue  # nobody trains like that, and one run of it is as long as all others
        shares = sorted(STEPS * STEP / simulate(mtbf, costs, STEPS, every, seed) for seed in range(runs))
        walls = [simulate(mtbf, costs, STEPS, every, seed) for seed in range(runs)]
        noticed = [simulate(mtbf, costs, STEPS, every, seed, notice=True) for seed in range(runs)]
        best = best_every_steps(failures, costs, STEPS)
        yield Row(
            mtbf,
            save,
            restart,
            every,
            expected(failures, costs, STEPS, every).effective,
            STEPS * STEP / statistics.mean(walls),
            shares[int(0.025 * runs)],
            shares[int(0.975 * runs)],
            expected_on_notice(failures, costs, STEPS, every).effective,
            STEPS * STEP / statistics.mean(noticed),
            best,
            best_by_simulation(mtbf, costs, best, runs),
        )


def best_by_simulation(mtbf: float, costs: Costs, best: int, runs: int) -> int:
    """The cadence whose runs end first, on average over the same faults."""
    tried = sorted(
        {max(1, min(STEPS, round(best * factor))) for factor in (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)}
    )

    def mean(every: int) -> float:
        return statistics.mean(simulate(mtbf, costs, STEPS, every, seed) for seed in range(runs))

    return min(tried, key=mean)


def main() -> int:
    """Run the grid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=400, help="simulated runs of each point")
    parser.add_argument("--json", action="store_true", help="JSON for programs")
    options = parser.parse_args()
    found = list(rows(options.runs))
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=2))
        return 0
    print(
        "| MTBF | save | restart | every | expected | simulated (95 % of runs) | on notice | simulated | best | simulated best |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row.mtbf / 60:g} min | {row.save:g} s | {row.restart:g} s | {row.every_steps} | {row.expected:.1%} |"
            f" {row.simulated:.1%} ({row.low:.1%} to {row.high:.1%}) | {row.notice_expected:.1%} |"
            f" {row.notice_simulated:.1%} | {row.best} | {row.best_simulated} |"
        )
    worst = max(abs(row.expected - row.simulated) for row in found)
    noticed = max(abs(row.notice_expected - row.notice_simulated) for row in found)
    print(f"\nfurthest apart: {100 * worst:.2f} points, on notice {100 * noticed:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
