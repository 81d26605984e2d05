#!/usr/bin/env python3
"""What ``why`` says that a change would save, beside what the same job takes with that change.

    python benchmarks/why_predictions.py [--case input|checkpoint|start] [--json]

For each case a job is run that is bound by it, the one field that ``why`` names is set to what it says, and the job is run again.
The saving is that of all seconds, and of those of the loop alone: from the first step on, without the start, whose stages
differ from run to run on a busy machine. A start that comes once for twice the steps is counted by half. What is slow sleeps, a
transform and a model, so that cores are free for a second reader, as ``why`` asks for.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import sdk
from orchestrator.advice import Advice, Planned, advice_of
from orchestrator.ledger import END, QUEUE, START, Ledger

_BASE = {
    "name": "why",
    "model": {"family": "cnn", "size": "debug"},
    "data": {"train": {"kind": "builtin", "name": "digits"}},
    "training": {"max_steps": 400, "global_batch_size": 32, "log_every": 20},
    "checkpoint": {"every_steps": 10_000, "keep": {"best": 0}},
    "tracking": {"kind": "none"},
}
_SLEEPERS = """
import time

from torch import nn

from orchestrator.data.transforms.augmentation import ResizeKind

resize = ResizeKind.apply


def slowly(*arguments):
    time.sleep(0.0005 * len(arguments[-1]["image"]))
    return resize(*arguments)


ResizeKind.apply = slowly


class Model(nn.Linear):
    def __init__(self, seconds):
        super().__init__(64 * 64, 10)
        self.seconds = seconds

    def forward(self, image):
        time.sleep(self.seconds)
        return super().forward(image.flatten(1))
"""
"""Each sample takes the reader half a millisecond, each step 20. Samples are so large that a chunk of them holds a few steps."""
CASES: Mapping[str, Mapping[str, Any]] = {
    "input": {
        "model": {"family": "custom", "factory": "sleepers:Model", "config": {"seconds": 0.02}},
        "objective": {"kind": "classification"},
        "data": {
            "train": {"kind": "builtin", "name": "digits"},
            "transforms": [{"kind": "resize", "tensor": "image", "height": 64, "width": 64}],
            "reader": "worker",
            "reader_tasks": 1,
        },
        "training": {"max_steps": 600, "global_batch_size": 128, "log_every": 20},
    },
    "checkpoint": {"every_steps": 10_000, "keep": {"best": 0}},
    "tracking": {"kind": "none"},
}
CASES: Mapping[str, Mapping[str, Any]] = {
    "input": {
        "data": {
            "train": {"kind": "builtin", "name": "digits"},
            "transforms": [
                {"kind": "resize", "tensor": "image", "height": 160, "width": 160},
                {"kind": "resize", "tensor": "image", "height": 8, "width": 8},
            ],
            "reader": "worker",
            "reader_tasks": 1,
        },
        "training": {"max_steps": 600, "global_batch_size": 128, "log_every": 20},
    },
    "checkpoint": {
        "model": {"family": "cnn"},
        "checkpoint": {"every_steps": 1, "asynchronous": False, "keep": {"best": 0}},
        "training": {"max_steps": 600, "global_batch_size": 32, "log_every": 20},
    },
    "start": {"training": {"max_steps": 200, "global_batch_size": 32, "log_every": 20}},
}


@dataclass(frozen=True)
class Row:
    """One case."""

    case: str
    bound: str
    change: str
    predicted: float
    """Share of the first run's wall time."""
    came: float
    """The same, of what the second run took less."""
    came_in_loop: float
    """Of what its loop took less alone, of the first run's wall time."""


def run(job: Mapping[str, Any], folder: Path, overrides: tuple[str, ...] = ()) -> tuple[Ledger, Advice]:
    """One run to its end."""
    file = folder / "job.yaml"
    file.write_text(json.dumps(job))
    handle = sdk.submit(file, overrides=overrides)
    handle.wait()
    ledger, plan = handle.ledger(), handle.plan()
    return ledger, advice_of(ledger, Planned.of(plan))


def loop_seconds(ledger: Ledger) -> float:
    """Without what comes before the first step, and after the last one."""
    return sum(
        spent
        for part, spent in ledger.seconds.items()
        if not part.startswith(START) and part not in (QUEUE, END)
    )


def of_case(name: str, folder: Path) -> Row:
    """Run, change, run."""
    job = {**_BASE, **CASES[name]}
    before, advice = run(job, folder)
    field, _, value = advice.change.partition(": ")
    if advice.bound != name:
        raise SystemExit(f"{name}: why says {advice.bound}: {advice.sentence}; {before.seconds}")
    after, _ = run(job, folder, (f"{field}={value.split()[0]}",))
    runs = 2 if name == "start" else 1
    return Row(
        name,
        advice.bound,
        advice.change,
        advice.gain / before.wall,
        1 - after.wall / runs / before.wall,
        (loop_seconds(before) - loop_seconds(after) / runs) / before.wall,
    )


def main() -> int:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--json", action="store_true", help="JSON for programs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="why-") as folder:
        os.environ["TRAINWRIGHT_HOME"] = folder
        Path(folder, "sleepers.py").write_text(_SLEEPERS)
        rows = [of_case(name, Path(folder)) for name in options.case or CASES]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print("| bound by | change | predicted | came | in the loop |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.bound} | `{row.change}` | {row.predicted:.0%} | {row.came:.0%} | {row.came_in_loop:.0%} |"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
