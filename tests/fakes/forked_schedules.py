"""Seeded schedules of faults on tiny runs of forked workers, and every sample, point and final state held against a run that
nothing happened to.

``python forked_schedules.py FOLDER --schedules 500`` draws kills, notices, hangs and slow workers, three to a run, and in
every other schedule another number of workers at each start. ``--hangs 100`` counts whether the worker that hangs is the one
that is named, and ``--clean 100`` how often one is named where nothing hangs. See ``forked_group`` for what is real.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked_group import ForkedCluster, told_by_rank_0

from orchestrator import checkpoint, control, data, sdk
from orchestrator.chaos.evidence import taken_by_all
from orchestrator.chaos.findings import points_against, points_of_events, recovery_from, samples_against
from orchestrator.chaos.injector import Injector
from orchestrator.chaos.places import Places
from orchestrator.chaos.schedule import Fault, Kind, Shape, schedule_of
from orchestrator.planning.plan import Plan
from orchestrator.spec.job import JobSpec

STEPS, SAVE_EVERY, EVALUATE_EVERY, BATCH = 30, 6, 10, 24
SIZES = (1, 2, 3, 4)
HANG_TIMEOUT = 2.0
HASTE = 20.0
"""How much longer a step is taken to be when it comes to how often one looks for a notice."""
STEPS_TO_HEED = 12
"""Within how many a notice is heeded, at that pace."""
TOLERANCE = 1e-4
"""Of losses and parameters where the number of workers changes: sums over ranks are added in another order."""


def job(workers: int, hang_timeout: float) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp", "size": "debug"},
            "data": {
                "reader": "worker",
                "train": {"kind": "builtin", "name": "iris"},
                "eval": {"kind": "split", "fraction": 0.2},
                "transforms": [{"kind": "normalize", "tensor": "features", "per": "element"}],
            },
            "training": {
                "max_steps": STEPS,
                "global_batch_size": BATCH,
                "log_every": 1,
                "evaluate_every": EVALUATE_EVERY,
            },
            "scaling": {"workers": workers},
            "checkpoint": {"every_steps": SAVE_EVERY, "keep": {"last": 2}},
            "recovery": {"max_failures": 50, "hang_timeout": hang_timeout},
            "tracking": {"kind": "none"},
        }
    )


@dataclass
class Ended:
    """A run, and what it has left."""

    step: int
    told: list[dict[str, Any]]
    taken: dict[tuple[int, int], dict[int, list[int]]]
    saved: checkpoint.Checkpoint
    places: Places


class Schedules:
    """Runs in one folder."""

    def __init__(self, folder: Path, hang_timeout: float = HANG_TIMEOUT) -> None:
        os.environ["TRAINWRIGHT_HOME"] = str(folder)
        # runs of a third of a second stand for minutes: half a second until a look for a notice is two or three steps
        until_check = control.steps_until_check
        control.steps_until_check = lambda seconds: until_check(HASTE * seconds)
        self._folder, self._cluster = folder, ForkedCluster(folder)
        self._plans = {
            size: sdk.make_plan(job(size, hang_timeout), run_id="run", base_dir=folder) for size in SIZES
        }
        prepared = data.prepare(self._plans[1])
        self._prepared = prepared.model_dump_json()
        seed = self._plans[1].job.training.seed
        self.order = list(data.samples_by_step(prepared, seed=seed, steps=STEPS))
        self._number = 0
        self._undisturbed: dict[int, Ended] = {}
        gc.freeze()

    def undisturbed(self, size: int) -> Ended:
        """The run of so many workers that nothing happens to."""
        if size not in self._undisturbed:
            self._undisturbed[size] = self.run([size], [])
        return self._undisturbed[size]

    def run(self, sizes: list[int], faults: list[Fault]) -> Ended:
        """Train under faults, the n-th start by ``sizes[n]`` workers, and from there on by the last."""
        self._number += 1
        name = f"run-{self._number}"

        def plan_of(attempt: int) -> Plan:
            plan = self._plans[sizes[min(attempt, len(sizes)) - 1]]
            return plan.model_copy(update={"run_id": name, "storage": str(self._folder / "runs" / name)})

        storage = plan_of(1).storage
        places, heard = Places(storage), list[dict[str, Any]]()
        places.schedule(faults)
        striking = Injector(places, self._folder / "notice", None)
        outcome = self._cluster.train(plan_of, self._prepared, striking.look, heard.append)
        striking.join()
        told = sorted([*told_by_rank_0(storage), *heard], key=lambda event: event["time"])
        saved = checkpoint.newest_good(f"{storage}/checkpoints")
        assert saved is not None
        return Ended(outcome["step"], told, taken_by_all(storage), saved, places)

    def faults_of(self, ended: Ended, sizes: list[int]) -> dict[str, Any]:
        """What is wrong with a run, beside the undisturbed one of its first number of workers."""
        other = self.undisturbed(sizes[0])
        tolerance = TOLERANCE if len(set(sizes)) > 1 else 0.0
        samples = samples_against(ended.taken, self.order)
        points = points_against(
            points_of_events(ended.told), points_of_events(other.told), tolerance=tolerance
        )
        distance = checkpoint.relative_distance(ended.saved, other.saved)
        unequal = 0.0 if tolerance else checkpoint.unequal_elements(ended.saved, other.saved)
        return {
            "end": ended.step != STEPS,
            "doubled": samples.doubled,
            "missed": samples.missed,
            "lost points": points.lost,
            "other points": points.other,
            "state": max(unequal, 0.0 if distance <= tolerance else distance),
        }


def schedules(folder: Path, count: int, seed: int, first: int = 1) -> dict[str, Any]:
    """So many schedules of three faults."""
    suite, found, hits = Schedules(folder), dict[str, list[Any]](), Counter[str]()
    samples = replayed = restarts = changes = 0
    notice_replayed = 0
    seconds: list[float] = []
    began = time.monotonic()
    for number in range(first, first + count):
        choose = random.Random(f"{seed}/{number}")
        sizes = [choose.choice(SIZES) for _ in range(5)] if number % 2 == 0 else [choose.choice(SIZES)]
        shape = Shape(sizes[0], STEPS, SAVE_EVERY, EVALUATE_EVERY)
        kinds: list[Kind] = (
            ["kill", "notice", "kill", "slow"] if choose.random() < 0.8 else ["kill", "notice", "hang"]
        )
        faults = schedule_of(shape, kinds, count=3, per_run=3, seed=seed * 1_000_000 + number)
        faults = [of_processes(fault) for fault in faults]
        ended = suite.run(sizes, faults)
        wrong = {name: what for name, what in suite.faults_of(ended, sizes).items() if what}
        met = ended.places.hits()
        for index, hit in enumerate(met):
            until = met[index + 1].time if index + 1 < len(met) else float("inf")
            cost = recovery_from(hit, ended.told, until)
            hits[hit.fault.kind] += 1
            replayed, restarts = replayed + cost.replayed, restarts + cost.restarts
            if hit.fault.kind == "notice":
                notice_replayed += cost.replayed
                last = met[index + 1].step if index + 1 < len(met) else STEPS
                if not cost.restarts and last - hit.step > STEPS_TO_HEED:
                    wrong.setdefault("not heeded", []).append([hit.rank, hit.step])
            if hit.fault.kind == "hang" and cost.blamed != (hit.rank,):
                wrong.setdefault("blamed", []).append([hit.rank, cost.blamed])
            if hit.fault.kind != "hang" and cost.blamed:
                wrong.setdefault("blamed without a hang", []).append([hit.fault.kind, cost.blamed])
            if cost.seconds is not None:
                seconds.append(cost.seconds)
        starts = [event for event in ended.told if event["event"] == "attempt"]
        changes += sum(a != b for a, b in itertools.pairwise(sizes[: len(starts)]))
        samples += sum(len(step) for step in suite.order)
        if wrong:
            found[str(number)] = [wrong, sizes, [fault.sentence for fault in faults]]
        if number % 10 == 0 or wrong:
            print(number, dict(hits), found.get(str(number), ""), file=sys.stderr, flush=True)
    return {
        "schedules": count,
        "hits": dict(hits),
        "restarts": restarts,
        "changes of size": changes,
        "samples": samples,
        "steps replayed": replayed,
        "of these after a notice": notice_replayed,
        "faults": found,
        "median recovery": sorted(seconds)[len(seconds) // 2] if seconds else None,
        "seconds": round(time.monotonic() - began),
    }


def of_processes(fault: Fault) -> Fault:
    """The notice file is the same for all runs of a folder; here a notice is a signal."""
    return fault.model_copy(update={"way": "SIGTERM"}) if fault.kind == "notice" else fault


def hangs(folder: Path, *, hanging: int, slow: int, clean: int, seed: int) -> dict[str, Any]:
    """Whether the worker that hangs is named, and nobody else ever."""
    suite = Schedules(folder, hang_timeout=3.0)
    shape = Shape(4, STEPS, SAVE_EVERY, EVALUATE_EVERY)
    right, wrong, seconds = Counter[str](), list[Any](), list[float]()
    for number in range(1, hanging + 1):
        (fault,) = schedule_of(shape, ["hang"], count=number, seed=seed)[-1:]
        ended = suite.run([4], [fault])
        named = [tuple(one["rank"] for one in e["blamed"]) for e in ended.told if e["event"] == "hang"]
        (hit,) = ended.places.hits()
        seconds += [event["time"] - hit.time for event in ended.told if event["event"] == "hang"][:1]
        if named == [(fault.rank,)]:
            right[fault.way] += 1
        else:
            wrong.append([fault.sentence, named])
        print(number, dict(right), wrong[-1:], file=sys.stderr, flush=True)
    named_without = []
    for number in range(1, slow + clean + 1):
        faults = schedule_of(shape, ["slow"], count=number, seed=seed)[-1:] if number <= slow else []
        ended = suite.run([4], faults)
        named_without += [[number, event["blamed"]] for event in ended.told if event["event"] == "hang"]
        if number % 10 == 0:
            print(number, named_without, file=sys.stderr, flush=True)
    return {
        "hangs": hanging,
        "right": right.total(),
        "right by way": dict(right),
        "wrong": wrong,
        "median seconds until named": round(sorted(seconds)[len(seconds) // 2], 2) if seconds else None,
        "longest": round(max(seconds), 2) if seconds else None,
        "slow": slow,
        "clean": clean,
        "named without a hang": named_without,
    }


def main() -> int:
    """Run what is asked for, print it as JSON, and fail where something did not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--schedules", type=int, default=0)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--hangs", type=int, default=0)
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--clean", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.schedules:
        summary = schedules(folder, options.schedules, options.seed, options.first)
        is_whole = not summary["faults"]
    else:
        summary = hangs(
            folder, hanging=options.hangs, slow=options.slow, clean=options.clean, seed=options.seed
        )
        is_whole = not summary["wrong"] and not summary["named without a hang"]
    print(json.dumps(summary))
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
