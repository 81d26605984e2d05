#!/usr/bin/env python3
"""What beats and timing cost a training step.

    python benchmarks/timing_overhead.py [--rounds 15] [--step-ms 10] [--json]

Two gloo workers take the same DDP steps, in turn as the loop takes them, with its meter and its beats, and without both: rounds of
either kind follow each other in one process, so that what else the machine does meets both alike. What is told is the median
over rounds of the difference of a pair, as a share of the step; the step's size is chosen so that it takes about as long as
asked. Then each part alone, in microseconds of the processor: that does not change with what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from orchestrator.recovery.beats import Heart
from orchestrator.telemetry.meter import HostClock, Meter

STEPS = 40
WIDTH = 256


def model_of(blocks: int) -> torch.nn.Module:
    """Blocks of equal size."""
    layers = [torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()) for _ in range(blocks)]
    return torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers))


def step_bare(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
    """Forward, backward, update."""
    model(batch).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


class Timed:
    """The same with all that the loop and the worker do to time and to beat."""

    def __init__(self) -> None:
        self.meter, self.heart = Meter(HostClock(), reduces_last=True), Heart()
        self.heart.begins(1)

    def step(self, number: int, model: Any, optimizer: Any, batch: torch.Tensor) -> None:
        """As in ``loop.train``; the beats as in ``recovery.beats.beating`` and ``surroundings.RankSurroundings``."""
        meter, heart = self.meter, self.heart
        with meter.part("data_wait"):
            heart.passes_to_step(number)
            heart.passes(f"the forward and backward pass of step {number}")
        with meter.part("forward_backward"):
            with meter.forward():
                loss = model(batch).square().mean()
            with meter.backward(loss):
                loss.backward()
        with meter.part("checkpoint"):
            heart.passes("an update")
        with meter.part("optimizer"):
            optimizer.step()
            optimizer.zero_grad()
        heart.has_taken(number)
        heart.catches_up()


def timed(take: Callable[[int], None]) -> float:
    """Seconds a step."""
    dist.barrier()
    began = time.perf_counter()
    for number in range(STEPS):
        take(number)
    return (time.perf_counter() - began) / STEPS


def of_size(batch: torch.Tensor, step_ms: float) -> tuple[int, torch.nn.Module, torch.optim.Optimizer]:
    """The fewest blocks, by doubling, whose step takes so long on the slower worker; and what is trained."""
    blocks = 4
    while True:
        model = model_of(blocks)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        take = partial(step_bare, model, optimizer, batch)
        seconds = torch.tensor(min(timed(lambda _, take=take: take()) for _ in range(3)))  # type: ignore[misc]
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        if 1e3 * seconds.item() >= step_ms or blocks >= 256:
            return blocks, model, optimizer
        blocks *= 2


def work(rank: int, port: int, rounds: int, step_ms: float, found: Any) -> None:
    """One worker."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    batch = torch.randn(32, WIDTH)
    blocks, model, optimizer = of_size(batch, step_ms)
    with_timing = Timed()
    pairs = []
    for _ in range(rounds):
        bare = timed(lambda _: step_bare(model, optimizer, batch))
        both = timed(lambda number: with_timing.step(number, model, optimizer, batch))
        with_timing.meter.read()
        pairs.append((bare, both))
    if rank == 0:
        found.update(pairs=pairs, blocks=blocks, alone=alone())


def alone(times: int = 5000) -> float:
    """Processor seconds of a step's timing and beats, around nothing but the backward pass of a single number, which is taken off."""
    timing = Timed()
    timing.meter._waits_last = True
    weight = torch.ones((), requires_grad=True)

    def bare(_: int) -> None:
        (weight * 1.0).backward()

    def with_all(number: int) -> None:
        meter, heart = timing.meter, timing.heart
        with meter.part("data_wait"):
            heart.passes_to_step(number)
            heart.passes(f"the forward and backward pass of step {number}")
        with meter.part("forward_backward"):
            with meter.forward():
                loss = weight * 1.0
            with meter.backward(loss):
                loss.backward()
        with meter.part("checkpoint"):
            heart.passes("an update")
        with meter.part("optimizer"):
            pass
        heart.has_taken(number)
        heart.catches_up()

    def processor_seconds(take: Callable[[int], None]) -> float:
        began = time.process_time()
        for number in range(times):
            take(number)
        timing.meter.read()
        return (time.process_time() - began) / times

    pairs = [(processor_seconds(bare), processor_seconds(with_all)) for _ in range(7)]
    return statistics.median(both - one for one, both in pairs)


def main() -> int:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--json", action="store_true", help="JSON for programs")
    options = parser.parse_args()
    with mp.Manager() as manager:
        found = manager.dict()
        port = 20_000 + os.getpid() % 20_000
        mp.spawn(work, (port, options.rounds, options.step_ms, found), nprocs=2)
        pairs, single, blocks = list(found["pairs"]), found["alone"], found["blocks"]
    step = statistics.median(bare for bare, _ in pairs)
    paired = statistics.median((both - bare) / bare for bare, both in pairs)
    told = {
        "step_ms": 1e3 * step,
        "blocks": blocks,
        "paired_share": paired,
        "alone_us": 1e6 * single,
        "alone_share_of_10_ms": single / 10e-3,
    }
    if options.json:
        print(json.dumps(told, indent=2))
        return 0
    print(
        f"a step of {told['step_ms']:.1f} ms ({blocks} blocks): {paired:+.2%} with beats and timing, median of {len(pairs)} pairs"
    )
    print(
        f"beats and timing alone: {told['alone_us']:.0f} us of the processor a step, {single / 10e-3:.2%} of 10 ms"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
