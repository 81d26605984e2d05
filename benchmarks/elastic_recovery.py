"""How long a group of changing size takes from the loss of a node to the next new step, beside its cold start and beside stock Ray
Train's elastic policy on the same nodes: ``python benchmarks/elastic_recovery.py [--rounds 3]``.

Real Ray nodes on this machine, one worker each. A node's processes are killed without a word while two workers train the same small
network with the same checkpoints; the other worker goes on alone. Ours and theirs take turns, so that whatever else the machine does
meets both; what counts are the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_nodes import Nodes, begun_at, driver_of, endless, output_of, plan_of, step_of
from stock_ray_train import fit, logged, restored, save

BATCH, WIDTH, CHECKPOINT_EVERY, LOG_EVERY = 24, 64, 500, 10


@dataclass(frozen=True)
class Times:
    """Seconds of one run."""

    start: float
    """From the driver's process to the first logged step."""
    recovery: float
    """From the loss of a node to the first step beyond those before it."""


def ours(folder: Path) -> list[str]:
    """A driver's command."""
    sections = {
        "scaling": {"workers": {"min": 1, "max": 2}},
        "checkpoint": {"every_steps": CHECKPOINT_EVERY},
    }
    return driver_of(plan_of(folder, endless("elastic", BATCH, WIDTH, **sections)))


def stock(folder: Path) -> list[str]:
    """This file, as the driver of Ray Train."""
    return [sys.executable, __file__, "--stock", str(folder)]


def measured(nodes: Nodes, command: list[str], train_seconds: float) -> Times:
    """Start a driver, take a node away once it has trained for so long, and wait for new steps."""
    nodes.add()
    node = nodes.add()
    began, first, lost, reached, is_back = time.monotonic(), 0.0, 0.0, 0, False
    with output_of(command, nodes.environment) as lines:
        for line in lines:
            # until then steps of the group before are told
            is_back = is_back or (lost > 0 and begun_at(line) is not None)
            step = step_of(line)
            if step is None:
                continue
            first = first or time.monotonic()
            if not lost and step > CHECKPOINT_EVERY and time.monotonic() - first > train_seconds:
                nodes.take_away(node)
                lost = time.monotonic()
            elif is_back and step > reached:
                return Times(first - began, time.monotonic() - lost)
            reached = max(reached, step)
    raise SystemExit("the run ended before it could be measured")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--train-seconds", type=float, default=30.0, help="from the first step to the loss of the node"
    )
    parser.add_argument("--stock", metavar="FOLDER", help="be the driver of stock Ray Train")
    options = parser.parse_args()
    if options.stock:
        fit(steps_of_a_worker, {}, Path(options.stock), (1, 2), max_failures=3)
        return
    found: dict[str, list[Times]] = {"trainwright": [], "Ray Train": []}
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.rounds):
            for name, prepare in (("trainwright", ours), ("Ray Train", stock)):
                folder = Path(place, f"{prepare.__name__}-{number}")
                folder.mkdir()
                with Nodes() as nodes:
                    times = measured(nodes, prepare(folder), options.train_seconds)
                found[name].append(times)
                print(
                    f"{name:<12} cold start {times.start:6.1f} s, loss to next new step {times.recovery:6.1f} s",
                    flush=True,
                )
    for name, several in found.items():
        start, recovery = (
            statistics.median(getattr(one, part) for one in several) for part in ("start", "recovery")
        )
        print(f"| {name} | {start:.1f} | {recovery:.1f} | {recovery / start:.2f} |")


# -- stock Ray Train -----------------------------------------------------------------------------------------


def steps_of_a_worker(config: dict[str, Any]) -> None:
    """On each of Ray Train's workers: the same network on the same data, as Ray's documentation shows it."""
    import torch
    from ray import train
    from ray.train.torch import prepare_model
    from sklearn.datasets import load_iris
    from torch import nn
    from torch.nn import functional as F

    features, labels = (torch.as_tensor(one) for one in load_iris(return_X_y=True))
    bare = nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))
    model = prepare_model(bare)
    optimizer = torch.optim.AdamW(model.parameters())
    step = restored(bare, optimizer)
    share = BATCH // train.get_context().get_world_size()
    while True:
        rows = torch.randint(len(labels), (share,))
        loss = F.cross_entropy(model(features[rows].float()), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % LOG_EVERY == 0:
            logged(step)
        if step % CHECKPOINT_EVERY == 0:
            save(bare, optimizer, step, float(loss.detach()))


if __name__ == "__main__":
    main()
